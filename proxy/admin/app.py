"""`/-/health`, `/-/ready` and `/-/metrics` as an ASGI application.

Whether a request is for this application at all is decided before it (`proxy.composition.dispatch`): `/-/` belongs to
the gateway on path-style hosts only, and in a fleet `/-/peer/` is `proxy.peering`'s. Everything else under `/-/` is a
404.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from proxy.admin.exposition import render_metrics
from proxy.admin.readiness import Readiness
from proxy.metrics import flush_tallies

PATHS = ("/-/health", "/-/ready", "/-/metrics")


class AdminApp:
    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path not in PATHS:
            return PlainTextResponse("no such page: see /-/health, /-/ready, /-/metrics\n", 404)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET\n", 405, {"allow": "GET, HEAD"})
        match path:
            case "/-/health":
                return PlainTextResponse("healthy\n")
            case "/-/ready":
                return await self._ready()
        flush_tallies()
        body, content_type = await asyncio.to_thread(render_metrics, request.headers.get("accept", ""))
        return Response(body, media_type=None, headers={"content-type": content_type})

    async def _ready(self) -> Response:
        reasons = await self._readiness.reasons()
        if reasons:
            return JSONResponse({"ready": False, "reasons": list(reasons)}, 503)
        return JSONResponse({"ready": True})
