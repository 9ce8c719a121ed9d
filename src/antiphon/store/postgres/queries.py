"""The named blocks of SQL as PostgreSQL understands them."""

from __future__ import annotations

from antiphon.store import served
from antiphon.store.queries import Queries

_QUERIES = Queries(served.__name__, __package__)

text = _QUERIES.text
blocks = _QUERIES.blocks
query = _QUERIES.query
