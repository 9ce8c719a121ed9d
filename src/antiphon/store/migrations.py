"""How far a store's tables are: what its table antiphon_meta keeps of that."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from antiphon.errors import StoreVersion


def version_of(known: Mapping[str, int | str], newest: int, where: str) -> int:
    """The version of the tables; 0 if there are none. Raises StoreVersion when they are of a newer Antiphon."""
    version = int(known.get("version", 0))
    if version > newest:
        raise StoreVersion(
            f"its tables have version {version}, this Antiphon knows up to {newest}",
            where=where,
            mend="Upgrade Antiphon; nothing was changed",
        )
    return version


def marks(version: int, views: str, tables: Mapping[str, str]) -> dict[str, str]:
    """What is kept of a store whose tables have this version, with the script of its *views*, and those of services."""
    scripts = {f"tables:{service}": digest(script) for service, script in tables.items() if script}
    return {"version": str(version), "views": digest(views), **scripts}


def digest(script: str) -> str:
    """What is kept of a script."""
    return blake2b(script.encode(), digest_size=16).hexdigest()
