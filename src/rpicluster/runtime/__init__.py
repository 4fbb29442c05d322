"""The software that nodes run: locked, fetched, verified, pruned and stored by content hash."""
