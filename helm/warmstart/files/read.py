"""Reads an object twice through the node's gateway and prints the results; `helm test` runs it.

Usage: read.py URL [BUCKET/KEY]
"""

import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_S = 60
# The certificate may be a private authority's; this asks whether bytes come, not whose they are.
CONTEXT = ssl._create_unverified_context()


def read(url):
    """Read the whole response; return its status, X-Cache and length."""
    began, count = time.monotonic(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=CONTEXT) as answer:
        while piece := answer.read(1 << 20):
            count += len(piece)
        told = answer.headers.get("Content-Length")
        if told is not None and int(told) != count:
            raise OSError(f"{count} of {told} bytes arrived")
        took = max(time.monotonic() - began, 1e-6)
        print(f"{url}: {answer.status}, {count} bytes in {took:.2f} s, X-Cache: {answer.headers.get('X-Cache')}")
        return answer.headers.get("X-Cache")


def main(arguments):
    base, *objects = arguments
    try:
        read(f"{base}/-/ready")
        for name in objects:
            url = f"{base}/{urllib.parse.quote(name)}"
            read(url)
            if read(url) != "HIT":
                print("the second read was not a HIT: the object is not cached (see warmstart_uncached_reads_total)")
                return 1
        if not objects:
            print("no object was read; to read one, set the value test.object (bucket/key)")
    except urllib.error.HTTPError as error:
        print(f"{error.url}: {error.code} {error.reason}\n{error.read(2000).decode(errors='replace')}")
        return 1
    except OSError as error:
        print(f"{base}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
