"""A test per client: what works at an origin works through the gateway, path style and virtual-host style.

Every test runs against moto's server, `rclone serve s3` and, for reads, a directory. To tell a quirk of an origin from
a fault of ours, run the same tests with no gateway between: `WARMSTART_TEST_DIRECT=1 pytest tests/compat`.
"""
