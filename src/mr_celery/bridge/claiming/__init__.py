"""Claiming: polls the inbox, chooses pending jobs, claims them and publishes their tasks."""
