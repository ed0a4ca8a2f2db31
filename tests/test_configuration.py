"""Configurations are checked, compared, and restored from JSON."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import math
import pickle
from typing import Any, ClassVar

import pytest

from phasegrad.cells import DifferentialPair, SignificancePairs
from phasegrad.configuration import (
    VERSION,
    Configuration,
    check_choice,
    check_integer,
    check_number,
    check_type,
    from_json,
)
from phasegrad.crossbar import Dac as PhasegradDac
from phasegrad.crossbar import Hardware, InputConverter
from phasegrad.devices import Curve, hermes_one, ideal_device, joshi_2020
from phasegrad.presets import soft_bounds_training
from phasegrad.testing import ConfigurationContract


class TestNested(ConfigurationContract):
    def configuration(self) -> Configuration:
        return SignificancePairs(device=hermes_one(), significances=(2.0, 1.0))


class TestInfiniteNumbersAndNone(ConfigurationContract):
    def configuration(self) -> Configuration:
        return DifferentialPair(device=ideal_device())


def test_json_is_versioned_and_names_the_type() -> None:
    content = json.loads(joshi_2020().to_json())
    assert content["version"] == VERSION
    assert content["configuration"]["type"] == "PCM"


def test_numbers_are_restored_to_the_last_bit() -> None:
    third = joshi_2020(g_max=1e-5 / 3.0)
    assert from_json(third.to_json()).g_max == 1e-5 / 3.0


@pytest.mark.parametrize("version", [0, VERSION + 1, None, "1"])
def test_another_version_is_refused(version: Any) -> None:
    content = json.loads(joshi_2020().to_json()) | {"version": version}
    with pytest.raises(ValueError, match=f"has version {version!r}, but this phasegrad reads versions 1 and {VERSION}"):
        from_json(json.dumps(content))


def test_an_unknown_type_is_refused() -> None:
    content = json.loads(joshi_2020().to_json())
    content["configuration"]["type"] = "Memristor"
    with pytest.raises(ValueError, match="type 'Memristor' is unknown; import the module that defines it"):
        from_json(json.dumps(content))


def test_configurations_from_json_are_checked() -> None:
    content = json.loads(joshi_2020().to_json())
    content["configuration"]["t0"] = -1.0
    with pytest.raises(ValueError, match=r"t0 = -1\.0"):
        from_json(json.dumps(content))


def test_differences_name_the_path_and_both_values() -> None:
    mine = DifferentialPair(device=joshi_2020())
    device = dataclasses.replace(joshi_2020(), t0=30.0, nu_sd=Curve(polynomial=(0.01,)))
    differences = mine.differences(dataclasses.replace(mine, device=device))
    assert "device.t0: 20.0 != 30.0" in differences
    assert "device.nu_sd.log_slope: -0.0125 != 0.0" in differences
    assert len(differences) == 5  # and polynomial, low and high of nu_sd


def test_differences_of_types_and_of_absent_parts() -> None:
    quiet = dataclasses.replace(joshi_2020(), read_noise=None)
    assert joshi_2020().differences(quiet) == ["read_noise: Power != None"]
    pair, pairs = DifferentialPair(device=quiet), SignificancePairs(device=quiet, significances=(1.0,))
    assert pair.differences(pairs) == ["type: DifferentialPair != SignificancePairs"]


@dataclasses.dataclass(frozen=True)
class Owner:
    x: Any


@pytest.mark.parametrize("value", [0.0, 1, 1.0])
def test_a_number_in_its_interval_passes(value: float) -> None:
    check_number(Owner(value), "x", 0.0, 1.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, True, "1", None])
def test_any_other_value_is_refused_with_the_interval(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Owner: x = {value!r}; it must be a number in \[0, 1\]"):
        check_number(Owner(value), "x", 0.0, 1.0)


def test_an_open_bound_is_shown_and_excluded() -> None:
    with pytest.raises(ValueError, match=r"x = 0.0; it must be a number in \(0, inf\)"):
        check_number(Owner(0.0), "x", 0.0, above=True)


@pytest.mark.parametrize("value", [0, 5, 1.0, True, "1"])
def test_an_integer_outside_or_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"x = {value!r}; it must be an integer in \[1, 4\]"):
        check_integer(Owner(value), "x", 1, 4)


def test_errors_name_the_allowed_choices_and_types() -> None:
    check_choice(Owner("a"), "x", ("a", "b"))
    with pytest.raises(ValueError, match="x = 'c'; it must be one of a, b"):
        check_choice(Owner("c"), "x", ("a", "b"))
    check_type(Owner(None), "x", (int, type(None)))
    with pytest.raises(TypeError, match=r"x = 'c' \(str\); it must be int or None"):
        check_type(Owner("c"), "x", (int, type(None)))


class Dac(InputConverter):
    """A user's converter with the name of one of phasegrad."""

    def input_slices(self, driven: Any, input_range: Any, errors: Any) -> Any:
        raise NotImplementedError


