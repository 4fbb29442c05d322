"""The runtime, from the control machine to every node: one copy leaves it, and nodes pass it on.

`receive` runs on a node and is sent there; `send` is the control machine's side.
"""
