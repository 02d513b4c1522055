"""A fleet in memory: what many nodes' links and one origin's do to each other while all load one model.

How it works. Time goes in steps; in one step a node's link moves one relay piece (128 KiB) out and one in. A `Network`
holds the running transfers as arrays and moves them; `Asks` names the source of each transfer with the product's own
`proxy.fleet.chains` and `proxy.fleet.owners`, and no rule of its own; `Judges` finds slow nodes by the product's
`Slowness`, `Leases` stands for Redis; `Load` is what the readers do: their windows,
deaths, late starts. A `Scenario` says all of it, a `Result` what came out. Nothing here is in seconds but what says so.
"""
