"""Runs an embedded Redis, a worker and a bridge as processes of one command, for a single machine."""
