"""What every configuration must satisfy; a test class inherits it and supplies how to build one."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from phasegrad.configuration import Configuration, from_json


class ConfigurationContract:
    def configuration(self) -> Configuration:
        raise NotImplementedError

    def test_json_gives_it_back(self) -> None:
        mine = self.configuration()
        theirs = from_json(mine.to_json())
        assert type(theirs) is type(mine)
        assert theirs == mine
        assert mine.differences(theirs) == []

    def test_is_frozen(self) -> None:
        mine = self.configuration()
        for field in dataclasses.fields(mine):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(mine, field.name, getattr(mine, field.name))

    def test_takes_keywords_only(self) -> None:
        mine = self.configuration()
        values = [getattr(mine, f.name) for f in dataclasses.fields(mine)]
        with pytest.raises(TypeError, match="positional argument"):
            type(mine)(*values)

    def test_equal_ones_hash_alike(self) -> None:
        assert hash(self.configuration()) == hash(self.configuration())

    def test_copies_equal_it(self) -> None:
        mine = self.configuration()
        assert copy.deepcopy(mine) == mine
        assert pickle.loads(pickle.dumps(mine)) == mine
