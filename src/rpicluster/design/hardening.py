"""What a unit on a real node may not do; docs/explanation/on-a-node.md has the scores and the reasons.

Not here, each for a reason that was met: MemoryDenyWriteExecute= (the JVM compiles), ProcSubset=pid (hides
/proc/meminfo, which Java and YARN read), RemoveIPC= (takes shared memory away from other units of the same
user); ProtectProc=, ProtectKernelTunables= and ProtectControlGroups=, which mount /proc anew, so that units
in a container with lxcfs see the machine's memory and not their own (measured on systemd 252).
"""

# Directives that the oldest systemd we meet (245, Ubuntu 20.04) knows, in the order of systemd.exec(5).
_EVERYBODY = (
    ("ProtectSystem", "strict"),
    ("PrivateTmp", "yes"),
    ("PrivateDevices", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    # Netlink: the C library asks it which addresses the machine has.
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("RestrictNamespaces", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    ("KeyringMode", "private"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallErrorNumber", "EPERM"),
)
# A daemon runs nobody else's code, so it needs no call that changes owners, identities or priorities.
_DAEMON = (
    ("ProtectHome", "yes"),
    ("SystemCallFilter", "~@privileged @resources"),
    ("UMask", "0077"),
)
# Containers inherit all this, and run what users write: `cp -p` and a thread's priority are their business.
_NODEMANAGER = (
    ("ProtectHome", "yes"),
    ("UMask", "0077"),
)
# A person's own code, which may read that person's home. Its status file is for everybody to read.
_SESSION = (
    ("ProtectHome", "read-only"),
    ("UMask", "0022"),
)


def sandbox(unit: str) -> tuple[tuple[str, str], ...]:
    """Return the settings that confine unit `unit`, a daemon's name or a session's."""
    if unit.startswith("session-"):
        return (*_EVERYBODY, *_SESSION)
    return (*_EVERYBODY, *(_NODEMANAGER if unit == "nodemanager" else _DAEMON))
