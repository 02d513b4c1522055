"""curl, calling as `gcloud storage` and model streamers do: tokens, ranges out of order, fields, uploads in parts."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.compat.sites import MIB, Site, payload

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

DATA = payload(3 * MIB + 11)
TOKEN = ["-H", "authorization: Bearer ya29.token", "-H", "x-goog-user-project: tests"]
JSON = "content-type: application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def curl(site: Site, folder: Path, target: str, *options: str | Path) -> Answer:
    """One call; `target` is a path, or the whole URL."""
    url = target if target.startswith("http") else site.url + target
    files = [folder / "body", folder / "head"]
    for file in files:
        file.write_bytes(b"")
    site.run("curl", "-s", "-S", "--path-as-is", "-o", files[0], "-D", files[1], *TOKEN, *options, url)
    head = files[1].read_bytes().decode("latin-1").split("\r\n\r\n")[-2].split("\r\n")
    fields = (line.partition(":") for line in head[1:])
    return Answer(int(head[0].split()[1]), {n.lower(): v.strip() for n, _, v in fields}, files[0].read_bytes())


def test_an_object_is_described_and_loaded_by_its_media_link(goog: Site, tmp_path: Path) -> None:
    bucket, name = goog.bucket(), "models/a b.bin"
    goog.put(bucket, name, DATA)
    target = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    told = curl(
        goog, tmp_path, f"{target}?alt=json&fields=bucket%2Cname%2Csize%2Cgeneration%2CmediaLink&projection=noAcl"
    )
    resource = told.json()
    assert resource.keys() == {"bucket", "name", "size", "generation", "mediaLink"}
    assert (resource["bucket"], resource["name"], resource["size"]) == (bucket, name, str(len(DATA)))
    found = curl(goog, tmp_path, resource["mediaLink"], "-H", "accept-encoding: gzip, deflate")
    assert (found.status, found.body) == (200, DATA)
    assert found.headers["x-goog-generation"] == resource["generation"]


def test_a_streamer_gets_its_ranges_in_any_order(goog: Site, tmp_path: Path) -> None:
    """As runai-model-streamer's back-end for GCS asks: the JSON API, ranges out of order, no condition."""
    bucket = goog.bucket()
    goog.put(bucket, "m.bin", DATA)
    target = f"/storage/v1/b/{bucket}/o/m.bin?alt=media"
    first = curl(goog, tmp_path, target, "-r", "0-7")
    assert (first.status, first.body) == (206, DATA[:8])
    starts = list(range(0, len(DATA), MIB // 2))
    random.Random(3).shuffle(starts)
    for start in starts:
        end = min(start + MIB // 2, len(DATA))
        found = curl(goog, tmp_path, target, "-r", f"{start}-{end - 1}")
        assert (found.status, found.body) == (206, DATA[start:end])
        assert found.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    with goog.no_origin_bytes():
        assert curl(goog, tmp_path, target).body == DATA


def test_a_bucket_is_listed_page_by_page(goog: Site, tmp_path: Path) -> None:
    bucket = goog.bucket()
    for key in ("a/1", "a/2", "b", "c"):
        goog.put(bucket, key, key.encode())
    if goog.kind == "gcs-emulator":
        pytest.skip("it knows no pages")
    found: list[str] = []
    token = ""
    while True:
        query = (
            f"delimiter=/&maxResults=2&projection=noAcl&pageToken={quote(token)}"
            if token
            else "delimiter=/&maxResults=2"
        )
        page = curl(goog, tmp_path, f"/storage/v1/b/{bucket}/o?{query}").json()
        found += [item["name"] for item in page.get("items", [])] + page.get("prefixes", [])
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert sorted(found) == ["a/", "b", "c"]


def test_an_upload_in_parts_goes_on_at_this_gateway(goog_writable: Site, tmp_path: Path) -> None:
    site, bucket = goog_writable, goog_writable.bucket()
    door = f"/resumable/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=up%2Fload"
    begun = curl(site, tmp_path, door, "-X", "POST", "-d", "{}", "-H", JSON)
    location = begun.headers["location"]
    assert location.startswith(site.url + "/upload/storage/v1/b/")
    part = tmp_path / "part"
    for start in range(0, len(DATA), MIB):
        end = min(start + MIB, len(DATA))
        part.write_bytes(DATA[start:end])
        span = f"content-range: bytes {start}-{end - 1}/{len(DATA)}"
        found = curl(site, tmp_path, location, "-T", part, "-H", span)
        assert found.status == (200 if end == len(DATA) else 308)
    assert found.json()["name"] == "up/load"
    assert curl(site, tmp_path, f"/storage/v1/b/{bucket}/o/up%2Fload?alt=media").body == DATA


def test_the_xml_api_is_spoken_to_whoever_shows_a_token(goog: Site, tmp_path: Path) -> None:
    bucket = goog.bucket()
    goog.put(bucket, "m.bin", DATA)
    found = curl(goog, tmp_path, f"/{bucket}/m.bin", "-r", "5-9")
    assert (found.status, found.body) == (206, DATA[5:10])
    assert found.headers["x-goog-stored-content-length"] == str(len(DATA))
    missing = curl(goog, tmp_path, f"/{bucket}/none")
    assert (missing.status, b"<Details>" in missing.body) == (404, True)
