"""What a test asks a real gateway's control process: where it is, and whom it knows."""

from __future__ import annotations

import time
from typing import Any

import httpx

from proxy.cli.cluster import NoAnswer, ask_members
from proxy.fleet.signing import sign
from tests.gateways import GatewayProcess, log_lines
from tests.waiting import wait_until

SECRET = "0123456789abcdef"


def control_url(gateway: GatewayProcess) -> str:
    """Of the control process that runs now; waits until it has said so."""
    wait_until(lambda: _control_urls(gateway) != [], "the node does not say where it is reached")
    return _control_urls(gateway)[-1]


def _control_urls(gateway: GatewayProcess) -> list[str]:
    return [line["control"] for line in log_lines(gateway.logs()) if "is reached at" in line["message"]]


def control_pid(gateway: GatewayProcess) -> int:
    [pid] = [pid for pid in gateway.children() if _role(pid) == "control"]
    return pid


def _role(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")[4].decode()


def members(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """As the node's control process describes them; empty while it does not answer."""
    try:
        return list(ask_members(control_url(gateway), [SECRET.encode()])["members"])
    except NoAnswer:
        return []


def states(gateway: GatewayProcess) -> dict[str, str]:
    """The state of each member by its URL."""
    return {member["url"]: member["state"] for member in members(gateway)}


def wait_for_states(gateway: GatewayProcess, wanted: dict[str, str], timeout_s: float = 30.0) -> None:
    wait_until(lambda: states(gateway) == wanted, f"the node does not see {wanted}", timeout_s)


def ask_signed(url: str, target: str, *, receiver: str = "", sender: str = "1", secret: str = SECRET) -> httpx.Response:
    """A signed GET."""
    signed = sign(
        [secret.encode()], sender=sender, receiver=receiver, method="GET", target=target.encode(), now_s=time.time()
    )
    return httpx.get(url + target, headers={"authorization": signed.authorization}, trust_env=False, timeout=30)
