"""Immutable configurations with checks, comparison and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABCMeta
from types import FunctionType
from typing import Any, ClassVar, TypeVar

from phasegrad.deprecation import warn_renamed

VERSION = 1

T = TypeVar("T")


class _RenamedFields(ABCMeta):
    """Accepts the old names of renamed fields on creation."""

    # Annotated with the type of the instance, not Any, so that type checkers read the fields from the dataclass.
    def __call__(cls: type[T], *arguments: Any, **fields: Any) -> T:
        renamed = cls.all_renamed()  # type: ignore[attr-defined]
        for old in [name for name in fields if name in renamed]:
            warn_renamed(f"{cls.__name__}({old}=)", f"{renamed[old]}=")
            fields[renamed[old]] = fields.pop(old)
        return super().__call__(*arguments, **fields)  # type: ignore[misc]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration(metaclass=_RenamedFields):
    """Base of all configurations: immutable, keyword-only, and checked on creation.

    A subclass is a frozen dataclass whose fields are numbers, strings, tuples of those, ``None``, or other
    configurations, and checks them in ``__post_init__``. JSON refers to types of phasegrad by their bare name and to
    others by module and qualified name, so that a user's class cannot replace one of phasegrad.
    """

    _types: ClassVar[dict[str, type[Configuration]]] = {}
    _renamed: ClassVar[dict[str, str]] = {}
    """New names of renamed fields by their old names; a subclass lists its own."""
    _former_names: ClassVar[tuple[str, ...]] = ()
    """Names of the class in earlier releases, which checkpoints contain."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in (type_name(cls), *vars(cls).get("_former_names", ())):
            Configuration._types[name] = cls
        for old, new in cls.all_renamed().items():  # members of a subclass written for an earlier release
            if isinstance(vars(cls).get(old), (property, FunctionType)) and new not in vars(cls):
                warn_renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, vars(cls)[old])

    @classmethod
    def all_renamed(cls) -> dict[str, str]:
        """New names of all renamed fields, inherited ones included, by their old names."""
        return {old: new for kind in cls.__mro__ for old, new in vars(kind).get("_renamed", {}).items()}

    def __getattr__(self, name: str) -> Any:
        new = type(self).all_renamed().get(name)
        if new is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn_renamed(f"{type(self).__name__}.{name}", new)
        return getattr(self, new)

    def to_json(self) -> str:
        """This configuration as versioned JSON."""
        return json.dumps({"version": VERSION, "configuration": _encode(self)}, sort_keys=True)

    def differences(self, other: Configuration) -> list[str]:
        """The fields in which two configurations differ, each as ``"path: mine != theirs"``."""
        return _differences("", _encode(self), _encode(other))


def from_json(text: str) -> Configuration:
    """Create a configuration from the JSON of ``Configuration.to_json``.

    Raises:
        ValueError: the JSON has another version, or names an unknown type of configuration.
    """
    content = json.loads(text)
    if content.get("version") != VERSION:
        raise ValueError(
            f"configuration has version {content.get('version')!r}, but this phasegrad reads version {VERSION}; load "
            "it with the phasegrad that wrote it"
        )
    return _decode(content["configuration"])


def type_name(kind: type) -> str:
    """The name of a configuration's type in JSON."""
    package, _, _ = kind.__module__.partition(".")
    return kind.__name__ if package == "phasegrad" else f"{kind.__module__}.{kind.__qualname__}"


def _encode(value: Any) -> Any:
    if isinstance(value, Configuration):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type_name(type(value)), **fields}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v) for v in value)
    if not isinstance(value, dict):
        return value
    kind = _find_type(value["type"], Configuration._types)
    renamed = kind.all_renamed()
    fields = {renamed.get(str(name), str(name)): _decode(v) for name, v in value.items() if name != "type"}
    return kind(**fields)


def _find_type(name: str, types: dict[str, type[Configuration]]) -> type[Configuration]:
    """Find a type by its name; release 0.1.0 wrote the bare names of users' types too."""
    if name in types:
        return types[name]
    found = [kind for known, kind in types.items() if known.endswith(f".{name}")] if "." not in name else []
    if len(found) > 1:
        names = ", ".join(sorted(type_name(kind) for kind in found))
        raise ValueError(
            f"configuration type {name!r} is ambiguous: {names}; import only the module of the intended one"
        )
    if not found:
        raise ValueError(f"configuration type {name!r} is unknown; import the module that defines it first")
    return found[0]


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
