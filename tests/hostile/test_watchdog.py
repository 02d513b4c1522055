"""A gateway says which request held its event loop, and never a query."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

from tests.gateways import log_lines, start_gateway
from tests.waiting import wait_until

# Loaded by each process of the gateway as it starts: at a signal, its main thread does nothing else for a while.
HOLD = """
import signal, time
signal.signal(signal.SIGRTMIN, lambda *_: time.sleep(0.3))
"""


def test_slow_work_is_logged_and_counted_without_any_query(tmp_path: Path) -> None:
    bucket = tmp_path / "shelf" / "b"
    bucket.mkdir(parents=True)
    (bucket / "k").write_bytes(bytes(1000))
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOLD)
    config = {"limits": {"slow_callback": "50ms"}}
    environment = {"PYTHONPATH": str(hook)}

    with start_gateway(tmp_path, origin=f"file://{bucket.parent}", config=config, environment=environment) as gateway:
        (pid,) = gateway.worker_pids()

        def is_counted() -> bool:
            os.kill(pid, signal.SIGRTMIN)
            httpx.get(f"{gateway.url}/b?list-type=2&X-Amz-Signature=private", trust_env=False).raise_for_status()
            return gateway.metric("warmstart_slow_callbacks_total") > 0

        wait_until(is_counted, "nothing was slow")
        logs = gateway.logs()
    [line, *_] = [line for line in log_lines(logs) if line["logger"] == "warmstart.watchdog"]
    assert line["message"].startswith("the event loop was held for ")
    assert "private" not in logs
