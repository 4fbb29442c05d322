"""Every error a user can meet.

RpiclusterError
├── SpecError          cluster.yml is not valid                       exit 2
├── UsageError         the command line asks for something impossible  exit 2
├── SizingRefused      the nodes are too small for what is promised    exit 2
├── RuntimeFetchError  the runtime could not be fetched or verified    exit 1
├── LocalEngineError   a daemon on this machine does not do its work   exit 1
├── RackError          a virtual Pi, or what it stands on, fails       exit 1
├── ServiceError       a daemon answered with an error                 exit 1
│   ├── RemoteError    a Hadoop daemon refused, with its own exception  exit 1
│   ├── SqlError       Spark refused or failed a statement             exit 1
│   └── SessionLost    Spark no longer knows this session              exit 1
├── RPackageError      an R package for the nodes cannot be had        exit 1
├── SparklyrMissing    this machine has no sparklyr to take the gateway from  exit 1
├── SparklyrUnusable   its sparklyr is too old or damaged              exit 1
├── TransferError      a file could not be moved; nothing half is left  exit 1
├── LockHeld           somebody else is changing this cluster          exit 1
├── HostKeyRefused     a node's host key is not the known one: hard stop  exit 1
├── NodeAmbiguous      two machines claim to be one node: hard stop   exit 1
├── SudoRefused        root is needed on a node, and sudo says no      exit 1
├── RemoteCommandFailed  a command on a node ended badly              exit 1
│   └── RemotePythonMissing  a node has no python3                     exit 1
├── AnsibleFailed      a step on a node failed, or Ansible itself did  exit 1
├── FactsIncomplete    a node answered, but not what sizing needs      exit 1
├── Unreachable        a node or a daemon does not answer              exit 4
│   ├── NodeUnreachable  ssh gets no answer from a node                exit 4
│   └── LoginRefused   a node answers ssh, and does not let us in      exit 4
├── PartlyApplied      some nodes were changed, others were not        exit 5
└── Unhealthy          everything answered, and something is wrong     exit 6

Each says what, where and why in `message`, and what to type next in `hint`.
"""


class RpiclusterError(Exception):
    """Base of all errors that are meant for the user; never shown with a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep `message` (what, where, cause) and `hint` (a command or change that mends it)."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class SpecError(RpiclusterError):
    """cluster.yml is not valid; the message starts with `file:line:col: path:`."""

    exit_code = 2


class UsageError(RpiclusterError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class SizingRefused(RpiclusterError):
    """The nodes cannot hold what a cluster must promise; names the node and the MiB short."""

    exit_code = 2

    def __init__(self, message: str, *, node: str, short_mib: int, hint: str | None = None) -> None:
        """Keep which `node` is too small and by how many MiB."""
        super().__init__(message, hint=hint)
        self.node = node
        self.short_mib = short_mib


class RuntimeFetchError(RpiclusterError):
    """The runtime could not be fetched, verified or stored; nothing was installed."""


class RPackageError(RpiclusterError):
    """An R package for the nodes is not offered, does not fit, or could not be fetched or verified."""


class SparklyrMissing(RpiclusterError):
    """No R on this machine, or no sparklyr in R, whose jar is the gateway of sessions."""


class SparklyrUnusable(RpiclusterError):
    """The sparklyr of this machine is too old for the cluster's Spark, or damaged."""


class LocalEngineError(RpiclusterError):
    """A daemon on this machine could not be started, stopped or found."""


class RackError(RpiclusterError):
    """A virtual Pi, its network or its base image could not be made, booted or removed."""


class ServiceError(RpiclusterError):
    """A daemon answered, and the answer is an error."""


class RemoteError(ServiceError):
    """A Hadoop daemon refused, and said why with an exception of its own."""

    def __init__(
        self, message: str, *, daemon: str, status: int, exception: str, said: str, hint: str | None = None
    ) -> None:
        """Keep the HTTP `status`, the Java `exception`'s simple name ("" if none), what the daemon `said`."""
        super().__init__(message, hint=hint)
        self.daemon = daemon
        self.status = status
        self.exception = exception
        self.said = said


class TransferError(RpiclusterError):
    """A file could not be moved to or from HDFS; nothing stands under its final name that is not whole."""


class SqlError(ServiceError):
    """Spark refused or failed a statement; the message is Spark's own, without the stack."""

    def __init__(
        self, message: str, *, condition: str = "", sqlstate: str = "", hint: str | None = None
    ) -> None:
        """Keep Spark's `condition` (such as `TABLE_OR_VIEW_NOT_FOUND`) and `sqlstate`, "" for none."""
        super().__init__(message, hint=hint)
        self.condition = condition
        self.sqlstate = sqlstate


class SessionLost(ServiceError):
    """Spark no longer knows this session: its driver was restarted, or it was idle for too long."""


class LockHeld(RpiclusterError):
    """Another command is changing this cluster; the message names the holder."""


class Unreachable(RpiclusterError):
    """A node or a daemon does not answer within its deadline."""

    exit_code = 4


class NodeUnreachable(Unreachable):
    """OpenSSH reaches no shell on a node; `cause` is a value of `nodes.ssh.failures.Cause`."""

    def __init__(self, message: str, *, node: str, cause: str, hint: str | None = None) -> None:
        """Keep which `node` it is and the class of its failure."""
        super().__init__(message, hint=hint)
        self.node = node
        self.cause = cause


class LoginRefused(NodeUnreachable):
    """A node answers SSH, and does not let this user in."""


class HostKeyRefused(RpiclusterError):
    """A node's host key is not the known one, or not known at all; nothing may go on by itself."""

    def __init__(self, message: str, *, node: str, cause: str, hint: str | None = None) -> None:
        """Keep which `node` it is and the class of its failure."""
        super().__init__(message, hint=hint)
        self.node = node
        self.cause = cause


class NodeAmbiguous(RpiclusterError):
    """Several machines have a node's host key and machine-id, or one machine has those of several nodes."""

    def __init__(self, message: str, *, node: str, hint: str | None = None) -> None:
        """Keep which `node` it is."""
        super().__init__(message, hint=hint)
        self.node = node


class SudoRefused(RpiclusterError):
    """Root is needed on a node, and sudo wants a password, refuses it, or is not there."""

    def __init__(self, message: str, *, node: str, needs_password: bool, hint: str | None = None) -> None:
        """Keep which `node` it is, and whether asking the user for a (new) password can mend it."""
        super().__init__(message, hint=hint)
        self.node = node
        self.needs_password = needs_password


class RemoteCommandFailed(RpiclusterError):
    """A command on a node ended with a status that is not 0."""

    def __init__(self, message: str, *, node: str, status: int, hint: str | None = None) -> None:
        """Keep which `node` it is and the command's exit `status`."""
        super().__init__(message, hint=hint)
        self.node = node
        self.status = status


class RemotePythonMissing(RemoteCommandFailed):
    """A node has no python3, which Ansible and the session keeper need."""


class AnsibleFailed(RpiclusterError):
    """A step of a playbook failed on a node; with no node, Ansible itself did not run."""

    def __init__(self, message: str, *, node: str, task: str, hint: str | None = None) -> None:
        """Keep which `node` and which `task` it is."""
        super().__init__(message, hint=hint)
        self.node = node
        self.task = task


class FactsIncomplete(RpiclusterError):
    """A node answered, but its answer lacks what must be known to size it."""


class PartlyApplied(RpiclusterError):
    """Some nodes were changed and others were not; `up` again continues."""

    exit_code = 5


class Unhealthy(RpiclusterError):
    """Everything answered, and something is wrong."""

    exit_code = 6
