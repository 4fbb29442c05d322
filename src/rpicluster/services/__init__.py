"""Talking to daemons: WebHDFS, YARN's and Spark's REST, Spark Connect."""
