"""Every setting and every metric is explained where a user looks for it; links between documents lead somewhere."""

from __future__ import annotations

import re

from prometheus_client import Counter, Metric
from prometheus_client.metrics import MetricWrapperBase

from proxy import metrics
from proxy.config.schema import SECTIONS
from tests.tidy.sources import ROOT, repository_files


def described_metrics() -> list[Metric]:
    """What is known of each counter, without a sample."""
    return [next(iter(metric.describe())) for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]


def test_every_setting_is_in_the_configuration_page() -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    keys = {(section.__name__, key) for section in SECTIONS for key in section.model_fields}
    missing = [f"{section}.{key}" for section, key in keys if not re.search(rf"`([\w<>*\[\]-]+\.)*{key}`", page)]
    assert not missing


def test_every_metric_is_in_the_operations_page() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    assert not [metric.name for metric in described_metrics() if not re.search(rf"\b{metric.name}(_total)?\b", page)]


def test_every_value_of_a_counters_labels_is_in_its_help_and_in_the_operations_page() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    missing = []
    for counter, values in metrics.LABEL_VALUES.items():
        [described] = counter.describe()
        for value in (value for each in values.values() for value in each):
            if not re.search(rf"\b{value}\b", described.documentation) or f"`{value}`" not in page:
                missing.append(f"{described.name}: {value}")
    assert not missing


def test_every_counter_with_labels_declares_their_values() -> None:
    # Operations and statuses; the supervisor and the housekeeper show their own.
    open_sets = {metrics.REQUESTS, metrics.WORKER_RESTARTS, metrics.WRITE_BACK_FAILURES}
    labelled = {metric for metric in vars(metrics).values() if isinstance(metric, Counter) and metric._labelnames}
    assert labelled - open_sets == set(metrics.LABEL_VALUES)
    for counter, values in metrics.LABEL_VALUES.items():
        assert {*values, "origin"} >= set(counter._labelnames)


def test_every_metric_has_our_prefix_and_a_phrase_that_says_what_it_counts() -> None:
    assert all(
        metric.name.startswith("warmstart_") and len(metric.documentation) > 10 for metric in described_metrics()
    )


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in repository_files()
        if page.suffix == ".md"
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not broken
