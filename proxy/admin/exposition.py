"""The counters of all processes of this run, as Prometheus reads them."""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector


def render_metrics(accept: str) -> tuple[bytes, str]:
    """Body and content type, in the format that the `Accept` header asks for. Blocking: it reads files."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry = REGISTRY  # a single process, as in tests
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
