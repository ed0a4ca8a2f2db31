"""Immutable configurations with checks, comparison and JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from abc import ABCMeta
from dataclasses import MISSING
from typing import Any, ClassVar, TypeVar

from phasegrad.deprecation import warn_renamed
from phasegrad.field_types import field_checks, plain, refuse

VERSION = 2
"""Version of the JSON. In version 1, some values of fields had other names; see ``Configuration._former_values``."""

T = TypeVar("T")


_UNCHANGED: set[type] = {float, int, bool, str, type(None)}
"""Types of values that a field stores as they are: plain values and all configurations."""


class _RenamedFields(ABCMeta):
    """Accepts the old names of renamed fields on creation, and checks the types of all fields."""

    # Annotated with the type of the instance, not Any, so that type checkers read the fields from the dataclass.
    def __call__(cls: type[T], *arguments: Any, **fields: Any) -> T:
        renamed = cls.all_renamed()  # type: ignore[attr-defined]
        for old in [name for name in fields if name in renamed]:
            warn_renamed(f"{cls.__name__}({old}=)", f"{renamed[old]}=")
            fields[renamed[old]] = fields.pop(old)
        arguments = tuple(plain(value) for value in arguments)
        fields = {name: value if type(value) in _UNCHANGED else plain(value) for name, value in fields.items()}
        fields = cls._values_given(fields)  # type: ignore[attr-defined]
        try:
            made = super().__call__(*arguments, **fields)  # type: ignore[misc]
        except (TypeError, AttributeError, LookupError, RuntimeError):  # a check that cannot handle the type of a value
            check_fields(cls, fields)
            raise
        check_fields(cls, vars(made))
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature of ``__init__``, which ``help`` and editors show."""
        initial = inspect.signature(cls.__init__)  # type: ignore[misc]
        return initial.replace(parameters=list(initial.parameters.values())[1:])


