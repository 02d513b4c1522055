"""wrk, the load: one thread, N connections, requests made before the run, latencies taken from its own histogram.

Every request names one range of one object; ranges are aligned to their length and spread at random, the same on
every side. SDK_HEADERS are what a usual SDK of S3 sends with each request, signature included.
"""

from __future__ import annotations

import random
import re
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.processes import LOAD_CORES, join_bench, program

INSTALL = "apt-get install wrk"
Headers = tuple[tuple[str, str], ...]
Request = tuple[str, str]  # path, and range (`0-4095`, "" for the whole object)
_REQUESTS_MAX = 2048

SDK_HEADERS = (
    ("Accept-Encoding", "identity"),
    (
        "User-Agent",
        "Boto3/1.40.0 md/Botocore#1.40.0 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11.9 cfg/retry-mode#legacy",
    ),
    ("X-Amz-Checksum-Mode", "ENABLED"),
    ("X-Amz-Date", "20261124T090000Z"),
    ("X-Amz-Content-SHA256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/us-east-1/s3/aws4_request, SignedHeaders=host;range;"
        "x-amz-checksum-mode;x-amz-content-sha256;x-amz-date, Signature=" + "ab" * 32,
    ),
    ("amz-sdk-invocation-id", "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"),
    ("amz-sdk-request", "attempt=1"),
)

_SCRIPT = """
local requests = {{}}
for line in io.lines("{requests}") do
  local path, range = line:match("^(%S+) ?(%S*)$")
  local headers = {{ ["Host"] = "{host}", {headers} }}
  if range ~= "" then headers["Range"] = "bytes=" .. range end
  requests[#requests + 1] = wrk.format("GET", path, headers)
end
local turn = 0
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk found. Latencies are to the last byte; `received_bytes` with heads and unfinished answers."""

    requests: int
    received_bytes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float = 0.0


def run_wrk(
    url: str, folder: Path, requests: Sequence[Request], *, connections: int, seconds: float, headers: Headers = ()
) -> Load:
    """All requests in turn, again and again. Raises RuntimeError on failed requests, Missing without wrk."""
    listed, script = folder / "requests", folder / "wrk.lua"
    listed.write_text("".join(f"{path} {span}\n" for path, span in requests))
    lines = ", ".join(f'["{name}"] = "{value}"' for name, value in headers)
    script.write_text(_SCRIPT.format(requests=listed, headers=lines, host=url.partition("://")[2]))
    command = [program("wrk", INSTALL), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "-s", str(script), url],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
        preexec_fn=partial(join_bench, LOAD_CORES),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return replace(parse_wrk(done.stdout + done.stderr), cpu_s=cpu_s)


def parse_wrk(text: str) -> Load:
    """Raises RuntimeError where requests failed, or nothing came. No answer ended: latencies are the run's length."""
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
    if found is None or int(found[6]) or not int(found[2]):
        raise RuntimeError(f"wrk failed:\n{text}")
    requests, received, duration_us, p50_us, p99_us = (int(value) for value in found.groups()[:5])
    if not requests:
        p50_us = p99_us = duration_us
    return Load(requests, received, duration_us / 1e6, p50_us / 1e3, p99_us / 1e3)


def aligned_ranges(path: str, object_bytes: int, range_bytes: int, seed: int = 1) -> list[Request]:
    """Ranges of one object, at random, each aligned to its length; every one at most once while there are enough."""
    namespaces = list(range(object_bytes // range_bytes))
    random.Random(seed).shuffle(namespaces)
    return [(path, f"{p * range_bytes}-{(p + 1) * range_bytes - 1}") for p in namespaces[:_REQUESTS_MAX]]
