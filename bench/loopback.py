"""A range server for measurements, in a process of its own: it costs as little as a server can.

Plain connections are answered by `sendfile`; with TLS one thread a connection encrypts. It answers every request
with the range that it names, of one file, whatever the target; it checks nothing.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RANGE = re.compile(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)\r\n")


@contextmanager
def loopback_server(size_bytes: int, tls_files: tuple[Path, Path] | None = None) -> Iterator[int]:
    """The port of a server of `size_bytes` random bytes; `tls_files` are certificate chain and key."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        block = os.urandom(1 << 20)
        with data.open("wb") as file:
            for _ in range(size_bytes >> 20):
                file.write(block)
        command = [sys.executable, "-m", "bench.loopback", str(data), *map(str, tls_files or ())]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()
            server.communicate()


def _serve(path: str, tls_files: list[str]) -> None:
    context = None
    if tls_files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls_files)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    data = os.open(path, os.O_RDONLY)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_converse, args=(connection, data, context), daemon=True).start()


def _converse(connection: socket.socket, data: int, context: ssl.SSLContext | None) -> None:
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                piece = connection.recv(65536)
                if not piece:
                    return
                received += piece
            head, _, received = received.partition(b"\r\n\r\n")
            match = _RANGE.search(head + b"\r\n")
            assert match is not None
            _answer(connection, data, int(match[1]), int(match[2]) + 1)
    except OSError:
        pass
    finally:
        connection.close()


def _answer(connection: socket.socket, data: int, start: int, end: int) -> None:
    length = end - start
    head = b'HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\netag: "x"\r\n' % length
    connection.sendall(head + b"content-range: bytes %d-%d/%d\r\n\r\n" % (start, end - 1, os.fstat(data).st_size))
    if isinstance(connection, ssl.SSLSocket):
        while start < end:
            start += connection.send(os.pread(data, min(256 << 10, end - start), start))
    else:
        while start < end:
            start += os.sendfile(connection.fileno(), data, start, end - start)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
