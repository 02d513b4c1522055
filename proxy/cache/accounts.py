"""Accounting rules for the bytes on a disk: what each file is charged with, and in which folder. Pure.

How it works. A file is charged when the file system allocates it, and the same number is taken off when it is removed,
so that the sum can't drift:

- a small file (a block map, a key record): its length in whole pages, or its disk blocks if those are more;
- a data file: for each block what the block's word says (blockmap.py). A fill under way is charged with its whole
  block. A fill that stopped keeps what was allocated: the whole block or, after a small read, the written pages;
- a retired segment: the same as before, until nobody has its data file open any more (leaving.py).

Folders are numbered in the order in which a scan reads them. A scan counts the files of the folders that it has read.
What other processes charge to those folders afterwards is added to its result.
"""

from __future__ import annotations

import os

PAGE_BYTES = 4096  # the least that file systems allocate
STAT_BLOCK_BYTES = 512  # unit of st_blocks, stat(2)

# `objects/00` to `objects/ff` are the folders 0 to 255, `keys/00` to `keys/ff` the next ones.
KEYS, TEMP, LEAVING, FOLDERS = 256, 512, 513, 514  # FOLDERS: the folders themselves


def on_disk(nbytes: int) -> int:
    """Return what that many bytes of a file take on the disk."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


def file_charge(status: os.stat_result) -> int:
    """Return what a file without holes is charged with."""
    return max(status.st_blocks * STAT_BLOCK_BYTES, on_disk(status.st_size))


def folder_of_object(digest: bytes) -> int:
    return digest[0]


def folder_of_key(digest: bytes) -> int:
    return KEYS + digest[0]


def holds_records(folder: int) -> bool:
    return KEYS <= folder < TEMP
