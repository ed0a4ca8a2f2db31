"""The contract of configurations."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from phasegrad.configuration import Configuration, from_json


class ConfigurationContract:
    """Tests of every configuration: immutable, keyword-only, comparable, and readable from its JSON."""

    def configuration(self) -> Configuration:
        """Create the configuration under test."""
        raise NotImplementedError

    def test_json_round_trip_preserves_it(self) -> None:
        """JSON restores an equal configuration of the same type."""
        mine = self.configuration()
        theirs = from_json(mine.to_json())
        assert type(theirs) is type(mine)
        assert theirs == mine
        assert mine.differences(theirs) == []

    def test_is_frozen(self) -> None:
        """Fields cannot be assigned."""
        mine = self.configuration()
        for field in dataclasses.fields(mine):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(mine, field.name, getattr(mine, field.name))

    def test_accepts_keywords_only(self) -> None:
        """Positional arguments raise."""
        mine = self.configuration()
        values = [getattr(mine, f.name) for f in dataclasses.fields(mine)]
        with pytest.raises(TypeError, match="positional argument"):
            type(mine)(*values)

    def test_equal_ones_have_equal_hashes(self) -> None:
        """Equal configurations have the same hash."""
        assert hash(self.configuration()) == hash(self.configuration())

    def test_copies_equal_it(self) -> None:
        """Copies and pickles equal the original."""
        mine = self.configuration()
        assert copy.deepcopy(mine) == mine
        assert pickle.loads(pickle.dumps(mine)) == mine
