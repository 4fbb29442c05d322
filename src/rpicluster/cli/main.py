"""The `rpicluster` command: the list of commands, and what happens to errors."""

import importlib
import signal
import traceback

import click

from rpicluster import __version__
from rpicluster.cli.console import console
from rpicluster.errors import RpiclusterError

INTERRUPTED = 130

# name -> (module under rpicluster.cli, one line of help); modules are imported when their command runs
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("design", "Write a cluster.yml to start from"),
    "discover": ("discover", "List likely Raspberry Pis on this network"),
    "plan": ("design", "Show what `up` would do, byte for byte"),
    "up": ("lifecycle", "Make the cluster what cluster.yml says, and wait until it works"),
    "adopt": ("adopt", "Use a cluster from this machine, too, that another one set up"),
    "status": ("lifecycle", "Say what is alive, and name the first thing that is not"),
    "doctor": ("doctor", "Say what is wrong with nodes and daemons, why, and how to mend it"),
    "stop": ("lifecycle", "Stop every daemon; data stays"),
    "start": ("lifecycle", "Start a stopped cluster, cleaning up after a crash"),
    "destroy": ("lifecycle", "Remove a cluster with all its data, and prove that nothing is left"),
    "check": ("nodes", "Look at every node, and say whether it can become one of the cluster"),
    "ssh": ("nodes", "Log in on a node, or run a command there"),
    "connect": ("doors", "Open the way to the session and keep it, print the lines that connect R or Python"),
    "disconnect": ("tunnel", "Close what `connect` opened"),
    "sql": ("sql", "Run a SQL statement on the cluster"),
    "tables": ("sql", "List persistent tables, or describe one"),
    "put": ("files", "Copy a file to HDFS, or into a table"),
    "get": ("files", "Copy a file from HDFS"),
    "ls": ("files", "List files in HDFS"),
    "rm": ("files", "Move files in HDFS to the trash"),
    "df": ("files", "Show the space in HDFS, after replication"),
    "run": ("run", "Run an R or Python script on the manager; the laptop may leave"),
    "jobs": ("jobs", "List, explain, attach to and stop jobs and runs"),
    "demo": ("demo", "Run R on a real cluster on this machine, and check every answer"),
    "export": ("export", "Write the playbooks, inventory and bytes for Ansible to run without rpicluster"),
    "vm": ("vm", "Write a Vagrantfile for virtual machines that become a cluster"),
    "rack": ("rack", "Boot virtual Pis on this Linux machine, and take them down again"),
    "project": ("project", "Write an R project for VS Code and RStudio"),
    "r-install": ("doors", "Put the R package into your R library"),
    "runtime": ("runtime", "Show, fetch, verify or remove the software that nodes run"),
    "version": ("doors", "Print versions and where this installation stands"),
}

EXIT_CODES = """\
0 ok · 1 failed · 2 usage or invalid spec · 3 changes pending (plan --exit-code) · 4 unreachable ·
5 partly applied · 6 unhealthy · 130 interrupted"""


class Commands(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all commands, in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"rpicluster.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, "--version", "-V", message="%(version)s")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and data.")
@click.option("--no-progress", is_flag=True, help="Draw no progress ($RPICLUSTER_NO_PROGRESS does the same).")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(quiet: bool, no_progress: bool, debug: bool) -> None:
    """Real Spark on real YARN for R on your laptop: on this machine, or on a shelf of Pis."""
    console.quiet, console.debug = quiet, debug
    console.progress_wanted = console.progress_wanted and not no_progress


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; the only place where errors become text."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was begun is cleaned up
    try:
        result = cli.main(arguments, prog_name="rpicluster", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        console.say("\ninterrupted")
        return INTERRUPTED
    except RpiclusterError as error:
        if console.debug:
            traceback.print_exc()
        console.error(error)
        return error.exit_code
    except OSError as error:
        if console.debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        console.error(RpiclusterError(f"{where}{error.strerror or error}"))
        return 1
