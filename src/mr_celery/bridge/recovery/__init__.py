"""Recovery: finds stuck, lost, aborted and unknown jobs, and spool files that no job needs."""
