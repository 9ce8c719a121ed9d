"""Writes YAML: plain values in block style. It reads none, so that no library is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What no reader takes for anything but text, whatever its version of YAML. All else is quoted as JSON is.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"})


def document(value: Mapping[str, Any], remark: str = "") -> str:
    """*value* as one document, below *remark* as a comment."""
    lines = [f"# {line}".rstrip() for line in remark.splitlines()]
    return "\n".join([*lines, *(_block(value, "") if value else ("{}",))]) + "\n"


def documents(*values: tuple[str, Mapping[str, Any]]) -> str:
    """Several documents in one file, each with its remark."""
    return "---\n".join(document(value, remark) for remark, value in values)


def _block(value: Any, indent: str) -> Iterator[str]:
    """The lines of a mapping or a list that is not empty."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _entry(f"{indent}{_text(key)}:", each, indent)
    elif isinstance(value, Sequence):
        for each in value:
            if isinstance(each, Mapping) and each:
                first, *rest = _block(each, f"{indent}  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield from _entry(f"{indent}-", each, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        yield f"{head} [{', '.join(map(_scalar, value))}]"
    elif isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from _block(value, f"{indent}  ")
    elif isinstance(value, str) and "\n" in value and not value.startswith((" ", "\n")) and value == value.strip():
        yield f"{head} |-"
        yield from (f"{indent}  {line}" if line else "" for line in value.splitlines())
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Any) -> str:
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)
