"""Who is on this network: the kernel's neighbour table, and multicast DNS.

Nothing is scanned but the last network of a node that is lost, see `sweep`.
"""
