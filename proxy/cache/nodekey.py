"""The node's secret key: its workers sign with it for each other, and it survives a restart.

How it works. `DISK/v1/session.key`, on the first disk, is 32 random bytes that only the gateway's user can read. It is
created like the layout: written under a temporary name and put in place by link(), so that all workers share one key.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from proxy.cache.layout import FOLDER

KEY_BYTES = 32
FILE = "session.key"

log = logging.getLogger(__name__)


def open_node_key(disk: Path) -> bytes:
    """Return the key, creating a missing one; if the disk fails, a key for this process alone. Blocking."""
    path = disk / FOLDER / FILE
    try:
        return _read(path) or _create(path)
    except OSError as error:
        log.warning("uploads can be resumed only at the worker that began them: %s can't be used (%s)", path, error)
        return secrets.token_bytes(KEY_BYTES)


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(key) != KEY_BYTES:
        raise OSError(f"it has {len(key)} bytes, not {KEY_BYTES}; remove it")
    return key


def _create(path: Path) -> bytes:
    temporary = path.with_name(f"{FILE}.{secrets.token_hex(8)}.tmp")
    key = secrets.token_bytes(KEY_BYTES)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return _read(path) or key
    finally:
        with suppress(OSError):
            temporary.unlink()
    return key
