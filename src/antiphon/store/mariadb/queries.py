"""The named blocks of SQL as MariaDB understands them."""

from __future__ import annotations

from antiphon.store.queries import Queries

_QUERIES = Queries(__package__)

text = _QUERIES.text
blocks = _QUERIES.blocks
query = _QUERIES.query
