"""Warmstart's engine and the process around it.

`docs/architecture.md` draws the way of a read; every package below says in its own `__init__` what it does,
what it knows and what it must not know. Imports run downhill only (`tests/tidy` enforces it).
"""
