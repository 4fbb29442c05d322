"""What a cluster is: the spec a user writes, the facts a node has. Pure values, no I/O."""
