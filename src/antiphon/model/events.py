"""Event classes: what an event carries, under which name, version and key.

A class is an event by its base, :class:`Event` (fast, validated, immutable), or by the decorator
:func:`event` (Pydantic models, dataclasses).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import msgspec

from antiphon.errors import DeclarationError, InvalidEvent, UnknownVersion
from antiphon.model.jsontext import MAX_PAYLOAD, strict_json
from antiphon.model.payload import Kind, Payload
from antiphon.model.shape import all_fields, check_key_field

if TYPE_CHECKING:
    from msgspec import StructMeta
else:
    StructMeta = type(msgspec.Struct)  # only recent versions of msgspec export its name

__all__ = ["MAX_PAYLOAD", "Event", "EventType", "event", "event_type_of", "upcast"]

Data = dict[str, Any]
Upcaster = Callable[[Data], Data]
_C = TypeVar("_C", bound=type)
_U = TypeVar("_U", bound=Upcaster)

#: The characters of a key: it travels beside the data, where brokers give it less room than that.
MAX_KEY = 1_024

_OWN_OPTIONS = ("key", "version", "type", "domain")
_TYPE_NAME = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")


class EventType:
    """What is known of one event class.

    ``name`` and ``version`` identify it in the log, ``key_field`` is the field whose value orders its events,
    ``domain`` events stay inside their service, ``kind`` says what sort of class it is. Of a command ``target`` is
    the service that it goes to, and ``replies`` are the types that answer it.
    """

    def __init__(self, cls: type, kind: Kind, *, key: str | None, version: int, name: str | None, domain: bool) -> None:
        self.cls = cls
        self.kind = kind
        self.name = cls.__name__ if name is None else name
        self.version = version
        self.key_field = key
        self.domain = domain
        self.target: str | None = None
        self.replies: tuple[EventType, ...] = ()
        self.upcasters: dict[int, Upcaster] = {}
        self._check_options()
        try:
            self._payload  # noqa: B018  compiled here, so that what is wrong is said where it is declared
        except NameError:
            pass  # an annotation that names a class defined further down; compiled at first use

    def __repr__(self) -> str:
        return f"<EventType {self.name} version {self.version}>"

    def encode(self, obj: object, limit: int = MAX_PAYLOAD) -> bytes:
        """The JSON text of *obj*, after checking it against its class.

        Raises InvalidEvent with the field and the reason, PayloadTooLarge beyond *limit* bytes.
        """
        if obj.__class__ is not self.cls:
            raise InvalidEvent(self.name, "$", f"expected {self.name}, got {type(obj).__qualname__}")
        return self._compiled.write(obj, limit)

    def decode(self, data: bytes, version: int) -> Any:
        """The object in *data*, which was written as *version* of this type; older ones are upcast.

        Raises InvalidEvent with the field and the reason, UnknownVersion, Undecodable if it is not JSON.
        """
        if version != self.version:
            data = self._upcast(data, version)
        return self._compiled.read(data)

    def key_of(self, obj: object) -> str | None:
        """The key of *obj* as text; None if it has none. Raises InvalidEvent if it is empty, or longer than MAX_KEY."""
        if self.key_field is None:
            return None
        value = getattr(obj, self.key_field)
        if value.__class__ is str and 0 < len(value) <= MAX_KEY:
            return value
        if value is None:
            return None
        key = str(value.value if isinstance(value, Enum) else value)
        if not key:
            raise InvalidEvent(self.name, f"$.{self.key_field}", "the key is empty")
        if len(key) > MAX_KEY:
            reason = f"the key has {len(key):,} characters, and may have {MAX_KEY:,}"
            raise InvalidEvent(self.name, f"$.{self.key_field}", reason)
        return key

    @property
    def known_versions(self) -> list[int]:
        """The versions that can be read: the current one and those that upcasters lead here from."""
        oldest = self.version
        while oldest - 1 in self.upcasters:
            oldest -= 1
        return list(range(oldest, self.version + 1))

    @cached_property
    def _payload(self) -> Payload:
        if self.key_field is not None:
            check_key_field(self.cls, self.key_field)
        return Payload(self.cls, self.kind, self.name)

    @property
    def _compiled(self) -> Payload:
        try:
            return self._payload
        except NameError as error:
            raise DeclarationError(
                f"an annotation cannot be resolved: {error}",
                where=self.cls.__qualname__,
                mend="Define what it names at module level, before the first event is published",
            ) from error

    def _check_options(self) -> None:
        where = self.cls.__qualname__
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise DeclarationError(f"version is {self.version!r}; it must be an integer from 1", where=where)
        if not isinstance(self.name, str) or not _TYPE_NAME.fullmatch(self.name):
            raise DeclarationError(f"type is {self.name!r}; it must be text without spaces", where=where)
        if not isinstance(self.domain, bool):
            raise DeclarationError(f"domain is {self.domain!r}; it must be True or False", where=where)
        fields = [name for name, _ in all_fields(self.cls)]
        if self.key_field is not None and self.key_field not in fields:
            raise DeclarationError(
                f"key is {self.key_field!r}, which is no field",
                where=where,
                mend=f"Its fields are {', '.join(fields) or 'none'}",
            )

    def _upcast(self, data: bytes, version: int) -> bytes:
        if version not in self.known_versions:
            known = ", ".join(map(str, self.known_versions))
            raise UnknownVersion(self.name, "$", f"version {version} is unknown; known: {known}")
        value = strict_json(data, limit=len(data), type_name=self.name)
        for step in range(version, self.version):
            if not isinstance(value, dict):
                raise InvalidEvent(self.name, "$", "expected an object")
            try:
                value = self.upcasters[step](value)
            except Exception as error:
                reason = f"the upcaster from version {step} failed: {type(error).__name__}: {error}"
                raise InvalidEvent(self.name, "$", reason) from error
        return self._compiled.rewrite(value)


class EventMeta(StructMeta):
    """Takes the event's options out of the class statement; all others are msgspec's."""

    __event_type__: EventType

    def __new__(
        mcls: Any,
        name: str,
        bases: tuple[Any, ...],
        namespace: dict[str, Any],
        /,
        *,
        key: str | None = None,
        version: int = 1,
        type: str | None = None,
        domain: bool | None = None,
        **options: Any,
    ) -> Any:
        if options.get("array_like"):
            raise DeclarationError("the data of an event is a JSON object, not an array", where=name)
        try:
            cls = super().__new__(mcls, name, bases, namespace, **{"frozen": True, **options})
        except TypeError as error:
            allowed = ", ".join((*_OWN_OPTIONS, "and those of msgspec.Struct"))
            raise DeclarationError(str(error), where=name, mend=f"Options: {allowed}") from error
        if not any(isinstance(base, EventMeta) for base in bases):
            return cls  # Event itself
        parent: EventType | None = next((base.__event_type__ for base in bases if _is_declared(base)), None)
        if domain is None:
            domain = parent is not None and parent.domain
        cls.__event_type__ = EventType(
            cls,
            "struct",
            key=parent.key_field if parent and key is None else key,
            version=version,
            name=type,
            domain=domain,
        )
        return cls


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, metaclass=EventMeta):
    """The base of event classes: a msgspec struct, immutable unless it says ``frozen=False``.

    Options in the class statement: ``key``, the name of the field that its order goes by; ``version``,
    from 1; ``type``, its name in the log (that of the class); ``domain=True`` keeps it inside its service.
    *key* and *domain* are inherited. All options of msgspec's structs may follow.

    >>> class SeatTaken(Event, key="flight"):
    ...     flight: str
    ...     seat: int
    >>> event_type_of(SeatTaken).encode(SeatTaken("UA1545", 12))
    b'{"flight":"UA1545","seat":12}'
    """


def event(
    *, key: str | None = None, version: int = 1, type: str | None = None, domain: bool = False
) -> Callable[[_C], _C]:
    """Make an event class of a Pydantic model or a dataclass; the options are those of :class:`Event`.

    Raises DeclarationError for another sort of class, and for a class that is declared already.
    """

    def declare(cls: _C) -> _C:
        if _is_declared(cls):
            raise DeclarationError("it is declared as an event already", where=cls.__qualname__)
        declared = EventType(cls, _kind_of(cls), key=key, version=version, name=type, domain=domain)
        setattr(cls, "__event_type__", declared)  # noqa: B010  no type checker knows of it
        return cls

    return declare


def event_type_of(event: object) -> EventType:
    """The EventType of an event, or of an event class. Raises DeclarationError for anything else."""
    cls: Any = event if isinstance(event, type) else event.__class__
    try:
        found: EventType = cls.__event_type__
        # A subclass of a decorated class is another class, which nobody declared.
        if found.cls is cls:
            return found
    except AttributeError:
        pass
    raise DeclarationError(
        "it is not an event",
        where=getattr(cls, "__qualname__", repr(cls)),
        mend="Derive it from antiphon.Event, or put @event() above it",
    )


def upcast(cls: type, from_version: int = 1) -> Callable[[_U], _U]:
    """Declare a function that turns the data of *from_version* into that of the version after it.

    It takes and returns a dict of plain JSON values. Raises DeclarationError for a version that the class has
    outgrown or not reached, and for a second function from the same version.
    """
    declared = event_type_of(cls)
    where = f"upcast({cls.__qualname__}, from_version={from_version!r})"
    if not isinstance(from_version, int) or not 1 <= from_version < declared.version:
        older = ", ".join(map(str, range(1, declared.version))) or "none, since its version is 1"
        raise DeclarationError("there is no such older version", where=where, mend=f"Older versions: {older}")

    def register(function: _U) -> _U:
        if from_version in declared.upcasters:
            raise DeclarationError("there is an upcaster from this version already", where=where)
        declared.upcasters[from_version] = function
        return function

    return register


def _is_declared(cls: Any) -> bool:
    declared = getattr(cls, "__event_type__", None)
    return declared is not None and declared.cls is cls


def _kind_of(cls: Any) -> Kind:
    if not isinstance(cls, type):
        raise DeclarationError("@event() goes above a class", where=repr(cls))
    if isinstance(cls, EventMeta):
        raise DeclarationError("a subclass of Event takes its options in the class statement", where=cls.__qualname__)
    if hasattr(cls, "__pydantic_validator__"):
        return "pydantic"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    raise DeclarationError(
        "@event() needs a dataclass or a Pydantic model",
        where=cls.__qualname__,
        mend="Put it above @dataclass, or derive the class from antiphon.Event",
    )
