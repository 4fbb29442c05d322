"""Reaching machines: the Protocol of a place, and the local engine that implements it on loopback."""