def test_a_users_class_never_replaces_one_of_the_same_name() -> None:
    assert type(from_json(PhasegradDac(bits=6).to_json())) is PhasegradDac
    own = dataclasses.dataclass(frozen=True, kw_only=True)(Dac)(bits=6)
    content = json.loads(own.to_json())
    assert content["configuration"]["type"] == f"{__name__}.Dac"
    assert type(from_json(json.dumps(content))) is Dac


def test_a_users_type_written_by_0_1_0_under_its_bare_name_is_found() -> None:
    class OnlyHere(Configuration):
        pass

    content = json.dumps({"version": 1, "configuration": {"type": "OnlyHere"}})
    assert type(from_json(content)) is OnlyHere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renamed(Configuration):
    _renamed: ClassVar = {"old": "new", "older_level": "level"}
    _former_names = ("Former",)
    new: float = 1.0

    @property
    def level(self) -> float:
        return 10.0


def test_an_old_field_name_works_with_a_warning_and_loads_without() -> None:
    with pytest.warns(DeprecationWarning, match=r"Renamed\(old=\) was renamed to new="):
        made = Renamed(old=2.0)  # pyright: ignore[reportCallIssue]
    assert made == Renamed(new=2.0)
    with pytest.warns(DeprecationWarning, match=r"Renamed.old was renamed to new"):
        assert old(made) == 2.0
    with pytest.warns(DeprecationWarning, match="old"):
        assert dataclasses.replace(made, old=3.0).new == 3.0
    assert from_json('{"version": 1, "configuration": {"type": "Former", "old": 4.0}}') == Renamed(new=4.0)
    with pytest.raises(AttributeError, match="no attribute 'oldest'"):
        old(made, "oldest")


def old(made: object, name: str = "old") -> Any:
    """Read an attribute that type checkers do not know."""
    return getattr(made, name)


def test_the_warning_of_an_old_name_is_at_the_users_line() -> None:
    with pytest.warns(DeprecationWarning, match="old") as caught:
        dataclasses.replace(Renamed(), old=3.0)
    assert [w.filename for w in caught] == [__file__]


class Mixin:
    @property
    def older_level(self) -> float:
        return 3.0


def subclasses_written_for_the_old_names() -> list[tuple[type[Renamed], float, float]]:
    """Classes with the value of ``new`` that they make by default, and their level."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Property(Renamed):
        @property
        def older_level(self) -> float:
            return old(super(), "older_level") + 1.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inherited(Property):
        @property
        def older_level(self) -> float:
            return super().older_level + 1.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Cached(Renamed):
        @functools.cached_property
        def older_level(self) -> float:
            return 4.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mixed(Mixin, Renamed):
        pass

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class MemberAsField(Renamed):
        older_level: float = 5.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Field(Renamed):
        old: float = 2.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Constant(Renamed):
        older_level = 6.0

    return [
        (Property, 1.0, 11.0), (Inherited, 1.0, 12.0), (Cached, 1.0, 4.0), (Mixed, 1.0, 3.0),
        (MemberAsField, 1.0, 5.0), (Field, 2.0, 10.0), (Constant, 1.0, 6.0),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*was renamed to:DeprecationWarning")
def test_a_subclass_written_for_old_names_serves_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning, match="older_level was renamed to level"):
        kinds = subclasses_written_for_the_old_names()
    for kind, new, level in kinds:
        made = kind()
        assert (made.new, old(made), made.level, old(made, "older_level")) == (new, new, level, level), kind.__name__
        assert old(kind(old=7.0)) == 7.0, kind.__name__  # pyright: ignore[reportCallIssue]


def test_signature_is_that_of_the_fields() -> None:
    assert list(inspect.signature(Renamed).parameters) == ["new"]
    assert "pulses" in inspect.signature(Hardware).parameters


def test_pickles_hold_the_fields_alone_and_those_of_0_1_0_are_restored() -> None:
    hardware = soft_bounds_training()
    assert pickle.loads(pickle.dumps(hardware)) == copy.deepcopy(hardware) == hardware
    assert set(hardware.__reduce__()[1][1]) == {f.name for f in dataclasses.fields(hardware)}
    state = {f.name: getattr(hardware, f.name) for f in dataclasses.fields(hardware)}
    restored = Hardware.__new__(Hardware)
    restored.__setstate__({"update" if name == "pulses" else name: value for name, value in state.items()})
    assert restored == hardware
    assert restored.exact == hardware.exact


def test_a_scripts_type_is_found_where_the_script_is_imported() -> None:
    content = json.dumps({"version": 1, "configuration": {"type": "__main__.OwnOfScript"}})
    with pytest.raises(ValueError, match=r"'__main__\.OwnOfScript' is unknown"):
        from_json(content)

    class OwnOfScript(Configuration):
        pass

    Configuration._types[f"{__name__}.OwnOfScript"] = OwnOfScript
    assert type(from_json(content)) is OwnOfScript
    with pytest.raises(ValueError, match=r"'other\.OwnOfScript' is unknown"):
        from_json(content.replace("__main__", "other"))


@pytest.mark.parametrize(
    "text", ["[]", "null", "x", '{"version": 2}', '{"version": 2, "configuration": {"a": 1}}', None]
)
def test_text_that_is_no_configuration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="from_json: "):
        from_json(text)
