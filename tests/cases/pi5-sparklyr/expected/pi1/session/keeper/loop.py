# The keeper's loop.py: the caller passes it in.
