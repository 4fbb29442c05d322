"""The local engine: a whole cluster of separate JVMs on this machine's loopback addresses."""
