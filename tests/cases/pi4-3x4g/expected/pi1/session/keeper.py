# The keeper's source: the caller passes it in.
