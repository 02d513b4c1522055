"""Pass-through of any operation to GCS with a token of ours, streaming in both directions.

How it works. The client's headers are forwarded without those of its connection and its authorization. A request of the
JSON API keeps its path; one of the XML API is named by bucket and key. Uploads of every kind are ordinary requests: the
session of a resumable one is a query parameter, so no state is kept here, and its 308s pass through. A request that GCS
rejects with 401 is sent again with a new token if that is possible, that is if it has no body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from proxy.errors import AccessDenied, OriginUnavailable, blame
from proxy.http.headers import Headers, end_to_end
from proxy.http.xml import document, element
from proxy.metrics import ORIGIN_REQUESTS
from proxy.origin import ForwardRequest, ForwardResponse
from proxy.origin.exchange import HttpExchange, Use, header_pairs
from proxy.origin.gcs.credentials import TokenSource
from proxy.origin.gcs.target import Site, Target
from proxy.origin.headers import first_value
from proxy.origin.passing import nothing, replay, sent_headers
from proxy.origin.refusals import parse_refusal
from proxy.origin.trouble import request_id_of

USER_PROJECT = "x-goog-user-project"
REFUSAL_BYTES_MAX = 64 << 10  # of an error document


class Forwarding:
    """The sender of `ForwardRequest`s to one GCS service."""

    def __init__(
        self,
        name: str,
        site: Site,
        exchange: HttpExchange,
        tokens: TokenSource,
        user_project: str | None,
        marks: Callable[[], Headers],
    ) -> None:
        self._name = name
        self._site = site
        self._exchange = exchange
        self._tokens = tokens
        self._user_project = user_project
        self._marks = marks

    async def send(self, request: ForwardRequest) -> ForwardResponse:
        body = request.body if request.body_bytes != 0 else None
        target = self._locate(request)
        headers = self._headers(request, body is not None)
        token = await self._tokens.get()
        answer = await self._send_once(request.method, target, authorized(headers, token), body)
        if answer.status >= 400 and request.path is None and _is_json(answer.headers):
            answer = await _in_xml(answer)
        if answer.status != 401:
            return answer
        await answer.close()
        renewed = await self._tokens.renew(token) if token is not None else None
        if renewed == token:
            raise _refused(answer)
        if body is not None:
            raise OriginUnavailable("the origin wanted a new token for this upload; try again", retry_after_s=1.0)
        answer = await self._send_once(request.method, target, authorized(headers, renewed), None)
        if answer.status != 401:
            return answer
        await answer.close()
        raise _refused(answer)

    def _locate(self, request: ForwardRequest) -> Target:
        if request.path is not None:
            return self._site.path(request.path, request.query)
        return self._site.xml(request.bucket, request.key, request.query)

    def _headers(self, request: ForwardRequest, has_body: bool) -> Headers:
        headers = sent_headers(request, has_body)
        if self._user_project is None or any(name == USER_PROJECT for name, _ in headers):
            return headers
        if any(name == "userProject" for name, _ in request.query):
            return headers
        return (*headers, (USER_PROJECT, self._user_project))

    async def _send_once(
        self, method: str, target: Target, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> ForwardResponse:
        ORIGIN_REQUESTS.labels(self._name, "forward").inc()
        sent = (("host", target.endpoint.authority), *headers, *self._marks())
        if method == "HEAD":
            status, answered = await self._exchange.head(target, sent)
            return ForwardResponse(status, end_to_end(answered), replay(b"", None), nothing)
        response = await self._exchange.send(method, target, sent, body, use=Use.PASSING)
        answered = end_to_end(header_pairs(response))
        return ForwardResponse(response.status_code, answered, self._exchange.chunks(response), response.aclose)


def _is_json(headers: Headers) -> bool:
    return (first_value(headers, "content-type") or "").startswith("application/json")


async def _in_xml(answer: ForwardResponse) -> ForwardResponse:
    """Translate an error to XML: emulators answer requests of the XML API that they don't support in JSON."""
    raw = bytearray()
    try:
        async for chunk in answer.body:
            raw += chunk[: REFUSAL_BYTES_MAX - len(raw)]
    finally:
        await answer.close()
    refusal = parse_refusal(bytes(raw))
    code = "InternalError" if answer.status >= 500 else "InvalidRequest"
    if refusal.reason.isalnum():
        code = refusal.reason
    message = refusal.message or f"the origin answered {answer.status}"
    body = document("Error", element("Code", code) + element("Message", message))
    kept = tuple(pair for pair in answer.headers if pair[0] not in ("content-type", "content-length"))
    headers = (*kept, ("content-type", "application/xml; charset=UTF-8"), ("content-length", str(len(body))))
    return ForwardResponse(answer.status, headers, replay(body, None), nothing)


def _refused(answer: ForwardResponse) -> AccessDenied:
    """Return the clients' error: they would take a 401 for a rejection of their own token."""
    error = AccessDenied("the origin refuses this gateway's credentials (401); its operator must mend that")
    return blame(error, "refused", "401", request_id_of(answer.headers))


def authorized(headers: Headers, token: str | None) -> Headers:
    return headers if token is None else (*headers, ("authorization", f"Bearer {token}"))
