# The keeper's __main__.py: the caller passes it in.
