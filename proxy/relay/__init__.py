"""Blocks between nodes: relayed while they arrive, read from the pool, leased at the origin."""
