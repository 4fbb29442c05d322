"""An R project for VS Code and RStudio that works with a cluster: its files, and how they get to a disk."""
