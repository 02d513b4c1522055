"""Origins that lead back to the gateway, through a proxy or another gateway, and directories that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.gateways import GatewayProcess, log_lines, start_gateway


class Relay:
    """A TCP proxy to a port that is known later."""

    def __init__(self) -> None:
        self.port = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._pipe(reader, to_writer), self._pipe(to_reader, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def gateway_before(folder: Path, url: str, kind: str = "s3") -> AsyncIterator[GatewayProcess]:
    await asyncio.to_thread(folder.mkdir)
    origin = {"type": kind, "endpoint": url} | ({} if kind == "gateway" else {"anonymous": True})
    gateway = await asyncio.to_thread(start_gateway, folder, origin=origin)
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.stop)


def port_of(gateway: GatewayProcess) -> int:
    return int(gateway.url.rpartition(":")[2])


def looped(gateway: GatewayProcess) -> list[tuple[str, str, str]]:
    lines = [line for line in log_lines(gateway.logs()) if line.get("reason") == "loop"]
    return [(line["level"], line["origin"], line["message"]) for line in lines]


async def test_an_origin_that_leads_back_through_a_proxy_is_an_error_at_once_and_a_line_of_the_log(
    tmp_path: Path,
) -> None:
    async with relay() as around, gateway_before(tmp_path / "a", around.url) as gateway:
        around.port = port_of(gateway)
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:  # retries would take 30 s
            for method, path in (("GET", "/b/k"), ("HEAD", "/b/k"), ("PUT", "/b/k"), ("GET", "/b?list-type=2")):
                answer = await client.request(method, gateway.url + path)
                assert answer.status_code == 508, (method, path, answer.text)
            told = (await client.get(f"{gateway.url}/b/k2")).text
        counted = await asyncio.to_thread(gateway.metric, "warmstart_origin_errors_total", reason="loop")
        [line] = looped(gateway)
    assert "leads back to this gateway" in told
    assert counted >= 5
    assert line == ("warning", "origin", "origin origin: its endpoint leads back to this gateway")


async def test_two_gateways_that_are_each_others_origin_end_at_once(tmp_path: Path) -> None:
    async with (
        relay() as around,
        gateway_before(tmp_path / "a", around.url, "gateway") as first,
        gateway_before(tmp_path / "b", first.url, "gateway") as second,
    ):
        around.port = port_of(second)
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for gateway in (first, second):
                assert (await client.get(f"{gateway.url}/b/k")).status_code == 508
        assert looped(first)
        assert looped(second)


async def test_a_directory_that_is_not_there_fails_reads_at_once_and_is_told_at_the_start(tmp_path: Path) -> None:
    gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=f"file://{tmp_path}/nowhere")
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:  # retries would take 30 s
            answer = await client.get(f"{gateway.url}/b/k")
        lines = log_lines(gateway.logs())
    finally:
        await asyncio.to_thread(gateway.stop)
    assert answer.status_code == 503
    assert f"the directory {tmp_path}/nowhere is not there" in answer.text
    assert any("origins.origin.root" in line["message"] and line["level"] == "warning" for line in lines)
    assert [line["level"] for line in lines if line.get("reason") == "missing"] == ["warning"]
