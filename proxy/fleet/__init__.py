"""Who else is here, and whom to read from: members, owners, relay chains, invalidation. Knows no caches and no bytes.

How it works. One process of each node, the control process, stays in touch with the other nodes: it finds the members
(`redis`, or by addresses: `dns`, a static list), answers asks as the owner of blocks (`directory`, `chains`), and hears
of invalidations. What it finds, the node's workers read from shared memory (`state`): the members, and how long records
may be trusted. Workers ask owners themselves (`protocol`) and publish their writes themselves (`publisher`). Requests
between nodes are signed (`signing`), what is written to Redis is sealed (`messages`), and `rediskeys` names its keys.
"""
