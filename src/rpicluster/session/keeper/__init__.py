"""Keep one warm session alive: start its driver, ask it questions, replace it when it stops answering.

These files are copied to nodes and run with their system's Python, where rpicluster is not installed: they
use the standard library of Python 3.8 and one another, always by relative imports. Linux only.

Health is an answered request. A driver whose application was killed keeps its process and its open port, and
the kernel goes on accepting connections for a frozen process, so neither says anything (docs/adr/0007).
"""
