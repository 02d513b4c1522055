"""Fetching a block once: flights and fills, from origins or relayed by other nodes, and how fast origins are asked.

Knows origins, the fleet and the writer it is given; knows no cache and no client.
"""
