"""Why a job failed, in plain words: the texts of Hadoop and Spark, translated. Pure."""

import re
from dataclasses import dataclass

_EVIDENCE_CHARS_MAX = 300
# Daemons and drivers mention missing classes and refused connections in passing; failures are WARN or worse.
_CHATTER = re.compile(r"^.{0,40}\b(?:INFO|DEBUG|TRACE)\b")


@dataclass(frozen=True)
class Cause:
    """What went wrong, the line that shows it, and what to do; `name` is for programs, e.g. `java-heap`."""

    name: str
    title: str
    evidence: str
    fix: str


@dataclass(frozen=True)
class _Rule:
    """`pattern` is looked for in every line."""

    name: str
    pattern: re.Pattern[str]
    title: str
    fix: str


def _rule(name: str, pattern: str, title: str, fix: str) -> _Rule:
    return _Rule(name, re.compile(pattern), title, fix)


# In order of how much they explain: a missing file explains why a master exited, never the other way round.
# The texts are Hadoop 3.5.0's and Spark 4.1.4's; tests/cases/causes holds them, recorded where possible.
_RULES: tuple[_Rule, ...] = (
    _rule(
        "killed-by-user",
        r"was killed by user \S+|Application killed by user",
        "Somebody killed it",
        "run it again; nothing is broken",
    ),
    _rule(
        "container-too-large",
        r"InvalidResourceRequestException"
        r"|Required (?:executor|AM) memory .* is above the max threshold"
        r"|Cannot allocate containers as requested resource is greater than maximum",
        "A container was asked for that is larger than any node can give",
        "ask for less memory or fewer cores per executor; `rpicluster plan --explain` shows what fits",
    ),
    _rule(
        "am-limit",
        r"Queue's AM resource limit exceeded|User's AM resource limit exceeded",
        "The job waits: applications that run already use all the memory set aside for masters",
        "wait for one to end, or end one: `rpicluster jobs list`, `rpicluster jobs kill ID`",
    ),
    _rule(
        "no-nodes",
        r"Skipping AM assignment as cluster resource is empty"
        r"|Initial job has not accepted any resources",
        "The job waits: no node has room for it",
        "`rpicluster status` shows whether workers are down, `rpicluster jobs list` who holds their memory",
    ),
    _rule(
        "java-heap",
        r"java\.lang\.OutOfMemoryError: (?:Java heap space|GC overhead limit exceeded|Requested array size)"
        r"|Possible causes: OutOfMemoryError|SparkOutOfMemoryError",
        "A Java process ran out of its heap",
        "collect fewer rows, use more partitions, or give the executors more memory",
    ),
    _rule(
        "memory-limit",
        r"(?:is )?running (?:\S+ )?beyond (?:the )?'?(?:physical|PHYSICAL|virtual|VIRTUAL)'? memory limit"
        r"|Container killed by YARN for exceeding (?:physical )?memory limits"
        r"|exitCode: -10[34]\b",
        "A container used more memory than it was given, so YARN killed it",
        "use more partitions, or raise spark.executor.memoryOverhead (Python and R run in it)",
    ),
    _rule(
        "node-memory",
        r"Out of memory: Kill(?:ed)? process|oom-kill|Memory cgroup out of memory",
        "The node itself ran out of memory, and its kernel killed a process",
        "give the node a larger `reserve` in cluster.yml, then `rpicluster up`",
    ),
    _rule(
        "safe-mode",
        r"SafeModeException|Name ?node is in safe mode|NameNode is in safe mode",
        "HDFS takes no changes: the NameNode is in safe mode",
        "it leaves it by itself once enough DataNodes report; `rpicluster status` shows which are missing",
    ),
    _rule(
        "disk-full",
        r"No space left on device|DiskOutOfSpaceException|DSQuotaExceededException"
        r"|could only be written to 0 of the \d+ minReplication nodes",
        "No room to write: a disk is full, or no DataNode can take another block",
        "`rpicluster df` shows HDFS; delete files, the trash too: `rpicluster rm -r --skip-trash .Trash`",
    ),
    _rule(
        "unhealthy-node",
        r"(?:local|log)-dirs (?:are bad|usable space is below|have errors)"
        r"|Most of the disks failed|exitCode: -101\b",
        "A node takes no containers: its disk is too full or broken",
        "free space on that node; `rpicluster status` names it",
    ),
    _rule(
        "missing-block",
        r"BlockMissingException|Could not obtain block|MissingBlocksException",
        "A file's data is gone: no living DataNode holds one of its blocks",
        "start the missing workers (`rpicluster status`); if a disk is lost, put the file again",
    ),
    _rule(
        "hdfs-permission",
        r"AccessControlException|Permission denied: user=",
        "HDFS refused: that user may not do this there",
        "`rpicluster ls` shows whose it is; write below your own /user/NAME",
    ),
    _rule(
        "missing-file",
        r"PATH_NOT_FOUND|(?:Path|Input path|File) does not exist: |java\.io\.FileNotFoundException",
        "A file that the job needs is not there",
        "check the path with `rpicluster ls`; for a file of the session itself: `rpicluster up`",
    ),
    _rule(
        "python-version",
        r"PYTHON_VERSION_MISMATCH|Python in worker has different version",
        "Python on the nodes and Python of the driver have different minor versions",
        "run the UDF from a Python with the nodes' minor version",
    ),
    _rule(
        "no-java",
        r"(?:bin/)?java: (?:No such file or directory|not found|command not found|Permission denied)"
        r"|JAVA_HOME is not set|UnsupportedClassVersionError",
        "A node has no Java where the cluster expects it, or a too old one",
        "`rpicluster up` installs it; `rpicluster status` names the node",
    ),
    _rule(
        "no-python",
        r"Cannot run program \"[^\"]*python[^\"]*\"|python3?: (?:No such file|command not found)",
        "A node has no Python where the session expects it",
        "install python3 on the node, then `rpicluster up`",
    ),
    _rule(
        "missing-class",
        r"ClassNotFoundException: \S+|NoClassDefFoundError: \S+"
        r"|Could not find or load main class \S+",
        "A Java class is missing: a jar is not on the nodes",
        "`rpicluster up` restores the runtime; a package of your own goes into `spark:` of cluster.yml",
    ),
    _rule(
        "lost-node",
        r"Container released on a \*lost\* node|exitCode: -100\b|Node .* was lost|Timed out after \d+ secs",
        "A node disappeared while the job ran on it",
        "`rpicluster status` shows which; check its power and network, then run the job again",
    ),
    _rule(
        "executor-lost",
        r"ExecutorLostFailure|Lost executor \d+ on|ExecutorDeadException|Max number of executor failures",
        "An executor died in the middle of its work",
        "most often memory: use more partitions, or give the executors more",
    ),
    _rule(
        "connection-refused",
        r"failed on connection exception: java\.net\.ConnectException"
        r"|Retrying connect to server|ConnectException: (?:Call From .* failed|Connection refused)"
        r"|Failed to connect to /?[\w.:-]+",
        "A daemon did not answer: its port is closed",
        "`rpicluster status` shows which daemon is down; `rpicluster start` starts it",
    ),
    _rule(
        "killed",
        r"(?:exitCode:|[Ee]xit code(?: is)?|exit code) ?(?:137|143)\b|Killed by external signal",
        "A process was killed from outside, which most often is the kernel short of memory",
        "give the node that ran it a larger `reserve` in cluster.yml, then `rpicluster up`",
    ),
    _rule(
        "master-lost",
        r"AM Container for \S+ exited with|ApplicationMaster for attempt \S+ timed out"
        r"|failed \d+ times due to AM|ApplicationMaster .* exited with"
        r"|Shutdown hook called before final status was reported",
        "The application's master ended before its work, as often as YARN allows",
        "the logs below hold the reason: look for the first exception",
    ),
)

# Name, title and fix of all of them, for the reference page.
CAUSES = tuple((rule.name, rule.title, rule.fix) for rule in _RULES)


def explain(diagnostics: str, logs: str = "") -> Cause | None:
    """Return the likeliest cause of a failure, None when no known text is found.

    `diagnostics` is YARN's or a driver's own account, `logs` the containers' output. A rule that explains
    more wins over one that explains less, wherever they are found; within one rule the diagnostics win.
    """
    texts = [[line for line in text.splitlines() if not _CHATTER.match(line)] for text in (diagnostics, logs)]
    for rule in _RULES:
        for lines in texts:
            for line in lines:
                if rule.pattern.search(line):
                    return Cause(rule.name, rule.title, _shortened(line), rule.fix)
    return None


def _shortened(line: str) -> str:
    line = line.strip()
    return line if len(line) <= _EVIDENCE_CHARS_MAX else line[:_EVIDENCE_CHARS_MAX] + " …"
