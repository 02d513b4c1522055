"""A file mapped into memory as 64-bit words, without keeping a descriptor (Python's own mmap keeps a duplicate).

Descriptors are the scarcest resource of a process when the cache holds very many small objects.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

_WORD_BYTES = 8
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_words(fd: int, length: int) -> memoryview:
    """Map the file's first `length` bytes, shared with every process that maps them. Each access is a native one.

    The memory is unmapped with its last view. Raises OSError, and ValueError if the file is shorter: an access past
    its end would be a SIGBUS.
    """
    assert length % _WORD_BYTES == 0
    if os.fstat(fd).st_size < length:
        raise ValueError(f"the file has fewer than {length} bytes")
    address = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    memory = (ctypes.c_char * length).from_address(address)  # every view keeps it alive
    weakref.finalize(memory, _libc.munmap, address, length).atexit = False
    return memoryview(memory).cast("B").cast("Q")
