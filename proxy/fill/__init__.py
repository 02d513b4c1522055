"""One block for one reader: found on disk, joined in flight, or filled, once for all who want it."""