class _Renamed:
    """The old name of a member of a class, which resolves to the new one with a warning."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __get__(self, instance: Any, kind: type[Configuration]) -> Any:
        warn_renamed(f"{kind.__name__}.{self.old}", self.new)
        if instance is None:
            return getattr(kind, self.new)
        if self.new not in kind._adopted:
            return getattr(instance, self.new)
        # super() in a method of a user's class that has the old name and now also serves the new one
        bases = [vars(base) for base in kind.__mro__ if self.new in vars(base)]
        member = next(base[self.new] for base in bases if self.new not in base.get("_adopted", ()))
        return member.__get__(instance, kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration(metaclass=_RenamedFields):
    """Base of all configurations: immutable, keyword-only, and checked on creation.

    A subclass is a frozen dataclass whose fields are numbers, strings, tuples of those, ``None``, or other
    configurations. Numbers of numpy and torch become Python's, lists and arrays become tuples, and a value that does
    not have the annotated type is refused; ``__post_init__`` checks everything else, such as intervals. JSON refers to
    types of phasegrad by their bare name and to others by module and qualified name, so that a user's class cannot
    replace one of phasegrad.
    """

    _types: ClassVar[dict[str, type[Configuration]]] = {}
    _renamed: ClassVar[dict[str, str]] = {}
    """New names of renamed fields and members by their old names; a subclass lists its own."""
    _adopted: ClassVar[tuple[str, ...]] = ()
    """New names of the members that a subclass defines under their old names."""
    _former_values: ClassVar[dict[str, dict[str, str]]] = {}
    """Present values of fields by their names in release 0.1.0, for each field whose values were renamed."""
    _former_names: ClassVar[tuple[str, ...]] = ()
    """Names of the class, with its module, in earlier releases of its code, which checkpoints contain."""

    @classmethod
    def _values_given(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields that a user gives, in present names; warns of values that have another meaning than before."""
        return fields

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in (type_name(cls), *vars(cls).get("_former_names", ())):
            Configuration._types[name] = cls
        _UNCHANGED.add(cls)
        for old, new in vars(cls).get("_renamed", {}).items():
            setattr(cls, old, _Renamed(old, new))
        adopted = tuple(new for old, new in cls.all_renamed().items() if cls._adopt(old, new))
        if adopted:
            cls._adopted = (*cls._adopted, *adopted)

    @classmethod
    def _adopt(cls, old: str, new: str) -> bool:
        """Take over what a subclass, written for an earlier release, or its mixin defines under an old name.

        Returns:
            Whether it is a method or property, which stays under the old name and also gets the new one. A field or
            a constant moves to the new name.
        """
        annotations = vars(cls).get("__annotations__", {})
        provider = next((vars(base) for base in cls.__mro__ if old in vars(base) or new in vars(base)), {})
        member = MISSING if new in provider else provider.get(old, MISSING)
        defined = member is not MISSING and not isinstance(member, _Renamed)
        if not defined and old not in annotations:
            return False
        warn_renamed(f"{cls.__name__}.{old}", new)
        if defined:
            setattr(cls, new, member)
        if old in annotations:
            cls.__annotations__ = {new if name == old else name: kind for name, kind in annotations.items()}
        if defined and hasattr(member, "__get__"):
            return True
        if old in vars(cls):
            delattr(cls, old)
        return False

    @classmethod
    def all_renamed(cls) -> dict[str, str]:
        """New names of all renamed fields, inherited ones included, by their old names."""
        return {old: new for kind in cls.__mro__ for old, new in vars(kind).get("_renamed", {}).items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields alone, so that a later release derives everything else itself."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return _create, (type(self), fields, VERSION)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle of release 0.1.0, which held everything under its old names."""
        renamed, names = type(self).all_renamed(), {f.name for f in dataclasses.fields(self) if f.init}
        fields = _present_values(type(self), {renamed.get(name, name): value for name, value in state.items()})
        type(self).__init__(self, **{name: value for name, value in fields.items() if name in names})

    def to_json(self) -> str:
        """This configuration as versioned JSON."""
        return json.dumps({"version": VERSION, "configuration": _encode(self)}, sort_keys=True)

    def differences(self, other: Configuration) -> list[str]:
        """The fields in which two configurations differ, each as ``"path: mine != theirs"``."""
        return _differences("", _encode(self), _encode(other))


def check_fields(kind: type, values: dict[str, Any]) -> None:
    """Raise unless the values of a configuration's fields have the annotated types.

    Raises:
        TypeError: a value has another type; the message names the field.
        ValueError: a number is NaN.
    """
    checks = vars(kind).get("_field_checks")
    if checks is None:
        checks = field_checks(kind, Configuration)
        kind._field_checks = checks  # type: ignore[attr-defined]
    for name, check in checks.items():
        value = values.get(name, MISSING)
        if type(value) in check.passed or value is MISSING:
            continue
        if not check.accepts(value):
            refuse(kind, name, value, check.rule)
        if type(value) in _UNCHANGED and type(value) is not float:  # any other value of this type passes too
            check.passed.add(type(value))


def from_json(text: str) -> Configuration:
    """Create a configuration from the JSON of ``Configuration.to_json``.

    Raises:
        ValueError: the text is not that of ``to_json``, has another version, or names an unknown type of configuration.
    """
    try:
        content = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"from_json: the text is not JSON ({error}); pass what to_json returned") from error
    if not isinstance(content, dict) or not isinstance(content.get("configuration"), dict):
        raise ValueError(
            f"from_json: the JSON is {text[:80]!r}; it must be an object with a version and a configuration, as "
            "to_json returns"
        )
    version = content.get("version")
    if version not in (1, VERSION):
        raise ValueError(
            f"configuration has version {version!r}, but this phasegrad reads versions 1 and {VERSION}; load "
            "it with the phasegrad that wrote it"
        )
    return _decode(content["configuration"], version)


def _create(kind: type[Configuration], fields: dict[str, Any], version: int = 1) -> Configuration:
    """Create a configuration from stored fields, without the warnings for what a user writes."""
    values = _present_values(kind, fields) if version == 1 else fields
    return ABCMeta.__call__(kind, **values)


def _present_values(kind: type[Configuration], fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of release 0.1.0, with the present names of their values."""
    former = kind._former_values
    return {
        name: former[name].get(value, value) if name in former and isinstance(value, str) else value
        for name, value in fields.items()
    }


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


def _decode(value: Any, version: int) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, version) for v in value)
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("type"), str):
        raise ValueError(f"from_json: an object has the keys {', '.join(value)}; it must have a type, the class's name")
    kind = _find_type(value["type"], Configuration._types)
    renamed = kind.all_renamed()
    fields = {renamed.get(str(name), str(name)): _decode(v, version) for name, v in value.items() if name != "type"}
    return _create(kind, fields, version)


def _find_type(name: str, types: dict[str, type[Configuration]]) -> type[Configuration]:
    """Find a type by its name; release 0.1.0 wrote the bare names of users' types too.

    A script's own types are in ``__main__`` where it runs, and in the script's module where it is imported.
    """
    if name in types:
        return types[name]
    module, _, bare = name.rpartition(".")
    owners = {known: known.rpartition(".") for known in types if "." in known}
    alike = {known: owner for known, (owner, _, other) in owners.items() if other == bare}
    found = list({types[known] for known, owner in alike.items() if not module or "__main__" in (module, owner)})
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


def check_finite(owner: object, *names: str) -> None:
    """Raise unless fields of ``owner`` are finite numbers, or tuples of them."""
    for name in names:
        value = getattr(owner, name)
        if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{type(owner).__name__}: {name} = {value!r}; it must be finite")


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
