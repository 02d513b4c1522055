"""Clients built on aws-c-s3 (the CRT): s3torchconnector's Rust client, and s3transfer's CRT manager.

They read the first part before they know the object, with no HEAD, and the others with If-Match, all at once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.compat.sites import MIB, REGION, Site, Sites, payload

# In a process of its own: both clients keep event-loop threads of their own, which outlive them.
CONNECTOR = """
import sys
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client
endpoint, region, bucket, folder = sys.argv[1:]
client = MountpointS3Client(region, endpoint=endpoint, force_path_style=True, part_size=5 << 20, max_attempts=1)
for name in ("cold", "hot"):
    with open(f"{folder}/{name}", "wb") as file:
        file.writelines(client.get_object(bucket, "m/a b.bin"))
assert b"".join(client.get_object(bucket, "m/a b.bin", 100, 300)) == open(f"{folder}/hot", "rb").read()[100:300]
assert b"".join(client.get_object(bucket, "m/empty")) == b""
assert client.head_object(bucket, "m/a b.bin").size == len(open(f"{folder}/hot", "rb").read())
listed = [(item.key, item.size) for page in client.list_objects(bucket, "m/") for item in page.object_info]
assert [key for key, _ in listed] == ["m/a b.bin", "m/empty"], listed
"""
CONNECTOR_WRITES = """
import sys
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client
endpoint, region, bucket, folder = sys.argv[1:]
client = MountpointS3Client(region, endpoint=endpoint, force_path_style=True, part_size=5 << 20, max_attempts=1)
stream = client.put_object(bucket, "m/up.bin")
stream.write(open(f"{folder}/up.bin", "rb").read())
stream.close()
with open(f"{folder}/down.bin", "wb") as file:
    file.writelines(client.get_object(bucket, "m/up.bin"))
"""
MANAGER = """
import sys
import botocore.session
from awscrt.s3 import S3RequestTlsMode
from s3transfer.crt import BotocoreCRTCredentialsWrapper, BotocoreCRTRequestSerializer, CRTTransferManager
from s3transfer.crt import create_s3_crt_client
endpoint, region, bucket, folder = sys.argv[1:]
session = botocore.session.get_session()
wrapper = BotocoreCRTCredentialsWrapper(session.get_credentials())
settings = {"endpoint_url": endpoint, "region_name": region}
serializer = BotocoreCRTRequestSerializer(session, settings)
client = create_s3_crt_client(
    region, crt_credentials_provider=wrapper.to_crt_credentials_provider(), part_size=5 << 20, use_ssl=False
)
with CRTTransferManager(client, serializer) as manager:
    for name in ("cold", "hot"):
        manager.download(bucket, "m/a b.bin", f"{folder}/{name}").result()
"""


def run_script(site: Site, script: str, bucket: str, folder: Path) -> None:
    command = [sys.executable, "-c", script, site.url, REGION, bucket, str(folder)]
    done = subprocess.run(command, env=site.environment(), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")


def test_the_connector_reads_in_parts_with_no_head_before(site: Site, tmp_path: Path) -> None:
    bucket, data = site.bucket(), payload(12 * MIB + 5)
    site.put(bucket, "m/a b.bin", data)
    site.put(bucket, "m/empty", b"")
    before = site.origin_bytes()
    run_script(site, CONNECTOR, bucket, tmp_path)
    assert (tmp_path / "cold").read_bytes() == (tmp_path / "hot").read_bytes() == data
    assert site.gateway is None or site.origin_bytes() - before == len(data)


def test_the_connector_writes_in_parts(sites: Sites, tmp_path: Path) -> None:
    """Not at rclone: the client gives up when it sees how that begins an upload in parts."""
    site = sites["moto"]
    bucket, data = site.bucket(), payload(12 * MIB + 5)
    (tmp_path / "up.bin").write_bytes(data)
    run_script(site, CONNECTOR_WRITES, bucket, tmp_path)
    assert site.get(bucket, "m/up.bin") == data
    assert (tmp_path / "down.bin").read_bytes() == data


def test_the_transfer_manager_downloads_in_parts(site: Site, tmp_path: Path) -> None:
    bucket, data = site.bucket(), payload(12 * MIB + 5)
    site.put(bucket, "m/a b.bin", data)
    before = site.origin_bytes()
    run_script(site, MANAGER, bucket, tmp_path)
    assert (tmp_path / "cold").read_bytes() == (tmp_path / "hot").read_bytes() == data
    assert site.gateway is None or site.origin_bytes() - before == len(data)
