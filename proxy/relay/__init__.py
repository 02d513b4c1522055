"""Blocks from other nodes: relayed while they arrive, read from the fleet's pool of disks, fetched under a lease."""
