"""Observations of a running cluster, turned into findings."""
