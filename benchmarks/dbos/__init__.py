"""Workflows beside DBOS: ``python -m benchmarks.dbos``."""
