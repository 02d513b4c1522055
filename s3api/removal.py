"""Deleting at a GCS bucket: what S3 promises of DeleteObject and DeleteObjects, by requests for one object each.

How it works. GCS answers 404 to the deletion of what is not there; to S3 that is a success. DeleteObjects becomes as
many requests as it names objects, a few at a time, each inside a fence of its own; its answer tells of each.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from proxy.errors import WarmstartError
from proxy.gateway.forward import Forwarder, ForwardRequest, ForwardResponse, read_body
from proxy.gateway.routes import BucketRoute
from proxy.surface.heads import Reply
from s3api.errors import Asked, describe
from s3api.requests import written_names
from s3api.to_gcs import generation_query
from s3api.xml import document, element

AT_ONCE_MAX = 16
ERROR_BYTES_MAX = 64 << 10
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9]{1,100})\s*</Code>")


async def delete_each(
    forwarder: Forwarder, route: BucketRoute, items: Sequence[tuple[str, str | None]], asked: Asked, *, quiet: bool
) -> Reply:
    """The answer to a DeleteObjects of these keys and version ids."""
    room = asyncio.Semaphore(AT_ONCE_MAX)

    async def delete(key: str, version_id: str | None) -> str:
        async with room:
            try:
                code, message = await _delete_one(forwarder, route, key, version_id)
            except WarmstartError as error:
                fault = describe(error, asked)
                code, message = fault.code, fault.message
        named = element("Key", key) + (element("VersionId", version_id) if version_id else "")
        if code:
            return f"<Error>{named}{element('Code', code)}{element('Message', message)}</Error>"
        return "" if quiet else f"<Deleted>{named}</Deleted>"

    told = await asyncio.gather(*(delete(key, version_id) for key, version_id in items))
    return Reply(200, (("content-type", "application/xml"),), document("DeleteResult", "".join(told)))


async def _delete_one(forwarder: Forwarder, route: BucketRoute, key: str, version_id: str | None) -> tuple[str, str]:
    """Code and message of the failure; empty where there is none."""
    request = ForwardRequest("DELETE", route.real_bucket, key, generation_query(version_id), ())
    response = await forwarder.forward(route, request, written_names(route.name, key, version_id), mutates=True)
    gone, body = await read_deletion(response)
    if gone or response.status < 300:
        return "", ""
    found = _CODE.search(body)
    code = found[1].decode("ascii") if found is not None else "InternalError"
    return code, f"The origin answered {response.status}."


async def read_deletion(response: ForwardResponse) -> tuple[bool, bytes]:
    """Whether GCS says that there was nothing to delete, and its answer's body; the response is closed then."""
    body = await read_body(response, ERROR_BYTES_MAX)
    found = _CODE.search(body)
    return response.status == 404 and found is not None and found[1] == b"NoSuchKey", body
