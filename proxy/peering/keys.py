"""Key records for other nodes: this node is a key's owner for the nodes that ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.errors import OriginUnavailable, WarmstartError
from proxy.fleet.freshness import Freshness
from proxy.fleet.protocol import WantedRecord
from proxy.gateway.key_owner import render_answer, render_error
from proxy.gateway.routes import BucketRoute, Consistency
from proxy.gateway.versions import Versions
from proxy.objects import ObjectName
from proxy.origin import Origin


class Keys:
    """The key records of this node. `origins` by their ids; `freshness` if nodes announce writes to each other."""

    def __init__(self, versions: Versions, origins: Mapping[str, Origin], freshness: Freshness | None = None) -> None:
        self._freshness = freshness
        self._versions = versions
        self._origins = origins

    async def answer(self, wanted: WantedRecord) -> tuple[int, Any]:
        """Return status and JSON: a record, an error of the origin, or that the asking node must find out itself."""
        key = wanted.key
        origin = self._origins.get(key.origin)
        if origin is None:
            return 404, {"said": f"this node has no origin {key.origin}"}
        route = BucketRoute(
            name=key.bucket,
            origin=origin,
            real_bucket=key.bucket,
            writes_through=False,
            consistency=Consistency.IMMUTABLE if wanted.ttl_s is None else Consistency.TTL,
            ttl_s=wanted.ttl_s or 0.0,
            negative_ttl_s=wanted.negative_ttl_s,
            freshness=self._freshness,
        )
        name = ObjectName(key.bucket, key.key, key.version_id)
        try:
            anew = wanted.anew or self._is_behind(wanted.heard)
            resolved = await self._versions.resolve(route, name, revalidate=anew, as_owner=True)
        except WarmstartError as error:
            now_s = self._versions.clock()
            told = render_error(error, now_s) if not isinstance(error, OriginUnavailable) else None
            return (200, told) if told is not None else (503, {"said": str(error)})
        return 200, render_answer(resolved.record, self._versions.clock(), asked=resolved.asked)

    def _is_behind(self, heard: int | None) -> bool:
        """Return whether the asking node has learned of writes that this node has not."""
        if heard is None or self._freshness is None:
            return False
        own = self._freshness.heard
        return own is None or own < heard
