"""Ansible as the mechanism: a fresh folder a run, `ansible-playbook` as a subprocess, events as JSON lines.

`rundir` writes what a run reads, `playbook` runs it and ends it, `events` turns lines into values.
"""
