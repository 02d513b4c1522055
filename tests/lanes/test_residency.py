"""Which pages are in memory, by either way to ask."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.lanes import residency
from proxy.lanes.residency import ask, cached_pages, is_resident, read_ahead

SIZE = 4 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file that is on the disk and, where the file system can forget, not in memory."""
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, os.urandom(SIZE), 0)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    yield fd
    os.close(fd)


@pytest.fixture(params=["cachestat", "preadv"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "preadv":
        monkeypatch.setattr(residency._syscall, "available", False)
    return str(request.param)


def forgets(fd: int, position: int = SIZE // 2) -> bool:
    """Whether that byte's page is gone from memory."""
    try:
        return os.preadv(fd, [bytearray(1)], position, os.RWF_NOWAIT) != 1
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.usefixtures("way")
def test_pages_are_missing_until_they_were_read_ahead(fd: int) -> None:
    if not forgets(fd):
        pytest.skip("this file system keeps its pages")
    assert not is_resident(fd, 100, 512 << 10)
    read_ahead(fd, 100, 512 << 10, 0)
    assert is_resident(fd, 100, 512 << 10)


def test_the_disk_brings_what_it_is_asked_for_and_nothing_else(fd: int) -> None:
    if not forgets(fd) or cached_pages(fd, 0, SIZE) is None:
        pytest.skip("this file system keeps its pages, or does not count them")
    is_resident(fd, 0, SIZE)  # whether this file system tells is known from now on
    os.pread(fd, SIZE, 0)  # nothing is on its way any more
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert not is_resident(fd, 1 << 20, 1 << 20)
    assert cached_pages(fd, 0, SIZE) == 0, "a probe makes nobody read"
    assert not ask(fd, 1 << 20, 1 << 20)
    read_ahead(fd, 1 << 20, 512 << 10, 1 << 20)
    assert cached_pages(fd, 0, SIZE) == (1 << 20) // os.sysconf("SC_PAGE_SIZE")
    os.pread(fd, 1 << 20, 1 << 20)
    assert ask(fd, 1 << 20, 1 << 20), "all of it is there"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("start", [0, SIZE // 2])
def test_missing_pages_at_either_end_are_noticed(fd: int, start: int) -> None:
    if not forgets(fd):
        pytest.skip("this file system keeps its pages")
    os.pread(fd, SIZE, 0)
    assert is_resident(fd, 0, SIZE)
    edge = 0 if start == 0 else SIZE - 1
    for _ in range(100):  # advice is no order, and a look with RWF_NOWAIT may bring a missing page back
        os.posix_fadvise(fd, start, SIZE // 2, os.POSIX_FADV_DONTNEED)
        if not is_resident(fd, 0, SIZE):
            return
    assert not forgets(fd, edge), "pages that are gone are taken for resident"
    pytest.skip("the kernel does not let these pages go now")


@pytest.mark.usefixtures("way")
def test_fresh_writes_are_resident(fd: int) -> None:
    os.pwrite(fd, bytes(100_000), 4096)
    assert is_resident(fd, 4096, 100_000)
    assert is_resident(fd, 5000, 1)


@pytest.mark.usefixtures("way")
def test_bytes_beyond_the_end_are_missing_and_reading_them_ahead_is_harmless(fd: int) -> None:
    read_ahead(fd, SIZE - 10, 512 << 10, 4 << 20)
    read_ahead(fd, SIZE + 10, 512 << 10, 4 << 20)
    if forgets(fd):
        assert not is_resident(fd, SIZE + 10, 10)


@pytest.mark.usefixtures("way")
def test_memory_file_counts_as_resident() -> None:
    fd = os.memfd_create("resident")
    try:
        os.pwrite(fd, bytes(100_000), 0)
        assert is_resident(fd, 0, 100_000)
    finally:
        os.close(fd)


def test_file_system_that_knows_no_nowait_counts_as_resident(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(residency._syscall, "cached_pages", lambda *_: 0)  # an overlay's own mapping is empty
    monkeypatch.setattr(residency, "_telling", {})
    monkeypatch.setattr("proxy.lanes.residency.os.preadv", refuse)
    assert is_resident(fd, 0, SIZE)


def test_disk_error_of_a_probe_is_raised(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(residency._syscall, "cached_pages", lambda *_: None)
    monkeypatch.setattr("proxy.lanes.residency.os.preadv", refuse)
    with pytest.raises(OSError, match="Input/output"):
        is_resident(fd, 0, SIZE)


@pytest.mark.parametrize(("number", "available"), [(errno.ENOSYS, False), (errno.EPERM, False), (errno.EBADF, True)])
def test_kernel_without_cachestat_is_asked_once(number: int, available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    syscall = residency._Syscall()
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        return -1

    monkeypatch.setattr(syscall, "_function", refuse)
    monkeypatch.setattr("proxy.lanes.residency.ctypes.get_errno", lambda: number)
    assert syscall.cached_pages(0, 0, 1) is None
    assert syscall.cached_pages(0, 0, 1) is None
    assert (syscall.available, len(calls)) == (available, 2 if available else 1)
