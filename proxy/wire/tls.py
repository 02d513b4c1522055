"""How this client checks whom it talks to."""

from __future__ import annotations

import ssl
from pathlib import Path


def make_tls_context(*, ca_file: Path | None = None, verify: bool = True) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate and host name checked against the system's authorities, or `ca_file`'s alone.

    `verify=False` checks nothing: for a test bench. OSError or ssl.SSLError where the file can't be used.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
