"""curl, and what curl no longer sends: ranges, conditions, HTTP/1.0, absolute form, SigV4, pipelined requests."""

from __future__ import annotations

import hashlib
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.compat.sites import DIRECT, HOST_SUFFIX, MIB, REGION, Site, payload

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes


class Curl:
    """The program, naming the bucket in the path or in the host, signing only where the origin asks for it."""

    def __init__(self, site: Site, style: str, folder: Path, *, sign: bool = False) -> None:
        self._site = site
        self._style = style
        self._folder = folder
        signature = ["--aws-sigv4", f"aws:amz:{REGION}:s3", "--user", f"{site.access_key_id}:{site.secret_access_key}"]
        self._signature = signature if sign or DIRECT else []

    def __call__(self, bucket: str, key: str, *options: str | Path) -> Answer:
        path = quote(key)
        if self._style == "virtual":
            where = [
                f"http://{bucket}.{HOST_SUFFIX}:{self._site.port}/{path}",
                "--connect-to",
                f"::127.0.0.1:{self._site.port}",
            ]
        else:
            where = [f"{self._site.url}/{bucket}/{path}"]
        head, body = self._folder / "head", self._folder / "body"
        body.unlink(missing_ok=True)
        self._site.run("curl", "-sS", "--path-as-is", "-D", head, "-o", body, *self._signature, *options, *where)
        lines = head.read_bytes().decode("latin-1").split("\r\n\r\n")[-2].split("\r\n")
        version, status = lines[0].split(" ")[:2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return Answer(int(status), version, headers, body.read_bytes() if body.exists() else b"")


def test_objects_ranges_and_conditions(site: Site, style: str, tmp_path: Path) -> None:
    bucket, data, curl = site.bucket(), payload(MIB + 5000), Curl(site, style, tmp_path)
    site.put(bucket, "m/a b+ü.bin", data)
    whole = curl(bucket, "m/a b+ü.bin")
    assert (whole.status, whole.body) == (200, data)
    assert whole.headers["accept-ranges"] == "bytes"
    with site.no_origin_bytes():
        part = curl(bucket, "m/a b+ü.bin", "-r", f"{MIB - 2}-{MIB + 1}")
        assert part.body == data[MIB - 2 : MIB + 2]
        assert part.headers["content-range"] == f"bytes {MIB - 2}-{MIB + 1}/{len(data)}"
        assert curl(bucket, "m/a b+ü.bin", "-r", "-6").body == data[-6:]
        same = curl(bucket, "m/a b+ü.bin", "-H", f"If-None-Match: {whole.headers['etag']}")
        assert (same.status, same.body) == (304, b"")
        head = curl(bucket, "m/a b+ü.bin", "-I")
        assert (head.status, head.headers["content-length"]) == (200, str(len(data)))
    past = curl(bucket, "m/a b+ü.bin", "-r", f"{len(data)}-")
    assert past.status == 416
    absent = curl(bucket, "absent")
    assert absent.status == 404
    assert b"<Code>NoSuchKey</Code>" in absent.body
    if not DIRECT:
        assert part.status == 206
        assert (whole.headers["x-cache"], part.headers["x-cache"], head.headers["x-cache"]) == ("MISS", "HIT", "HIT")
        assert past.headers["content-range"] == f"bytes */{len(data)}"
        assert curl(bucket, "m/a b+ü.bin", "-H", 'If-Match: "other"').status == 412


def test_old_versions_of_http_get_a_whole_body(site: Site, tmp_path: Path) -> None:
    bucket, data = site.bucket(), payload(MIB + 3)
    site.put(bucket, "o", data)
    curl = Curl(site, "path", tmp_path)
    for _ in ("cold", "hot"):
        answer = curl(bucket, "o", "-0")
        assert (answer.status, answer.body) == (200, data)
        assert answer.headers["content-length"] == str(len(data))


def test_an_absolute_form_names_bucket_by_path_or_host(sites_with_gateway: Site, tmp_path: Path) -> None:
    site = sites_with_gateway
    bucket, data = site.bucket(), payload(70_000)
    site.put(bucket, "dir/o", data)
    for url in (
        f"{site.url}/{bucket}/dir/o",
        f"http://{bucket}.{HOST_SUFFIX}/dir/o",
        f"{site.virtual_url}/{bucket}/dir/o",
    ):
        site.run("curl", "-sS", "-f", "--proxy", site.url, "--noproxy", "", "-o", tmp_path / "body", url)
        assert (tmp_path / "body").read_bytes() == data


def test_a_signed_upload_waits_for_100_continue_and_arrives(writable: Site, style: str, tmp_path: Path) -> None:
    bucket, data = writable.bucket(), payload(2 * MIB)
    (tmp_path / "up").write_bytes(data)
    curl = Curl(writable, style, tmp_path, sign=True)
    summed = ("-H", f"x-amz-content-sha256: {hashlib.sha256(data).hexdigest()}")
    sent = curl(
        bucket, "dir/up", "-T", tmp_path / "up", "-H", "Expect: 100-continue", "-H", "x-amz-meta-who: me", *summed
    )
    assert sent.status == 200
    assert writable.get(bucket, "dir/up") == data
    for _ in ("cold", "hot"):
        assert curl(bucket, "dir/up").body == data
    assert curl(bucket, "dir/up", "-I").headers["x-amz-meta-who"] == "me"
    assert curl(bucket, "dir/up", "-X", "DELETE").status == 204
    assert curl(bucket, "dir/up").status == 404


def test_pipelined_requests_are_answered_in_order(sites_with_gateway: Site) -> None:
    site = sites_with_gateway
    bucket = site.bucket()
    objects = [payload(size, size) for size in (3 * MIB, 10, 0, MIB + 1, 70_000)]
    for number, data in enumerate(objects):
        site.put(bucket, f"o{number}", data)
    for _ in ("cold", "hot"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
            for number in range(len(objects)):
                last = "Connection: close\r\n" if number == len(objects) - 1 else ""
                connection.sendall(f"GET /{bucket}/o{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n{last}\r\n".encode())
            stream = connection.makefile("rb")
            for data in objects:
                assert stream.readline().split()[1] == b"200"
                headers = dict(line.split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
                length = int({name.lower(): value for name, value in headers.items()}[b"content-length"])
                assert stream.read(length) == data
            assert stream.read() == b""


@pytest.fixture
def sites_with_gateway(site: Site) -> Site:
    if site.gateway is None:
        pytest.skip("an origin of its own takes neither absolute forms nor pipelines")
    return site
