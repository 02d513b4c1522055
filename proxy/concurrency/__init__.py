"""Work beside the request that it is for: background tasks, and threads for calls that wait for a disk."""
