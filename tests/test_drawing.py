"""The library works without matplotlib, and drawing names the extra to install."""

from __future__ import annotations

import sys

import pytest

from phasegrad.drawing import new_figure


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install phasegrad\[plot\]"):
        new_figure(6.4, 4.0)


def test_figure_has_the_requested_size() -> None:
    pytest.importorskip("matplotlib")
    assert tuple(new_figure(6.4, 4.0).get_size_inches()) == (6.4, 4.0)
