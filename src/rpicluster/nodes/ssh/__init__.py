"""Nodes behind SSH: reached with the system's OpenSSH, observed in one round trip each.

`openssh` runs commands, `failures` explains what ssh says, `facts.sh` collects on the node, the
`read_*` modules turn its answer into facts, and `observe` does it for all nodes at once.
"""
