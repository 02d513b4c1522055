"""Google's token servers, scripted: OAuth's token endpoint, a machine's metadata server, the IAM credentials API.

    async with ScriptedServer(identity()) as server: ...

Tokens are `token-1`, `token-2`, ... in the order they are asked for; those that a lender gives are `lent-1`, ....
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.scripted import Exchange, Handler

ACCOUNT = "robot@project.iam.gserviceaccount.com"


def identity(lifetime_s: int = 3600) -> Handler:
    """Answers each kind of question for a token."""
    given = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal given
        target = exchange.request.target.decode()
        metadata = [("Metadata-Flavor", "Google"), ("content-type", "application/json")]
        if ":generateAccessToken" in target:
            given += 1
            ends_at = datetime.now(UTC) + timedelta(seconds=lifetime_s)
            await _say(exchange, {"accessToken": f"lent-{given}", "expireTime": f"{ends_at:%Y-%m-%dT%H:%M:%SZ}"})
        elif target.startswith("/computeMetadata/v1/") and "/token" in target:
            given += 1
            token = {"access_token": f"token-{given}", "expires_in": lifetime_s, "token_type": "Bearer"}
            await exchange.respond(200, json.dumps(token).encode(), metadata)
        elif "/service-accounts/" in target:
            account = {"email": ACCOUNT, "scopes": ["https://www.googleapis.com/auth/cloud-platform"], "aliases": []}
            await exchange.respond(200, json.dumps(account).encode(), metadata)
        elif target.startswith(("/token", "/sts")):
            given += 1
            await _say(exchange, {"access_token": f"token-{given}", "expires_in": lifetime_s, "token_type": "Bearer"})
        elif "project-id" in target:
            await exchange.respond(200, b"project", metadata)
        elif target == "/":
            await exchange.respond(200, b"", metadata)
        else:
            await exchange.respond(404, b"", metadata)

    return handler


def write_key_file(folder: Path, url: str) -> Path:
    """A service account's key whose tokens come from the server at `url`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
    content = {
        "type": "service_account",
        "client_email": ACCOUNT,
        "private_key": pem,
        "private_key_id": "1",
        "project_id": "project",
        "token_uri": f"{url}/token",
    }
    return _write(folder / "key.json", content)


def write_federation_file(folder: Path, url: str) -> Path:
    """Workload identity federation: a token of another issuer is exchanged for one of Google's."""
    (folder / "subject").write_text("issued-elsewhere")
    content = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{url}/sts",
        "credential_source": {"file": str(folder / "subject")},
    }
    return _write(folder / "federation.json", content)


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


async def _say(exchange: Exchange, content: Mapping[str, Any]) -> None:
    await exchange.respond(200, json.dumps(content).encode(), [("content-type", "application/json")])
