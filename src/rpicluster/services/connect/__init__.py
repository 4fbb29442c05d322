"""The thin Spark Connect client: one channel, one session, statements in and Arrow out.

`session.ConnectSession` is the door; `connection.Connection` says where it stands; `columns` turns
results into raw buffers for R; `upload` brings tables the other way. pandas and pyspark are never
imported: they cost more than a second, and only the wire format is needed.
"""
