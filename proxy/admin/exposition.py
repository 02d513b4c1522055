"""The counters of all processes of this run, as Prometheus reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector


class _WrittenFiles(MultiProcessCollector):
    """Passes over a file that a starting process has just made: the library fails on one that is still empty."""

    def collect(self) -> Iterable[Metric]:
        paths = [path for path in Path(self._path).glob("*.db") if _size_bytes(path)]
        metrics: Iterable[Metric] = self.merge([str(path) for path in paths], accumulate=True)  # type: ignore[no-untyped-call]
        return metrics


def _size_bytes(path: Path) -> int:
    """0 for a file that is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def render_metrics(accept: str) -> tuple[bytes, str]:
    """Body and content type, in the format that the `Accept` header asks for. Blocking: it reads files."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        _WrittenFiles(registry)  # type: ignore[no-untyped-call]
    else:
        registry = REGISTRY  # a single process, as in tests
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
