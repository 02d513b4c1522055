"""A local directory (or a mounted file system) as an origin: sub-directories are buckets, files are objects.

Knows paths, files and their order; knows nothing of HTTP. `origin` is the Origin contract; `tree` opens the files of
keys without ever leaving the root; `walk` lists keys in S3's order, lazily.
"""

from proxy.origin.directory.origin import DirectoryOrigin

__all__ = ["DirectoryOrigin"]
