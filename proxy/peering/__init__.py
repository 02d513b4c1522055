"""What a data port answers to other nodes of the fleet, under `/-/peer/`: blocks, records of keys, and who this is."""
