"""safetensors files of nets, with their devices and hardware."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.op import same_bits
from torch import nn

import phasegrad as pg
from phasegrad.checkpoint import DamagedError, export_safetensors, import_safetensors

library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed: pip install .[integrations]")


class Tied(nn.Module):
    """One weight with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


NETS: dict[str, Callable[[], nn.Module]] = {
    "digital": Tied,
    "converted": lambda: pg.convert(Tied(), pg.presets.pcm_inference()),
    "chip": lambda: pg.inference.program(pg.convert(Tied(), pg.presets.pcm_inference())),
    "in memory": lambda: pg.convert(Tied(), pg.presets.pcm_capacitor_training()),
}


def state(net: nn.Module) -> dict[str, Any]:
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("kind", NETS)
def test_a_net_is_restored(kind: str, tmp_path: Path) -> None:
    net = NETS[kind]()
    export_safetensors(net, tmp_path / "net.safetensors")
    other = NETS["converted" if kind == "chip" else kind]()
    import_safetensors(other, tmp_path / "net.safetensors")
    assert state(net).keys() == state(other).keys()
    assert same_bits(state(net), state(other))
    assert other.get_parameter("second.weight") is other.get_parameter("first.weight")


def test_a_tied_weight_is_written_once(tmp_path: Path) -> None:
    export_safetensors(Tied(), tmp_path / "net.safetensors")
    assert set(library.load_file(tmp_path / "net.safetensors")) == {"first.weight", "first.bias", "second.bias"}


def test_weights_of_a_digital_net_are_loaded(tmp_path: Path) -> None:
    digital = nn.Sequential(nn.Linear(4, 3))
    library.save_file(digital.state_dict(), tmp_path / "float.safetensors")
    net = pg.convert(nn.Sequential(nn.Linear(4, 3)), pg.presets.pcm_inference())
    import_safetensors(net, tmp_path / "float.safetensors")
    assert torch.equal(net[0].weight, digital[0].weight)


def test_other_hardware_and_other_layers_change_nothing(tmp_path: Path) -> None:
    export_safetensors(NETS["converted"](), tmp_path / "net.safetensors")
    for other, message in (
        (pg.convert(Tied(), replace(pg.presets.pcm_inference(), rows=256)), r"nothing was loaded: .*rows"),
        (nn.Sequential(nn.Linear(4, 4)), r"nothing was loaded: 0\.weight is missing"),
    ):
        before = state(other)
        with pytest.raises(ValueError, match=message):
            import_safetensors(other, tmp_path / "net.safetensors")
        assert same_bits(before, state(other))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    export_safetensors(Tied(), path)
    for content in (b"", b"text" * 9, path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=r"net\.safetensors is damaged, or not a safetensors file"):
            import_safetensors(Tied(), path)


def test_a_later_format_raises_and_names_the_fix(tmp_path: Path) -> None:
    metadata = {"phasegrad.format": "2", "phasegrad": "9.0"}
    library.save_file({"weight": torch.zeros(1)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match=r"format 2, written by phasegrad 9\.0"):
        import_safetensors(Tied(), tmp_path / "a")


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install phasegrad\[integrations\]"):
        export_safetensors(Tied(), tmp_path / "a")


@pytest.mark.parametrize("make", [lambda: nn.LSTM(4, 4), lambda: nn.MultiheadAttention(4, 2)])
def test_a_float_checkpoint_of_a_module_with_several_weights(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    digital, net = make(), pg.convert(make(), pg.presets.pcm_inference())
    export_safetensors(digital, tmp_path / "a.safetensors")
    import_safetensors(net, tmp_path / "a.safetensors")
    pg.checkpoint.save(tmp_path / "a.pt", net=digital)
    again = pg.convert(make(), pg.presets.pcm_inference())
    pg.checkpoint.load(tmp_path / "a.pt", net=again)
    for other in (net, again):
        for mine, theirs in zip(pg.to_digital(other).parameters(), digital.parameters(), strict=True):
            assert torch.equal(mine, theirs)
