"""Noiseless copies of nets, and their exported graphs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialSlices
from phasegrad.crossbar import Adc, BitSerialDac, Dac, Hardware, SarAdc, Wires
from phasegrad.inference import export_graph, export_onnx, noiseless, program

# The exporters use functions that torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

CELL = pg.presets.pcm_inference().cell
QUIET = replace(pg.presets.pcm_inference(), output_noise=0.0, read_noise=0.0, wires=None)
HARDWARE = {
    "ideal converters": QUIET,
    "small tiles": replace(QUIET, rows=10, columns=3),
    "real converters": replace(QUIET, adc=SarAdc(offset_mismatch=1.0), dac=Dac()),
    "bit-serial": replace(QUIET, dac=BitSerialDac(bits=4)),
    "slices": replace(QUIET, cell=DifferentialSlices(device=CELL.device, slices=3, bits=6)),
    "wires": replace(QUIET, wires=Wires(word_line=1.0, bit_line=1.0)),
    "no converters": Hardware(cell=CELL),
}


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def images(number: int = 6) -> Tensor:
    return torch.randn(number, 1, 4, 4)


@pytest.mark.parametrize("name", HARDWARE)
def test_equals_the_net_on_noiseless_hardware(name: str) -> None:
    net, x = pg.convert(model(), HARDWARE[name]).eval(), images()
    fixed = noiseless(net)
    torch.testing.assert_close(fixed(x), net(x), rtol=1e-6, atol=1e-6)
    assert sum(isinstance(layer, pg.nn.AnalogLayer) for layer in net) == 2  # the net is not modified


def test_of_a_chip_equals_the_mean_over_reads() -> None:
    chip = program(
        pg.convert(nn.Sequential(nn.Linear(16, 5)), Hardware(cell=pg.presets.hermes_inference().cell)), seed=0
    )
    old = pg.inference.compensate(pg.inference.age(chip, seconds=1e5), seed=0)
    x, n = torch.randn(4, 16), 2000
    reads = torch.stack([old(x) for _ in range(n)]).double()
    # 20 means: one run in 10,000 has one beyond 4.5 standard errors. HERMES devices are hardly ever read as 0.
    error = 4.5 * reads.std(0) / n**0.5
    assert ((reads.mean(0) - noiseless(old)(x)).abs() <= error).all()


def test_of_in_memory_weights_equals_the_digital_net() -> None:
    net = pg.convert(model(), pg.presets.soft_bounds_training()).eval()
    x = images()
    torch.testing.assert_close(noiseless(net)(x), pg.to_digital(net)(x), rtol=1e-5, atol=1e-5)


def test_the_graph_contains_only_ops_of_torch() -> None:
    chip, x = program(pg.convert(model(), pg.presets.pcm_inference()), seed=0), images()
    exported = export_graph(chip, (x,))
    assert not [node for node in exported.graph.nodes if "phasegrad" in str(node.target)]
    assert torch.equal(exported.module()(x), noiseless(chip)(x))


def test_comparators_are_noiseless() -> None:
    hardware = replace(QUIET, adc=SarAdc(comparator_noise=0.5, capacitor_mismatch=0.02))
    net, x = pg.convert(model(), hardware), images()
    fixed = noiseless(net)
    assert torch.equal(fixed(x[:1].expand(6, -1, -1, -1))[0], fixed(x[:1].expand(6, -1, -1, -1))[5])
    torch.testing.assert_close(export_graph(net, (x,)).module()(x), fixed(x))


@pytest.mark.parametrize("act", ["program", "age", "compensate", "calibrate"])
def test_a_noiseless_net_cannot_be_programmed_aged_compensated_or_calibrated(act: str) -> None:
    chip = noiseless(program(pg.convert(model(), QUIET), seed=0))
    acts = {
        "program": lambda: program(chip),
        "age": lambda: pg.inference.age(chip, 1.0),
        "compensate": lambda: pg.inference.compensate(chip),
        "calibrate": lambda: pg.hwa.calibrate(chip, [images()]),
    }
    with pytest.raises(ValueError, match=f"{act}: .*noiseless, "):
        acts[act]()


@pytest.mark.parametrize("programmed", [False, True])
def test_torch_export_keeps_the_noise(programmed: bool) -> None:
    net, x = pg.convert(model(), pg.presets.pcm_inference()).eval(), images()
    net = program(net, seed=0) if programmed else net
    with torch.no_grad():
        exported = torch.export.export(net, (x,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    outputs = []
    for one in (net, exported.module(), torch.export.load(file).module()):
        torch.manual_seed(3)
        outputs.append(one(x).detach())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(net(x), outputs[0])


@pytest.mark.parametrize("name", ["preset", "small tiles", "slices", "counter"])
def test_onnx_outputs_equal_torch_outputs(name: str, tmp_path: Path) -> None:
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install .[integrations]")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install .[integrations]")
    others = {
        "preset": pg.presets.pcm_inference(),
        "counter": replace(QUIET, adc=Adc(convention="counter")),
    }
    chip = program(pg.convert(model(), {**HARDWARE, **others}[name]), seed=0)
    path = tmp_path / "chip.onnx"
    export_onnx(chip, (images(),), path, dynamic_shapes=({0: torch.export.Dim("batch")},))
    session, x = runtime.InferenceSession(path), images(9)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    wanted = noiseless(chip)(x)
    # Sums in another order may round to the next step of a converter, in a few outputs.
    assert (found - wanted).abs().gt(1e-4 * wanted.abs().max()).float().mean() < 0.05


class Several(nn.Module):
    """Attention, a recurrent layer, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x[:, :3], x[:, :3], need_weights=False)
        return self.up(self.lstm(attended)[0].transpose(1, 2))


def test_of_modules_with_several_weights(tmp_path: Path) -> None:
    chip, x = program(pg.convert(Several(), pg.presets.pcm_inference()), seed=0), torch.randn(2, 5, 8)
    fixed = noiseless(chip)
    assert torch.equal(fixed(x), fixed(x))
    exported = export_graph(chip, (x,))
    assert not [node for node in exported.graph.nodes if "phasegrad" in str(node.target)]
    torch.testing.assert_close(exported.module()(x), fixed(x))
    torch.testing.assert_close(noiseless(pg.convert(Several(), QUIET))(x).shape, fixed(x).shape)


def test_of_in_memory_attention_and_recurrence() -> None:
    net = pg.convert(Several(), pg.presets.constant_step_training()).eval()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(noiseless(net)(x), pg.to_digital(net)(x), rtol=1e-5, atol=1e-5)
