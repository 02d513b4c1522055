"""The block store on this node's disks. `docs/cache-format.md` draws the files.

Knows files, locks, words and checksums; knows no network, no client and no origin.
"""
