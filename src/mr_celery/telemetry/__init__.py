"""Logs and traces, and the redaction of their content."""
