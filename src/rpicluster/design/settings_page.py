"""docs/reference/settings.md: every setting with its value in one cluster, and why."""

from rpicluster.design.inputs import Inputs
from rpicluster.design.rendering import settings_of
from rpicluster.design.settings import Setting

_INTRODUCTION = """\
# Settings

<!-- written by `RPICLUSTER_REGENERATE=1 pytest tests/unit/test_settings_page.py`;
the reasons stand in src/rpicluster/design/{{hdfs,yarn,spark}}_files.py -->

Every setting that rpicluster writes, its value for one cluster, and why. Settings that are not here
keep the default of Hadoop 3.5.0 or Spark 4.1.4. Change none of these files on a node: `rpicluster up`
writes them again. What you may set yourself goes under `spark:` in `cluster.yml`; memory, cores, ports,
addresses, secrets and the catalog are refused there, with the reason. The values below are those of node
`{node}` of the cluster `{cluster}` in `tests/cases/{case}`.

## What to know before you rely on it

- **The NameNode's edits.** There is no SecondaryNameNode, which would take the memory of another daemon.
  Edits are merged into the image whenever the NameNode starts from an image older than an hour, and once a
  day by a one-shot checkpoint (`SecondaryNameNode -checkpoint force`) that the session's keeper runs on a
  local cluster. It takes as much memory as the NameNode for a few seconds. A NameNode that ran for months
  without either would start slowly and need the disk for all edits; nothing would be lost.
- **Container logs in HDFS** (`/logs`). Hadoop deletes old ones in its JobHistoryServer, which does not run
  here, so they stay until somebody removes them.
- **A restarted NodeManager** ends its containers: its recovery needs a native library that arm64 lacks.
  Spark starts the lost executors again.
- **ANSI mode is on**, as Spark 4 ships it: an integer overflow, a division by zero or `CAST('x' AS INT)` is
  an error. A session turns it off with `SET spark.sql.ansi.enabled=false`; then the last two give NULL, and
  integers wrap around.
- **The session's time zone is UTC.** Timestamps are instants and reach clients as such; only text without a
  zone, and functions such as `hour()`, depend on it. `SET TIME ZONE 'Europe/Berlin'` changes a session.
"""


def settings_page(inputs: Inputs, name: str, case: str) -> str:
    """Return the page for node `name` of the cluster in `tests/cases/CASE`."""
    page = _INTRODUCTION.format(node=name, cluster=inputs.spec.name, case=case)
    for path, settings in sorted(settings_of(inputs, name).items()):
        page += f"\n## {path}\n\n| setting | value | why |\n|---|---|---|\n"
        page += "".join(_row(entry) for entry in sorted(settings))
    return page


def _row(entry: Setting) -> str:
    return f"| `{entry.key}` | `{_cell(entry.value)}` | {_cell(entry.why)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
