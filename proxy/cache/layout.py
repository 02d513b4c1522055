"""A disk's layout file: the format of the cache's files, written once and never changed.

How it works. `DISK/v1/layout` is one line of JSON: the layout's number, the block and segment size, the node's id
(the same on all of its disks) and the disk's own id. It is written under a temporary name and put in place by link().
When several processes start at once, one of them wins and the others read what it wrote. A disk whose sizes differ
from the configuration, or whose layout this program does not know, is rejected: the message names the fix, and the
disk is not changed. Folders of other layouts beside `v1` are never touched.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from proxy.blocks import BLOCK_BYTES_MAX
from proxy.errors import ConfigInvalid

LAYOUT_VERSION = 1
FOLDER = f"v{LAYOUT_VERSION}"
SEGMENT_BYTES_MIN = 64 << 20
SEGMENT_BYTES_MAX = 8 << 30
SEGMENTS_PER_DISK = 64  # evicting one frees 1.6 % of the smallest disk


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of one disk. Ids are random hex."""

    layout: int
    block_bytes: int
    segment_bytes: int
    node_id: str
    disk_id: str


def choose_segment_bytes(smallest_disk_bytes: int) -> int:
    """Return 1/64 of the smallest disk's budget, rounded down to a power of two, between 64 MiB and 8 GiB."""
    share = max(1, smallest_disk_bytes // SEGMENTS_PER_DISK)
    return min(max(1 << (share.bit_length() - 1), SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)


def open_layouts(
    disks: Sequence[tuple[Path, int]], block_bytes: int, segment_bytes: int | None = None
) -> tuple[Layout, ...]:
    """Return the layouts of all disks (folder, budget in bytes), creating missing ones; all of them agree.

    With `segment_bytes` None, the size comes from an existing layout, or else from the smallest disk.
    Raises ConfigInvalid.
    """
    if not 0 < block_bytes <= BLOCK_BYTES_MAX:
        raise ConfigInvalid(
            f"cache.block_size: {block_bytes} bytes; between 1 byte and {BLOCK_BYTES_MAX} bytes is fine"
        )
    found = [_read(path) for path, _ in disks]
    known = next((layout for layout in found if layout is not None), None)
    if segment_bytes is None:
        smallest = min(size for _, size in disks)
        segment_bytes = known.segment_bytes if known is not None else choose_segment_bytes(smallest)
    node_id = known.node_id if known is not None else secrets.token_hex(16)
    layouts = []
    for (path, _), layout in zip(disks, found, strict=True):
        if layout is None:
            fresh = Layout(LAYOUT_VERSION, block_bytes, segment_bytes, node_id, secrets.token_hex(16))
            layout = _create(path, fresh)
            node_id, segment_bytes = layout.node_id, layout.segment_bytes  # another process may have been faster
        _check(path, layout, block_bytes, segment_bytes)
        layouts.append(layout)
    if len({layout.disk_id for layout in layouts}) < len(layouts):
        raise ConfigInvalid("cache.disks: two entries lead to the same disk, or to a copy of one: name each disk once")
    return tuple(layouts)


def make_private(folder: Path) -> None:
    """Create the folder and its missing parents, accessible to this user alone. Raises OSError."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            parent.mkdir(mode=0o700)


def _check(path: Path, layout: Layout, block_bytes: int, segment_bytes: int) -> None:
    for what, has, wanted in (
        ("block", layout.block_bytes, block_bytes),
        ("segment", layout.segment_bytes, segment_bytes),
    ):
        if has != wanted:
            raise ConfigInvalid(
                f"cache.{what}_size: the cache on {path} has {what}s of {has >> 10}KiB, and the settings ask for"
                f" {wanted >> 10}KiB; set cache.{what}_size to {has >> 10}KiB, or remove {path / FOLDER} to start"
                " with an empty cache"
            )


def _read(path: Path) -> Layout | None:
    """Return the disk's layout, or None if it has none yet. Raises ConfigInvalid for one that we can't read."""
    layout_path = path / FOLDER / "layout"
    try:
        raw = layout_path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigInvalid(
            f"can't read {layout_path}: {error.strerror}; make it readable, or name another folder"
        ) from error
    layout = _parse(layout_path, raw)
    if layout is None:
        raise ConfigInvalid(f"{layout_path} is damaged: remove {path / FOLDER} to start with an empty cache")
    return layout


def _parse(layout_path: Path, raw: bytes) -> Layout | None:
    """Return the layout, or None if it is damaged. Raises ConfigInvalid for the layout of another program."""
    try:
        figures = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(figures, dict):
        return None
    if figures.get("layout") != LAYOUT_VERSION:
        raise ConfigInvalid(
            f"{layout_path} has the layout {figures.get('layout')!r}, this program knows {LAYOUT_VERSION}:"
            " start the program that made it, or name another folder"
        )
    try:
        layout = Layout(**figures)
    except TypeError:  # a key too many or too few
        return None
    numbers, ids = (layout.block_bytes, layout.segment_bytes), (layout.node_id, layout.disk_id)
    sound = all(type(number) is int and number > 0 for number in numbers) and all(type(name) is str for name in ids)
    return layout if sound else None


def _create(path: Path, layout: Layout) -> Layout:
    """Put the layout in place, or return the one that another process put there first."""
    folder = path / FOLDER
    temporary = folder / f"layout.{secrets.token_hex(8)}.tmp"
    try:
        make_private(folder)
        _write_durably(temporary, json.dumps(asdict(layout)) + "\n")
        os.link(temporary, folder / "layout")
    except FileExistsError:
        return _read(path) or layout
    except OSError as error:
        raise ConfigInvalid(
            f"can't write the cache's disk {path}: {error.strerror}; make it writable, or name another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return layout


def _write_durably(path: Path, text: str) -> None:
    """Write and sync a file. A layout lost in a power cut would have to be repaired by hand."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
