"""Frozen configurations that check themselves, compare, and travel as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, ClassVar

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """Base of everything that is configured: immutable, keyword-only, checked when it is made.

    A subclass is a frozen dataclass whose fields are numbers, strings, tuples of those, ``None``, or other
    configurations; it checks itself in ``__post_init__``.
    """

    _types: ClassVar[dict[str, type[Configuration]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        Configuration._types[cls.__name__] = cls

    def to_json(self) -> str:
        """This configuration as versioned JSON."""
        return json.dumps({"version": VERSION, "configuration": _encode(self)}, sort_keys=True)

    def differences(self, other: Configuration) -> list[str]:
        """The fields in which two configurations differ, each as ``"path: mine != theirs"``."""
        return _differences("", _encode(self), _encode(other))


def from_json(text: str) -> Configuration:
    """Read what :meth:`Configuration.to_json` wrote.

    Raises:
        ValueError: the text was written by a later version, or names a configuration that does not exist.
    """
    content = json.loads(text)
    if content.get("version") != VERSION:
        raise ValueError(
            f"configuration has version {content.get('version')!r}, this phasegrad reads version {VERSION}; "
            "load it with the phasegrad that wrote it"
        )
    return _decode(content["configuration"])


def _encode(value: Any) -> Any:
    if isinstance(value, Configuration):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v) for v in value)
    if not isinstance(value, dict):
        return value
    fields = {name: _decode(v) for name, v in value.items() if name != "type"}
    kind = Configuration._types.get(value["type"])
    if kind is None:
        raise ValueError(f"configuration type {value['type']!r} is unknown; import the module that defines it first")
    return kind(**fields)


def _differences(path: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict) and mine.get("type") == theirs.get("type"):
        names = [name for name in mine if name != "type"]
        return [d for name in names for d in _differences(f"{path}.{name}".lstrip("."), mine[name], theirs[name])]
    if mine == theirs:
        return []
    return [f"{path or 'type'}: {_short(mine)} != {_short(theirs)}"]


def _short(value: Any) -> str:
    return value["type"] if isinstance(value, dict) else repr(value)


def check_number(owner: object, name: str, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raise unless a field of ``owner`` is a finite number in ``[low, high]`` (``(low, high]`` if ``above``)."""
    value = getattr(owner, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and (value > low if above else value >= low) and value <= high:
        return
    interval = f"{'(' if above else '['}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
    raise ValueError(f"{type(owner).__name__}: {name} = {value!r}; it must be a number in {interval}")


def check_integer(owner: object, name: str, low: int, high: int) -> None:
    """Raise unless a field of ``owner`` is an integer in ``[low, high]``."""
    value = getattr(owner, name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{type(owner).__name__}: {name} = {value!r}; it must be an integer in [{low}, {high}]")


def check_choice(owner: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless a field of ``owner`` is one of ``choices``."""
    value = getattr(owner, name)
    if value not in choices:
        raise ValueError(f"{type(owner).__name__}: {name} = {value!r}; it must be one of {', '.join(choices)}")


def check_type(owner: object, name: str, kind: type | tuple[type, ...]) -> None:
    """Raise unless a field of ``owner`` is an instance of ``kind``."""
    value = getattr(owner, name)
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise TypeError(f"{type(owner).__name__}: {name} = {value!r} ({type(value).__name__}); it must be {names}")
