"""An origin under test, and how to change what it holds behind its back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.origin import Origin
from proxy.origin.gcs import AnonymousTokens, GcsOrigin, GcsSettings
from proxy.origin.s3 import Credentials, FixedCredentials, S3Origin, S3Settings
from tests.servers import GcsServer, S3Server

BUCKET = "models"


@dataclass(slots=True)
class OriginUnderTest:
    """An origin, and how to change what it holds behind its back."""

    kind: str
    origin: Origin
    client: Any = None
    folder: Path | None = None
    gcs: GcsServer | None = None

    @property
    def takes_any_key(self) -> bool:
        return self.kind in ("moto", "fake_gcs")

    def put(self, key: str, data: bytes, **extra: Any) -> None:
        if self.gcs is not None:
            self.gcs.put(BUCKET, key, data, **extra)
        elif self.client is not None:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=data, **extra)
        else:
            assert self.folder is not None
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def delete(self, key: str) -> None:
        if self.gcs is not None:
            self.gcs.delete(BUCKET, key)
        elif self.client is not None:
            self.client.delete_object(Bucket=BUCKET, Key=key)
        else:
            assert self.folder is not None
            (self.folder / key).unlink()


def s3_under_test(kind: str, server: S3Server) -> OriginUnderTest:
    keys = Credentials(server.access_key_id, server.secret_access_key)
    return OriginUnderTest(kind, S3Origin(S3Settings(server.url), FixedCredentials(keys)), client=server.client())


def gcs_under_test(kind: str, server: GcsServer) -> OriginUnderTest:
    return OriginUnderTest(kind, GcsOrigin(GcsSettings(server.url), AnonymousTokens()), gcs=server)
