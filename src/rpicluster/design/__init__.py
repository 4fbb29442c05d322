"""What a cluster should look like: sizes, every file as bytes, and what differs from what is there. Pure."""
