"""The answers to other nodes of the fleet, under `/-/peer/`: blocks, key records, members, and who this node is."""
