"""XML documents in S3's namespace. Pure."""

from __future__ import annotations

from proxy.http import xml
from proxy.http.xml import element as element

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def document(root: str, content: str, *, namespace: str | None = NAMESPACE) -> bytes:
    return xml.document(root, content, namespace=namespace)
