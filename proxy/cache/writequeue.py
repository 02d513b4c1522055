"""One file's writes in threads: in order, one at a time.

A file system lets one writer at a time into a file: threads that write to the same one only spin for its lock (a fifth
of a cold load's CPU time, measured with four). So each file's writes wait here for their turn, and the threads are
left to other files.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future


class WriteQueue:
    """Thread-safe. Each write's future is done when it has returned or raised."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._running = False

    def submit(self, threads: Executor, write: Callable[[], None]) -> Future[None]:
        """Raises RuntimeError when the threads have ended; the write is not made then."""
        future: Future[None] = Future()
        with self._guard:
            if not self._running:
                threads.submit(self._run)
                self._running = True
            self._waiting.append((future, write))
        return future

    def _run(self) -> None:
        """Makes writes until none waits."""
        while True:
            with self._guard:
                if not self._waiting:
                    self._running = False
                    return
                future, write = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                write()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
