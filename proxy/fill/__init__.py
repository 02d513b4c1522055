"""Filling of blocks: each block is found on disk, joined while it arrives, or fetched once for all its readers."""
