"""Who is on this network: the kernel's neighbour table, and multicast DNS. Nothing is scanned."""
