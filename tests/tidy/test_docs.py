"""Every setting and every metric is explained where a user looks for it; links between documents lead somewhere."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import Counter, Metric
from prometheus_client.metrics import MetricWrapperBase

from proxy import metrics
from proxy.config.schema import SECTIONS
from proxy.gateway.answers import CacheStatus
from tests.tidy.sources import ROOT, repository_files

# A file or folder of the repository in backticks; one with a name in capitals in it is yours to choose.
PATH = re.compile(r"`((?:proxy|s3api|gcsapi|tests|bench|docs|configs|helm)/[a-z0-9_./-]*)(?:::\w+)?`")


def pages_with_paths() -> list[Path]:
    """The documents that send readers into the tree."""
    single = [ROOT / name for name in ("docs/glossary.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*single, *sorted((ROOT / "docs/decisions").glob("*.md")), *sorted((ROOT / "docs/develop").glob("*.md"))]


def described_metrics() -> list[Metric]:
    """What is known of each counter, without a sample."""
    return [next(iter(metric.describe())) for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]


def test_every_setting_is_in_the_configuration_page() -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    keys = {(section.__name__, key) for section in SECTIONS for key in section.model_fields}
    missing = [f"{section}.{key}" for section, key in keys if not re.search(rf"`([\w<>*\[\]-]+\.)*{key}`", page)]
    assert not missing


# Where the page has a metric's values when they are not in its row: in the row of another one, or a table of their own.
TOLD_BY = {
    "warmstart_limit": "warmstart_shed_requests_total",
    "warmstart_limit_used": "warmstart_shed_requests_total",
    "warmstart_evicted_bytes_total": "warmstart_evicted_segments_total",
}


def row_name(metric: MetricWrapperBase) -> str:
    """What Prometheus, and the page, call a metric."""
    name = next(iter(metric.describe())).name
    return f"{name}_total" if isinstance(metric, Counter) else name


def all_metrics() -> dict[str, MetricWrapperBase]:
    return {row_name(metric): metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)}


def metric_rows() -> dict[str, tuple[str, str]]:
    """What the operations page has of each metric: its labels, and what it says about it."""
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    found = re.findall(r"^\| `(warmstart_\w+)` \|([^|]*)\| (.*) \|$", page, re.MULTILINE)
    assert len({name for name, _, _ in found}) == len(found), "a metric has two rows"
    return {name: (labels.strip(), text) for name, labels, text in found}


def failure_reasons() -> set[str]:
    """Those of warmstart_origin_errors_total have a table of their own."""
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    _, _, table = page.partition("\n| `reason` |")
    cells = (line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()[2:])
    return {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)}


def test_the_operations_page_has_a_row_for_each_metric_and_for_nothing_else() -> None:
    assert sorted(metric_rows()) == sorted(all_metrics())


def test_the_operations_page_names_each_metrics_labels() -> None:
    told = {name: labels for name, (labels, _) in metric_rows().items()}
    assert told == {name: ", ".join(metric._labelnames) for name, metric in all_metrics().items()}


def test_every_metric_with_labels_declares_the_values_of_all_that_are_not_open() -> None:
    assert {name for name, metric in all_metrics().items() if metric._labelnames} == {
        row_name(metric) for metric in metrics.LABEL_VALUES
    }
    for metric, values in metrics.LABEL_VALUES.items():
        assert [name for name in metric._labelnames if name not in metrics.OPEN_LABELS] == list(values), metric


def test_the_operations_page_has_exactly_the_values_that_each_metric_declares() -> None:
    rows = metric_rows()
    wrong = {}
    for metric, values in metrics.LABEL_VALUES.items():
        name = row_name(metric)
        told = set(re.findall(r"`([A-Za-z_]+)`", rows[TOLD_BY.get(name, name)][1])) - {*metric._labelnames, *rows}
        if metric is metrics.ORIGIN_ERRORS:
            told = failure_reasons()
        declared = {value for each in values.values() for value in each}
        if values and told != declared:
            wrong[name] = told ^ declared
    assert not wrong


def test_the_help_of_each_metric_names_the_values_that_it_declares() -> None:
    missing = [
        f"{row_name(metric)}: {value}"
        for metric, values in metrics.LABEL_VALUES.items()
        for value in (value for each in values.values() for value in each)
        if metric not in (metrics.LIMIT, metrics.LIMIT_USED)  # whose help refers to another metric's
        and not re.search(rf"\b{value}\b", metric._documentation)
    ]
    assert not missing


def test_the_cache_labels_values_are_those_of_the_header() -> None:
    assert set(metrics.LABEL_VALUES[metrics.REQUESTS]["cache"]) == {status.value for status in CacheStatus}


def test_every_metric_has_our_prefix_and_a_phrase_that_says_what_it_counts() -> None:
    assert all(
        metric.name.startswith("warmstart_") and len(metric.documentation) > 10 for metric in described_metrics()
    )


@pytest.mark.parametrize("page", pages_with_paths(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_and_folder_that_a_guide_names_is_there(page: Path) -> None:
    named = set(PATH.findall(page.read_text("utf-8")))
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


DECISION_PARTS = ["Context", "Decision", "Evidence", "Consequences", "What would change our mind"]
SCREEN_LINES = 48


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_fits_on_a_screen_has_all_parts_and_is_in_the_index(page: Path) -> None:
    text = page.read_text("utf-8")
    if page.name != "README.md":
        assert text.count("\n") <= SCREEN_LINES
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == DECISION_PARTS
        assert f"({page.name})" in (page.parent / "README.md").read_text("utf-8")


def test_every_name_that_a_guide_imports_is_there() -> None:
    text = "".join(page.read_text("utf-8") for page in (ROOT / "docs/develop").glob("*.md"))
    imports = re.findall(r"from ((?:proxy|s3api|gcsapi|tests)[\w.]*) import (\w+)", text)
    assert imports
    assert not [f"{module}.{name}" for module, name in imports if not hasattr(import_module(module), name)]


def test_every_term_of_the_glossary_names_its_module() -> None:
    rows = [line for line in (ROOT / "docs/glossary.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    terms = [row.strip("| ").split(" | ") for row in rows if not row.startswith("| term |")]
    assert len(terms) > 60
    assert not [row for row in terms if len(row) != 3 or not PATH.search(row[2])]


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in repository_files()
        if page.suffix == ".md"
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not broken
