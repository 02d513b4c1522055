"""The process tree, real: what dies is replaced, nothing outlives the supervisor, one gateway for each disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.process.runtime import PREFIX
from tests.gateways import GatewayProcess, alive, log_lines, send_signal, start_gateway
from tests.waiting import wait_until

BODY = bytes(range(256)) * 1024


def make_shelf(folder: Path) -> Path:
    """A directory origin with one object."""
    root = folder / "shelf"
    (root / "models").mkdir(parents=True)
    (root / "models" / "a.bin").write_bytes(BODY)
    return root


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return make_shelf(tmp_path)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway for all tests that leave it well: two workers, two listeners."""
    folder = tmp_path_factory.mktemp("gateway")
    config = {"listen": ["127.0.0.1:0", "[::1]:0"]}
    with start_gateway(folder, origin=f"file://{make_shelf(folder)}", workers=2, config=config) as started:
        yield started


def read(gateway: GatewayProcess) -> httpx.Response:
    return httpx.get(f"{gateway.url}/models/a.bin", trust_env=False, timeout=30)


def reads_right(gateway: GatewayProcess) -> bool:
    """Whether a read succeeds; one that meets a dying worker may be cut, but is never wrong."""
    try:
        answer = read(gateway)
    except httpx.TransportError:
        return False
    assert answer.content == BODY
    return answer.status_code == 200


def runtime_folders(gateway: GatewayProcess) -> list[str]:
    """The private folders of this gateway's run: named by its children's environment."""
    environment = Path(f"/proc/{gateway.worker_pids()[0]}/environ").read_bytes().split(b"\0")
    [metrics] = [entry for entry in environment if entry.startswith(b"PROMETHEUS_MULTIPROC_DIR=")]
    return [str(Path(os.fsdecode(metrics.partition(b"=")[2])).parent)]


def test_a_killed_worker_is_replaced_and_counted(gateway: GatewayProcess) -> None:
    before, restarts = gateway.worker_pids(), gateway.metric("warmstart_worker_restarts_total", role="worker")
    assert len(before) == 2
    send_signal(before[0], signal.SIGKILL)
    wait_until(lambda: not alive(before[0]) and len(gateway.worker_pids()) == 2, "no new worker")
    assert before[1] in gateway.worker_pids()
    wait_until(lambda: reads_right(gateway), "no right read after a worker's death")
    assert gateway.metric("warmstart_worker_restarts_total", role="worker") == restarts + 1
    assert any("worker-0 was killed by SIGKILL" in line["message"] for line in log_lines(gateway.logs()))
    wait_until(lambda: '"worker-0 is back"' in gateway.logs(), "nobody says that it is back")


def test_a_killed_housekeeper_is_replaced_and_counted(gateway: GatewayProcess) -> None:
    before, restarts = gateway.housekeeper_pid(), gateway.metric("warmstart_worker_restarts_total", role="housekeeper")
    assert before is not None
    send_signal(before, signal.SIGKILL)
    wait_until(lambda: gateway.housekeeper_pid() not in (None, before), "no new housekeeper")
    assert gateway.metric("warmstart_worker_restarts_total", role="housekeeper") == restarts + 1
    assert reads_right(gateway)


def test_sighup_without_a_terminal_is_logged_and_ends_nothing(tmp_path: Path, shelf: Path) -> None:
    with start_gateway(tmp_path, origin=f"file://{shelf}", workers=2) as gateway:
        before = gateway.worker_pids()
        for pid in (*before, gateway.pid):
            send_signal(pid, signal.SIGHUP)
        wait_until(lambda: "SIGHUP changes nothing" in gateway.logs(), "SIGHUP was not noticed")
        assert reads_right(gateway)
        assert gateway.worker_pids() == before


def test_sighup_of_a_terminal_that_is_closed_drains(tmp_path: Path, shelf: Path) -> None:
    controller, terminal = os.openpty()
    with start_gateway(tmp_path, origin=f"file://{shelf}", stdin=terminal) as gateway:
        os.close(terminal)
        assert reads_right(gateway)
        os.close(controller)
        send_signal(gateway.pid, signal.SIGHUP)
        assert gateway.wait() == 0
        assert '"stopping"' in gateway.logs()


