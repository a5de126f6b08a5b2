"""Everything on one machine in one command: an embedded Redis, a worker and a bridge as processes."""
