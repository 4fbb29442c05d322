"""Findings: what is wrong with a cluster, from facts alone. Pure: no I/O, no clock, no environment.

`finding` holds the words, `observation` what daemons said; one module a subject holds the kinds, each a
small function; `registry` lists all kinds and `diagnose` asks them.
"""