def test_all_workers_killed_at_once_come_back(gateway: GatewayProcess) -> None:
    before, restarts = gateway.worker_pids(), gateway.metric("warmstart_worker_restarts_total", role="worker")
    for pid in before:
        send_signal(pid, signal.SIGKILL)
    wait_until(lambda: not set(before) & set(gateway.worker_pids()), "the dead are still listed")
    wait_until(lambda: reads_right(gateway), "no right read after both workers' death")
    assert gateway.metric("warmstart_worker_restarts_total", role="worker") == restarts + 2


def test_a_killed_supervisor_takes_its_children_along_and_a_restart_serves_from_the_disk(
    tmp_path: Path, shelf: Path
) -> None:
    with start_gateway(tmp_path, origin=f"file://{shelf}") as first:
        assert read(first).headers["x-cache"] == "MISS"
        left_behind = runtime_folders(first)
        first.kill()
    with start_gateway(tmp_path, origin=f"file://{shelf}") as second:
        answer = read(second)
        assert (answer.content, answer.headers["x-cache"]) == (BODY, "HIT")
        assert not any(Path(folder).exists() for folder in left_behind)


def test_a_restart_at_the_same_moment_as_the_kill_takes_over_the_disk_and_the_port(tmp_path: Path, shelf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    config = {"listen": f"127.0.0.1:{port}"}
    with start_gateway(tmp_path, origin=f"file://{shelf}", config=config) as first:
        os.kill(first.pid, signal.SIGKILL)
        with start_gateway(tmp_path, origin=f"file://{shelf}", config=config) as second:
            assert second.url == first.url
            assert reads_right(second)


def test_a_second_gateway_on_the_same_disk_is_refused_by_name_and_pid(
    gateway: GatewayProcess, tmp_path: Path, shelf: Path
) -> None:
    (tmp_path / "second").mkdir()
    disks = [{"path": str(tmp_path / "other"), "size": "1GiB"}, {"path": str(gateway.cache), "size": "1GiB"}]
    with pytest.raises(RuntimeError) as caught:
        start_gateway(tmp_path / "second", origin=f"file://{shelf}", config={"cache": {"disks": disks}})
    expected = f"cache.disks[1].path: '{gateway.cache}' is in use by another gateway (pid {gateway.pid}); stop"
    assert expected in str(caught.value)
    assert reads_right(gateway)


def test_sigterm_lets_bodies_in_flight_end_refuses_connections_and_leaves_nothing(tmp_path: Path, shelf: Path) -> None:
    big = os.urandom(1 << 20) * 48
    (shelf / "models" / "big.bin").write_bytes(big)
    with start_gateway(tmp_path, origin=f"file://{shelf}") as gateway:
        [folder], children = runtime_folders(gateway), gateway.children()
        assert Path(folder).name.startswith(PREFIX)
        address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            connection.sendall(b"GET /models/big.bin HTTP/1.1\r\nHost: gateway\r\n\r\n")
            received = connection.recv(64 << 10)
            status: list[int] = []
            stopping = threading.Thread(target=lambda: status.append(gateway.stop()))
            stopping.start()
            wait_until(lambda: not connects(address), "new connections are accepted while draining")
            assert alive(gateway.pid)
            chunks = [received]
            while chunk := connection.recv(1 << 20):
                chunks.append(chunk)
            stopping.join()
    whole = b"".join(chunks)
    assert whole.partition(b"\r\n\r\n")[2] == big
    assert status == [0]
    assert len(children) == 2
    assert not any(alive(pid) for pid in children)
    assert not Path(folder).exists()
    assert not (tmp_path / "gateway.url").exists()


def connects(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=5):
            return True
    except OSError:
        return False


def test_a_body_that_does_not_end_is_cut_when_the_drain_time_out_is_over(tmp_path: Path, shelf: Path) -> None:
    (shelf / "models" / "big.bin").write_bytes(bytes(48 << 20))
    config = {"limits": {"drain_timeout": "200ms"}}
    with start_gateway(tmp_path, origin=f"file://{shelf}", config=config) as gateway:
        address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            connection.sendall(b"GET /models/big.bin HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
            assert gateway.stop() == 0


def test_ctrl_c_in_a_terminal_drains_and_a_second_one_ends_at_once(tmp_path: Path, shelf: Path) -> None:
    (shelf / "models" / "big.bin").write_bytes(bytes(48 << 20))
    with start_gateway(tmp_path, origin=f"file://{shelf}") as gateway:
        processes = [gateway.pid, *gateway.children()]
        address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            connection.sendall(b"GET /models/big.bin HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
            for pid in processes:  # a terminal sends it to the whole group
                send_signal(pid, signal.SIGINT)
            wait_until(lambda: "stopping" in gateway.logs(), "the first Ctrl-C does not drain")
            assert alive(gateway.pid)
            send_signal(gateway.pid, signal.SIGINT)
            wait_until(lambda: not any(alive(pid) for pid in processes), "the second Ctrl-C does not end it")


def test_an_origin_that_is_down_stops_neither_start_nor_readiness_and_its_secrets_show_nowhere(tmp_path: Path) -> None:
    origin = {"type": "s3", "endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "hush-hush"}
    config = {"limits": {"retry_deadline": "100ms"}}
    with start_gateway(tmp_path, origin=origin, config=config) as gateway:
        assert httpx.get(f"{gateway.url}/-/ready", trust_env=False).status_code == 200
        answer = httpx.get(f"{gateway.url}/models/a.bin", trust_env=False, timeout=120)
        assert answer.status_code in (502, 503, 504)
        for pid in (gateway.pid, *gateway.children()):
            for name in ("cmdline", "environ"):
                assert b"hush-hush" not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert gateway.stop() == 0
        assert "hush-hush" not in gateway.logs()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cache": {"disks": [{"path": "/proc/warmstart", "size": "1GiB"}]}}, "cache.disks[0].path: '/proc/warmstart'"),
        ({"cache": {"disks": [{"path": "/dev/null/x", "size": "1GiB"}]}}, "cache.disks[0].path: '/dev/null/x'"),
        ({"listen": "192.0.2.1:1", "auth": "none"}, "listen: '192.0.2.1:1' can't be listened on"),
        ({"listen": "nowhere.invalid:1", "auth": "none"}, "listen: 'nowhere.invalid:1' names no address"),
        ({"cache": {"block_size": "12MB"}}, "cache.block_size: '12MB'"),
    ],
)
def test_what_can_not_work_stops_the_start_with_one_line(
    tmp_path: Path, shelf: Path, config: dict[str, object], message: str
) -> None:
    with start_gateway(tmp_path, origin=f"file://{shelf}", config=config, wait=False) as gateway:
        wait_until(lambda: not alive(gateway.pid), "it goes on")
        assert gateway.stop() == 2
        lines = [line for line in gateway.logs().splitlines() if not line.startswith("{")]
        assert len(lines) == 1
        assert message in lines[0]


def test_a_disk_with_another_block_size_stops_the_start_until_the_cache_is_emptied(tmp_path: Path, shelf: Path) -> None:
    with start_gateway(tmp_path, origin=f"file://{shelf}") as gateway:
        assert read(gateway).headers["x-cache"] == "MISS"
    config = {"cache": {"block_size": "4MiB"}}
    with start_gateway(tmp_path, origin=f"file://{shelf}", config=config, wait=False) as gateway:
        wait_until(lambda: not alive(gateway.pid), "it goes on")
        assert gateway.stop() == 2
        [line] = [line for line in gateway.logs().splitlines() if line.startswith("warmstart: ")]
    assert "set cache.block_size to 8192KiB" in line
    assert "4096KiB" in line
    assert f"remove {tmp_path / 'cache' / 'v1'}" in line
    shutil.rmtree(tmp_path / "cache" / "v1")
    with start_gateway(tmp_path, origin=f"file://{shelf}", config=config) as gateway:
        assert read(gateway).headers["x-cache"] == "MISS"
        assert read(gateway).headers["x-cache"] == "HIT"


def test_every_listener_is_served(gateway: GatewayProcess) -> None:
    assert gateway.urls[1].startswith("http://[::1]:")
    for url in gateway.urls:
        assert httpx.get(f"{url}/models/a.bin", trust_env=False).content == BODY


def test_children_do_not_import_from_the_working_directory(gateway: GatewayProcess) -> None:
    for pid in gateway.children():
        assert Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:4] == ["-P", "-m", "proxy"]
