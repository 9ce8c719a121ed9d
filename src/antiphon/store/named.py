"""Rows with index and name access, whatever has read them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


class Row(tuple[Any, ...]):
    """A row with index and name access; names are looked up whatever the case of their letters."""

    __slots__ = ()
    names: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                return tuple.__getitem__(self, self.names[key.lower()])
            except KeyError:
                raise IndexError(f"the row has no column {key!r}") from None
        return tuple.__getitem__(self, key)

    def keys(self) -> list[str]:
        """The names of the columns."""
        return list(self.names)


@lru_cache(maxsize=1024)
def row_type(names: tuple[str, ...]) -> type[Row]:
    """The rows of a result with columns of these names."""
    return type("Row", (Row,), {"__slots__": (), "names": {name.lower(): n for n, name in enumerate(names)}})
