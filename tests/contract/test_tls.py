"""Over TLS, with an authority of one's own, a real server's signatures and bytes are as good."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import OriginUnavailable
from proxy.origin.s3 import Credentials, FixedCredentials, S3Origin, S3Settings
from proxy.ranges import ByteRange
from tests.fakes.certificates import make_certificates
from tests.origin.asking import Received
from tests.servers import start_rclone


async def test_an_origin_behind_tls_is_read_when_its_authority_is_given(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    (tmp_path / "root/models").mkdir(parents=True)
    (tmp_path / "root/models/weights").write_bytes(bytes(range(256)) * 4000)
    with start_rclone(tmp_path / "root", tls=(certificates.server_file, certificates.key_file)) as server:
        keys = FixedCredentials(Credentials(server.access_key_id, server.secret_access_key))
        trusting = S3Origin(S3Settings(server.url, ca_file=certificates.ca_file), keys)
        unchecked = S3Origin(S3Settings(server.url, verify_tls=False), keys)
        doubting = S3Origin(S3Settings(server.url), keys)
        for origin in (trusting, unchecked):
            record, sink = await origin.head("models", "weights"), Received()
            await origin.read_range(record.version, ByteRange(1, 900_001), sink)
            assert sink.data == (bytes(range(256)) * 4000)[1:900_001]
        with pytest.raises(OriginUnavailable, match="connect"):
            await doubting.head("models", "weights")
        for origin in (trusting, unchecked, doubting):
            await origin.aclose()
