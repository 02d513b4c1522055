"""Doors before a node: TCP ports that pass everything on until they are shut, as a cut cable is: nobody hears a word.

    with Door(("127.0.0.9", 9000), ("127.0.0.1", 9000)) as door:
        door.shut()      # bytes stay where they are, new connections get no answer
        door.open()      # and go on

A door that is shut says nothing: no FIN, no RST. `slam` breaks what goes through, as the death of a machine's far end
does, and keeps others out with RST. `change` makes, for each connection, what is given the bytes from inside
and gives those that go out.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

_PIECE_BYTES = 64 << 10
_LINGER = struct.pack("ii", 1, 0)

Address = tuple[str, int]


class Door:
    """One port; its threads end with it."""

    def __init__(self, here: Address, there: Address) -> None:
        self.change: Callable[[], Callable[[bytes], bytes]] | None = None
        self._there = there
        self._passable = threading.Event()
        self._passable.set()
        self._slammed = False
        self._ended = False
        self._ends: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener = socket.create_server(here, backlog=128)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def shut(self) -> None:
        self._passable.clear()

    def open(self) -> None:
        self._slammed = False
        self._passable.set()

    def slam(self) -> None:
        """RST to all that is under way, and to what comes, until it is opened."""
        self._slammed = True
        self._break()

    def close(self) -> None:
        self._ended = True
        self._passable.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _break(self) -> None:
        with self._guard:
            ends, self._ends = self._ends, set()
        for end in ends:  # wakes the thread that reads it, and says nothing to the far end
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
        for end in ends:
            _reset(end)

    def _accept(self) -> None:
        while not self._ended:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                return
            if self._slammed:
                _reset(outside)
                continue
            threading.Thread(target=self._pass, args=(outside,), daemon=True).start()

    def _pass(self, outside: socket.socket) -> None:
        self._passable.wait()
        try:
            inside = socket.create_connection(self._there, 10)
        except OSError:
            _reset(outside)
            return
        with self._guard:
            self._ends |= {outside, inside}
        change = self.change() if self.change is not None else None
        back = threading.Thread(target=self._pump, args=(inside, outside, change), daemon=True)
        back.start()
        self._pump(outside, inside)
        back.join()
        with self._guard:
            self._ends -= {outside, inside}
        for end in (outside, inside):
            end.close()

    def _pump(
        self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes] | None = None
    ) -> None:
        try:
            source.settimeout(None)
            while data := source.recv(_PIECE_BYTES):
                self._passable.wait()
                target.sendall(data if change is None else change(data))
            self._passable.wait()
            if not self._slammed and not self._ended:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    end.close()
