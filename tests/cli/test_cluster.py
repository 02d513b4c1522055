"""`warmstart cluster`: the table, the JSON, and one line when the node can't be asked."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from proxy.cli.cluster import control_url, describe_stats, make_table
from proxy.cli.commands import run_command
from proxy.config.sources import load_configuration
from tests.fleet.asking import SECRET, wait_for_states
from tests.gateways import GatewayProcess, start_gateway
from tests.servers import free_port


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "shelf").mkdir()
    control = f"127.0.0.1:{free_port()}"
    config = {"cluster": {"peers": ["http://127.0.0.1:9"], "secret": SECRET, "control": control, "zone": "here"}}
    with start_gateway(folder, origin=f"file://{folder / 'shelf'}", config=config) as gateway:
        wait_for_states(gateway, {gateway.url: "up"})
        yield gateway


def control_of(node: GatewayProcess) -> str:
    return control_url(load_configuration(node.config).settings)


def test_the_members_are_printed_once_as_a_table(node: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cluster", "--config", str(node.config), "--once"]) == 0
    out = capsys.readouterr().out
    for word in ("1 node", "here", "up", "uploads"):
        assert word in out


def test_the_members_are_printed_as_json(node: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cluster", "--config", str(node.config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [member] = found["members"]
    assert (member["node_id"], member["url"], member["state"]) == (found["node"], node.url, "up")


def test_a_node_that_does_not_answer_is_one_line(
    node: GatewayProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run_command(["cluster", "--config", str(node.config), "--url", url, "--once"]) == 1
    assert capsys.readouterr().err.startswith(f"warmstart: {url}: no answer (")


def test_another_secret_is_one_line(node: GatewayProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(node.config.read_text().replace(SECRET, "another secret, as long"))
    assert run_command(["cluster", "--config", str(other), "--once"]) == 1
    assert "refused: the secrets or the clocks differ" in capsys.readouterr().err


def test_who_is_no_node_is_said_to_be_none(node: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """The data port of a gateway answers, too, but it has no list of members."""
    assert run_command(["cluster", "--config", str(node.config), "--url", node.url, "--once"]) == 1
    assert capsys.readouterr().err.startswith(f"warmstart: {node.url}: ")


def test_a_gateway_without_a_fleet_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text("origins: {shelf: {type: file, root: /data}}\n")
    assert run_command(["cluster", "--config", str(path)]) == 2
    assert "cluster: is missing" in capsys.readouterr().err


def test_without_a_configuration_the_message_names_the_flag(
    node: GatewayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["cluster", "--once", "--url", control_of(node)]) == 2
    assert "--config FILE" in capsys.readouterr().err


def test_what_the_environment_says_of_the_fleet_is_enough(
    node: GatewayProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMSTART_CLUSTER", f"{{peers: ['http://127.0.0.1:9'], secret: '{SECRET}'}}")
    assert run_command(["cluster", "--once", "--url", control_of(node)]) == 0
    assert "1 node" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ("listen: 127.0.0.1:9000", "http://127.0.0.1:9001"),
        ("listen: 0.0.0.0:9000\nauth: none", "http://127.0.0.1:9001"),
        ("listen: '[::]:9000'\nauth: none", "http://[::1]:9001"),
    ],
)
def test_the_control_port_is_found_by_the_settings(tmp_path: Path, lines: str, url: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        f"{lines}\norigins: {{shelf: {{type: file, root: /data}}}}\ncluster: {{redis: redis://r:1, secret: {SECRET}}}\n"
    )
    assert control_url(load_configuration(path).settings) == url


def test_a_row_says_what_is_known_and_how_long_a_node_has_been_gone() -> None:
    base = {"zone": "", "node_id": "a", "url": "http://a:1"}
    found = {
        "node": "a",
        "members": [
            {**base, "state": "up", "stats": {"hits": 3, "misses": 1}},
            {**base, "node_id": "b", "state": "gone", "gone_s": 12.3, "stats": {}},
        ],
    }
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(make_table(found))
    text = console.export_text()
    assert text.startswith("1 node ")
    assert "http://a:1 *" in text
    assert "gone 12s" in text
    assert "75%" in text


def test_stats_are_shown_with_three_digits() -> None:
    stats = {"used_bytes": 5 << 30, "size_bytes": 20 << 30, "uploads": 2, "fills": 0, "origin_bytes": 1536, "hits": 0}
    assert describe_stats(stats) == ["5 GiB / 20 GiB", "-", "2", "0", "1.5 KiB", "-", "-"]
    assert describe_stats({}) == ["-"] * 7


def test_a_zone_whose_variable_is_empty_is_none_and_the_log_says_so(tmp_path: Path) -> None:
    """Of a pod without the label, Kubernetes makes an empty variable."""
    (tmp_path / "shelf").mkdir()
    config = {
        "cluster": {"peers": ["http://127.0.0.1:9"], "secret": SECRET, "control": "127.0.0.1:0", "zone": "${ZONE}"}
    }
    with start_gateway(
        tmp_path, origin=f"file://{tmp_path / 'shelf'}", config=config, environment={"ZONE": ""}
    ) as node:
        assert "cluster.zone is empty" in node.logs()
