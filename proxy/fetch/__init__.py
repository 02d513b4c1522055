"""Bringing a block in, once: fills, flights, the limits on them, read-ahead.

Knows origins and the writer it is given; knows no cache and no client.
"""
