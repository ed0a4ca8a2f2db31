"""Writes to a weight that lives on devices are programmed at its next use, and said; what cannot be is refused."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.stores.test_stores import CELLS
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import phasegrad as pg
from phasegrad.crossbar import Wires
from phasegrad.devices import ideal_device
from phasegrad.stores.watched_weight import ProgrammedWeight

WRITTEN = "the weight was written, but it is a copy"
BASE = pg.presets.pcm_inference()
CHIPS = {
    **{name: replace(BASE, cell=replace(cell, device=ideal_device())) for name, cell in CELLS.items()},
    "noisy": BASE,
    "wires": replace(BASE, wires=Wires(word_line=1.0, bit_line=1.0)),
    "tile scale": replace(BASE, scale="tile"),
}
MEMORIES = {
    "constant": pg.presets.constant_step_training(),
    "soft bounds": pg.presets.soft_bounds_training(),
    "pairs": pg.presets.pcm_pair_training(),
    "many pairs": pg.presets.multi_memristive_training(),
    "capacitor": pg.presets.pcm_capacitor_training(),
    "two arrays": pg.presets.tiki_taka_training(),
}
HARDWARE = CHIPS | MEMORIES


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))


def stored(hardware: pg.Hardware, digital: nn.Module | None = None) -> nn.Module:
    """A net whose weights live on devices."""
    net = pg.convert(model() if digital is None else digital, hardware)
    return net if hardware.pulses is not None else pg.inference.program(net, seed=0)


def x(*size: int) -> Tensor:
    return torch.randn(size or (5, 12), generator=torch.Generator().manual_seed(1))


def new_weight(layer: nn.Module) -> Tensor:
    """Other values of the size of the weight's."""
    values = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(2)) - 0.5
    return 0.3 * values


def error(layer: Any, wanted: Tensor) -> float:
    """The rms error of the stored weights, in units of the largest."""
    found = layer.layout.weight(layer.devices.logical_weight(), wanted.shape)
    return float((found - wanted).square().mean().sqrt() / wanted.abs().max())


def assert_programmed(layer: Any, wanted: Tensor, tolerance: float = 0.12) -> None:
    """The devices store the weight, up to their resolution and errors, and the parameter is theirs again."""
    assert error(layer, wanted) < tolerance
    assert layer.weight.devices is layer.devices
    found = layer.layout.weight(layer.devices.logical_weight(), wanted.shape)
    torch.testing.assert_close(layer.weight.detach(), found, rtol=1e-5, atol=1e-6)


# Writes, each with the values that it leaves.


def fill_in_place(layer: nn.Module) -> Tensor:
    with torch.no_grad():
        layer.weight.copy_(new_weight(layer))
    return new_weight(layer)


def add_to_data(layer: nn.Module) -> Tensor:
    wanted = layer.weight.data + new_weight(layer)
    layer.weight.data += new_weight(layer)
    return wanted


def copy_to_data(layer: nn.Module) -> Tensor:
    layer.weight.data.copy_(new_weight(layer))
    return new_weight(layer)


def set_data(layer: nn.Module) -> Tensor:
    layer.weight.data = new_weight(layer)
    return new_weight(layer)


def initialise(layer: nn.Module) -> Tensor:
    nn.init.constant_(layer.weight, 0.05)
    return torch.full(layer.weight.shape, 0.05)


def fused(layer: nn.Module) -> Tensor:
    wanted = layer.weight.detach().clone() + 0.1
    with torch.no_grad():
        torch._foreach_add_([layer.weight], 0.1)
    return wanted


def through_a_view(layer: nn.Module) -> Tensor:
    wanted = layer.weight.detach().clone()
    wanted[0] = 0.2
    layer.weight.detach()[0] = 0.2
    return wanted


def through_numpy(layer: nn.Module) -> Tensor:
    layer.weight.detach().numpy()[:] = new_weight(layer).numpy()
    return new_weight(layer)


def as_a_vector(layer: nn.Module) -> Tensor:
    nn.utils.vector_to_parameters(new_weight(layer).flatten(), [layer.weight])
    return new_weight(layer)


def assign(layer: nn.Module) -> Tensor:
    layer.weight = nn.Parameter(new_weight(layer))
    return new_weight(layer)


WRITES = [
    fill_in_place, add_to_data, copy_to_data, set_data, initialise, fused, through_a_view, through_numpy, as_a_vector,
    assign,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("hardware", HARDWARE)
def test_a_write_is_programmed_at_the_next_forward_pass(hardware: str, write: Callable[[nn.Module], Tensor]) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    with pytest.warns(UserWarning, match=f"^0: {WRITTEN}") as found:
        net(x())
    assert len(found) == 1
    assert Path(found[0].filename) == Path(__file__)
    assert_programmed(net[0], wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x())
    assert (type(net[0].weight) is pg.nn.InMemoryWeight) == (hardware in MEMORIES)


# Uses of a net other than a forward pass. Each returns the net whose devices must store what was written.


def save(net: nn.Module) -> nn.Module:
    torch.save(net.state_dict(), io.BytesIO())
    return net


def checkpoint(net: nn.Module, folder: Path) -> nn.Module:
    pg.checkpoint.save(folder / "run.pt", net=net)
    return net


def estimate_batchnorm(net: nn.Module) -> nn.Module:
    pg.inference.reestimate_batchnorm(nn.Sequential(net, nn.BatchNorm1d(4)), [x()])
    return net


def make_digital(net: nn.Module) -> nn.Module:
    digital = pg.to_digital(net)
    torch.testing.assert_close(digital[0].weight.detach(), net[0].weight.detach())
    return net


def make_noiseless(net: nn.Module) -> nn.Module:
    pg.inference.noiseless(net)
    return net


def read(net: nn.Module) -> nn.Module:
    net[0].read()
    return net


def move(net: nn.Module) -> nn.Module:
    return net.to("cpu")


def grow_old(net: nn.Module) -> nn.Module:
    old = pg.inference.age(net, seconds=0.0)
    assert torch.equal(old[0].devices.conductance, net[0].devices.conductance)  # the same chip
    return old


def correct(net: nn.Module) -> nn.Module:
    return pg.inference.compensate(net, seed=0)


USES = [save, estimate_batchnorm, make_digital, make_noiseless, read, move, grow_old, correct]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("write", [add_to_data, assign])
@pytest.mark.parametrize("hardware", ["pair", "slices", "soft bounds", "capacitor"])
def test_every_use_programs_what_was_written(
    hardware: str, write: Callable[[nn.Module], Tensor], use: Callable[[nn.Module], nn.Module]
) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    name = {read: r"AnalogLinear \[8, 12\]", estimate_batchnorm: "0.0"}.get(use, "0")
    with pytest.warns(UserWarning, match=f"^{name}: {WRITTEN}"):
        used = use(net)
    assert_programmed(used[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_checkpoint_holds_devices_that_store_what_was_written(hardware: str, tmp_path: Path) -> None:
    net = stored(HARDWARE[hardware])
    wanted = add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        checkpoint(net, tmp_path)
    other = stored(HARDWARE[hardware])
    pg.checkpoint.load(tmp_path / "run.pt", net=other)
    assert_programmed(other[0], wanted)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: nn.Linear(12, 8), (5, 12), ""),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), ""),
    "transposed convolution": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), ""),
    "recurrent": (lambda: nn.LSTM(6, 5), (4, 2, 6), "hh_l0"),
    "cell": (lambda: nn.GRUCell(6, 5), (3, 6), "hh"),
    "attention": (lambda: nn.MultiheadAttention(8, 2), (3, 2, 8), "in_proj"),
}


@pytest.mark.parametrize("write", [add_to_data, assign, fill_in_place])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_every_kind_of_layer_programs_what_was_written(
    hardware: str, kind: str, write: Callable[[nn.Module], Tensor]
) -> None:
    make, shape, name = LAYERS[kind]
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], make())
    layer = net.get_submodule(name)
    wanted = write(layer)
    inputs = (x(*shape),) * (3 if kind == "attention" else 1)
    with pytest.warns(UserWarning, match=f"^{name or 'Analog.*'}: {WRITTEN}"):
        net(*inputs)
    assert_programmed(layer, wanted)


def test_an_analog_embedding_programs_what_was_written() -> None:
    torch.manual_seed(0)
    layer = pg.inference.program(pg.nn.AnalogEmbedding(20, 6, hardware=CHIPS["pair"]), seed=0)
    wanted = add_to_data(layer)
    tokens = torch.arange(20)
    with pytest.warns(UserWarning, match=WRITTEN):
        layer(tokens)
    assert_programmed(layer, wanted)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_reads_copies_and_moves_are_no_writes(hardware: str) -> None:
    """Nothing is programmed, no random number is drawn, and the devices stay as they are."""
    net = stored(HARDWARE[hardware])
    if net[0].devices.hardware.pulses is not None:
        train(net, 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    nets = [net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)), stored(HARDWARE[hardware])]
    nets[3].load_state_dict(net.state_dict())
    nets.append(stored(HARDWARE[hardware]))
    nets[4].load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    for one in nets:
        one[0].weight.data.abs().sum(), one[0].weight.detach().numpy().sum(), one[0].weight.tolist()
        one[0].weight.data.add_(0.0)
        with torch.no_grad():
            one[0].weight.copy_(one[0].weight.clone())  # as DDP does
        one[0].weight = one[0].weight
        state = torch.get_rng_state()
        pg.to_digital(one), one.state_dict(), one.to("cpu")
        assert torch.equal(torch.get_rng_state(), state)
        one.eval()(x())
        after = one.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items())
        one.half().float()  # which rounds the biases
        assert torch.equal(one[0].weight, net[0].weight)
        assert type(one[0].weight) is type(net[0].weight)


def train(net: nn.Module, steps: int) -> None:
    fast = net[0].devices.fast
    kind = pg.optim.TikiTakaV2 if fast is not None and net[0].hardware.fast.transfer is None else pg.optim.AnalogSGD
    optimizer = kind(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x()).square().sum().backward()
        optimizer.step()
    net.zero_grad()


@pytest.mark.parametrize("hardware", MEMORIES)
def test_the_pulses_of_an_optimizer_are_no_writes(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    for _ in range(5):
        train(net, 2)
        for layer in (net[0], net[2]):
            torch.testing.assert_close(layer.weight.detach(), layer.devices.logical_weight(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hardware", MEMORIES)
def test_a_write_before_a_step_is_programmed_before_the_pulses(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    net(x()).square().sum().backward()
    wanted = new_weight(net[0])
    net[0].weight.data.copy_(wanted)
    fast = MEMORIES[hardware].fast
    kind = pg.optim.TikiTakaV2 if fast is not None and fast.transfer is None else pg.optim.AnalogSGD
    with pytest.warns(UserWarning, match=rf"AnalogLinear \[8, 12\]: {WRITTEN}"):
        kind(net.parameters(), lr=1e-6).step()
    assert_programmed(net[0], wanted)


def test_an_optimizer_keeps_the_weight_that_was_assigned_over() -> None:
    net = stored(MEMORIES["constant"])
    weight, optimizer = net[0].weight, pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    wanted = assign(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x()).square().sum().backward()
    assert net[0].weight is weight
    assert_programmed(net[0], wanted)
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_one_warning_names_all_layers_of_the_outermost_net() -> None:
    class Outer(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(inputs)

    net = Outer(stored(CHIPS["pair"]))
    for layer in (net.body[0], net.body[2]):
        add_to_data(layer)
    with pytest.warns(UserWarning, match=f"^body.0, body.2: {WRITTEN}") as found:
        net(x())
    assert len(found) == 1


# Scenarios of users.


class Adapter(nn.Module):
    """A low-rank adapter next to a layer, merged as peft does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, 4, bias=False)
        self.b = nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.b(self.a(inputs))

    def merge(self) -> nn.Module:
        self.base.weight.data += self.b.weight.detach() @ self.a.weight.detach()
        return self.base


@pytest.mark.parametrize("hardware", ["noisy", "constant"])
def test_an_adapter_that_is_merged_into_a_chip_keeps_what_it_learned(hardware: str) -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(64, 16), torch.randint(4, (64,))
    digital = nn.Sequential(Adapter(nn.Linear(16, 32)), nn.ReLU(), Adapter(nn.Linear(32, 4)))
    chosen = replace(MEMORIES["constant"], scale=8.0) if hardware == "constant" else BASE
    net = pg.convert(digital, chosen, skip=["a", "b"])
    chip = net
    if hardware == "noisy":
        pg.hwa.calibrate(net, [inputs], recipe=None)
        chip = pg.inference.program(net, seed=0)
    trained = [p for n, p in chip.named_parameters() if n.split(".")[1] in "ab"]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(chip(inputs), labels).backward()
        optimizer.step()
    merged = copy.deepcopy(chip)
    merged[0], merged[2] = merged[0].merge(), merged[2].merge()
    with pytest.warns(UserWarning, match=f"^0, 2: {WRITTEN}"):
        found = merged(inputs).argmax(1)
    accuracy, beside = ((y == labels).double().mean().item() for y in (found, chip(inputs).argmax(1)))
    assert beside > 0.7
    assert accuracy > 0.9 * beside


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_batch_norm_fuses_into_a_convolution(hardware: str) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    norm(torch.randn(50, 6, 4, 4) * 2.0 + 1.0)
    net, norm = stored(HARDWARE[hardware], conv), norm.eval()
    inputs = x(2, 3, 6, 6)
    with torch.no_grad():
        expected = norm(net.eval()(inputs))
        fused = nn.utils.fuse_conv_bn_eval(net, norm)
        with pytest.warns(UserWarning, match=WRITTEN):
            found = fused(inputs)
    assert float((found - expected).square().mean().sqrt()) < 0.1 * float(expected.std())


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens))))


RETIED: dict[str, Callable[[nn.Module], Any]] = {
    "age": lambda chip: pg.inference.age(chip, seconds=3.15e7),
    "compensate": lambda chip: pg.inference.compensate(chip, seed=0),
    "forward": lambda chip: chip(torch.arange(5)),
    "state dict": lambda chip: chip.state_dict(),
}


@pytest.mark.parametrize("use", RETIED)
def test_tying_again_never_refreshes_the_digital_embedding(use: str) -> None:
    torch.manual_seed(0)
    chip = pg.inference.program(pg.convert(LanguageModel(), BASE), seed=0)
    chip.tie_weights()
    before = chip.embedding.weight.detach().clone()
    with pytest.warns(UserWarning, match=f"head: {WRITTEN}"):
        result = RETIED[use](chip)
    used = result if isinstance(result, nn.Module) else pg.inference.age(chip, seconds=1.0)
    for one in (chip, used):
        assert torch.equal(one.embedding.weight, before)
        assert one.embedding.weight.requires_grad
        assert type(one.embedding.weight) is nn.Parameter
        assert type(one.head.weight) is ProgrammedWeight
        assert not one.head.weight.requires_grad
    assert error(chip.head, before) < 0.05


class TiedAnalog(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs).tanh())


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_write_to_tied_layers_is_programmed_once(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    wanted = add_to_data(net.first)
    with pytest.warns(UserWarning, match=f"^first, last: {WRITTEN}"):
        net(x(3, 6))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices
    assert_programmed(net.last, wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_tied_layers_that_get_the_same_weight_stay_tied(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    devices = net.first.devices
    net.first.weight = net.last.weight = nn.Parameter(new_weight(net.first))
    with pytest.warns(UserWarning, match=f"^first, last: {WRITTEN}"):
        net(x(3, 6))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices is devices
    assert_programmed(net.first, new_weight(net.first))


@pytest.mark.parametrize("hardware", ["pair", "soft bounds", "capacitor"])
def test_a_tied_layer_that_gets_another_weight_gets_devices_of_its_own(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    old = pg.inference.age(net, seconds=60.0)
    shared, before = old.last.devices, old.last.devices.conductance.clone()
    wanted = assign(old.first)
    with pytest.warns(UserWarning, match=f"^first: {WRITTEN}"):
        old(x(3, 6))
    assert_programmed(old.first, wanted)
    assert old.last.devices is shared
    assert torch.equal(shared.conductance, before)
    assert old.first.devices is not shared
    assert float(old.first.devices.clock) == 60.0
    if hardware == "soft bounds":
        assert not torch.equal(old.first.devices.step_parameters, shared.step_parameters)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_layer_that_gets_the_weight_of_another_programs_its_own_devices(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))
    wanted, before = net[0].weight.detach().clone(), net[0].devices.conductance.clone()
    net[2].weight = net[0].weight
    with pytest.warns(UserWarning, match=f"^2: {WRITTEN}"):
        net(x(3, 6))
    assert_programmed(net[2], wanted)
    assert net[2].weight is not net[0].weight
    assert torch.equal(net[0].devices.conductance, before)


def test_weights_are_clipped_and_scaled_as_when_they_were_programmed() -> None:
    layer = pg.nn.AnalogLinear(12, 8, hardware=CHIPS["pair"])
    pg.hwa.Recipe(clip_sigma=1.0).apply(layer)
    chip = pg.inference.program(layer, seed=0)
    wanted = 10.0 * new_weight(chip)
    with torch.no_grad():
        layer.weight.copy_(wanted)
        chip.weight.copy_(wanted)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(x())
    torch.testing.assert_close(chip.weight.detach(), pg.inference.program(layer, seed=1).weight.detach())


def test_values_that_cells_cannot_store_are_clipped_and_said() -> None:
    net = stored(MEMORIES["constant"])
    largest = net[0].hardware.scale
    net[0].weight.data[0, 0] = 10.0 * largest
    fill_in_place(net[2])
    with pytest.warns(UserWarning, match=r"^0, 2: .*beyond hardware\.scale were clipped in 0\."):
        net(x())
    assert float(net[0].weight.detach().max()) <= 1.5 * largest


def test_a_learned_input_range_covers_the_first_inputs_of_a_new_weight() -> None:
    net = pg.convert(nn.Linear(12, 8), BASE)
    pg.hwa.calibrate(net, [x(1000, 12)], recipe=None)
    chip = pg.inference.program(net, seed=0)
    narrow = chip.input_range.item()
    add_to_data(chip)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(0.1 * x(1000, 12))
    assert chip.input_range.item() == narrow  # never narrower
    add_to_data(chip)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(4.0 * x(1000, 12))
    assert chip.input_range.item() == pytest.approx(4.0 * narrow)
    chip(16.0 * x(1000, 12))
    assert chip.input_range.item() == pytest.approx(4.0 * narrow)


def test_a_write_is_programmed_at_the_present_time_and_drifts_from_then() -> None:
    old = pg.inference.age(stored(BASE), seconds=1e6)
    wanted = fill_in_place(old[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        old(x())
    assert float(old[0].devices.programmed_at) == float(old[0].devices.clock) == 1e6
    assert error(old[0], wanted) < 0.05
    older = pg.inference.age(old, seconds=1e6)
    left = older[0].weight.norm() / old[0].weight.norm()
    assert 0.4 < left < 0.7  # (1e6 / 20) ** -0.06


def test_a_write_to_a_copy_leaves_the_original_alone() -> None:
    net = stored(BASE)
    before, copied = {k: v.clone() for k, v in net.state_dict().items()}, copy.deepcopy(net)
    add_to_data(copied[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        copied(x())
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("write", [add_to_data, fill_in_place, assign])
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_copies_keep_what_was_written(
    hardware: str, write: Callable[[nn.Module], Tensor], copied: Callable[[nn.Module], nn.Module]
) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    other = copied(net)
    with pytest.warns(UserWarning, match=WRITTEN):
        other(x())
    assert_programmed(other[0], wanted)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_of_a_chip_keep_ties(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = copied(stored(BASE, TiedAnalog()))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices is net.first.weight.devices


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_the_devices_of_a_state_dict_count_more_than_its_weight(hardware: str) -> None:
    net, other = stored(HARDWARE[hardware]), stored(HARDWARE[hardware])
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state["0.weight"] += 0.1
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="^0: the state dict that was loaded has another weight than its devices"):
        other(x())
    assert torch.equal(other[0].weight, net[0].weight)
    assert torch.equal(other[0].devices.conductance, net[0].devices.conductance)


def test_devices_that_are_loaded_without_the_weight_refresh_it() -> None:
    net, other = stored(BASE), pg.inference.program(pg.convert(model(), BASE), seed=1)
    state = net.state_dict()
    del state["0.weight"]
    other.load_state_dict(state, strict=False)
    other(x())
    assert torch.equal(other[0].weight, net[0].weight)


# Averaged and target networks.


def test_target_networks_copy_state_dicts() -> None:
    net = stored(MEMORIES["pairs"])
    target = copy.deepcopy(net)
    train(net, 5)
    target.load_state_dict(net.state_dict())
    assert torch.equal(target(x()), net(x()))
    assert torch.equal(target[0].devices.conductance, net[0].devices.conductance)


def test_averages_of_what_is_read_are_digital() -> None:
    net = stored(MEMORIES["constant"])
    averaged = torch.optim.swa_utils.AveragedModel(pg.to_digital(net))
    read_weights = []
    for _ in range(4):
        train(net, 2)
        averaged.update_parameters(pg.to_digital(net))
        read_weights.append(net[0].weight.detach().clone())
    torch.testing.assert_close(averaged.module[0].weight.detach(), torch.stack(read_weights).mean(0))
    back = stored(MEMORIES["constant"])
    back.load_state_dict(averaged.module.state_dict())
    assert_programmed(back[0], averaged.module[0].weight.detach())


def test_targets_that_follow_softly_are_digital() -> None:
    net = stored(MEMORIES["constant"])
    target, expected = pg.to_digital(net), net[0].weight.detach().clone()
    for _ in range(3):
        train(net, 2)
        for mine, theirs in zip(target.parameters(), pg.to_digital(net).parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.05)
        expected.lerp_(net[0].weight.detach(), 0.05)
    torch.testing.assert_close(target[0].weight.detach(), expected)


@pytest.mark.parametrize("hardware", ["constant", "pairs"])
def test_an_average_that_is_written_to_devices_is_programmed(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    averaged(x())  # equal so far: no warning
    first = net[0].weight.detach().clone()
    train(net, 5)
    averaged.update_parameters(net)
    with pytest.warns(UserWarning, match=rf"module\.0, module\.2: {WRITTEN}"):
        averaged(x())
    assert_programmed(averaged.module[0], (first + net[0].weight.detach()) / 2.0)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_a_target_in_memory_is_programmed(tau: float) -> None:
    net = stored(MEMORIES["constant"])
    target = copy.deepcopy(net)
    train(net, 5)
    wanted = target[0].weight.detach().lerp(net[0].weight.detach(), tau)
    for mine, theirs in zip(target.parameters(), net.parameters(), strict=True):
        mine.data.lerp_(theirs.data, tau)
    with pytest.warns(UserWarning, match=WRITTEN):
        target(x())
    assert_programmed(target[0], wanted)


# What devices cannot follow.


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def prune_weights(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def parametrise(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", nn.Identity())


def normalise(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer)


def spectral(layer: nn.Module) -> None:
    nn.utils.spectral_norm(layer)


COMPUTED = [prune_weights, parametrise, spectral]


def forward(net: nn.Module) -> Any:
    return net(x())


@pytest.mark.parametrize("use", [forward, save, grow_old, correct, make_digital, make_noiseless])
@pytest.mark.parametrize("compute", COMPUTED)
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_weights_that_are_computed_from_others_are_refused(
    hardware: str, compute: Callable[[nn.Module], None], use: Callable[[nn.Module], Any]
) -> None:
    net = stored(HARDWARE[hardware])
    compute(net[0])
    with pytest.raises(
        RuntimeError, match=r"^0: the weight is no parameter any more.* before (programming|converting) "
    ):
        use(net)


def test_weight_normalisation_is_refused() -> None:
    net = stored(BASE)
    normalise(net[0])
    with pytest.raises(RuntimeError, match=r"^0: the weight is no parameter any more"):
        net(x())
    with pytest.raises(RuntimeError, match=r"trained in memory.*parametrize the digital model, before converting"):
        normalise(stored(MEMORIES["constant"])[0])


def test_the_value_of_a_weight_makes_ordinary_parameters() -> None:
    chip, net = stored(BASE), stored(MEMORIES["constant"])
    digital = nn.Linear(12, 8)
    for parameter in (nn.Parameter(chip[0].weight), nn.Parameter(net[0].weight.detach().clone())):
        digital.weight = parameter
        torch.optim.SGD(digital.parameters(), lr=0.1).step()
        digital(x()).sum().backward()
        assert parameter.grad is not None
        assert type(copy.deepcopy(digital).weight) is type(parameter)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_pruning_that_is_made_permanent_is_programmed(hardware: str) -> None:
    net = stored(HARDWARE[hardware])
    prune_weights(net[0])
    wanted = net[0].weight.detach().clone()
    assert 0.4 < float((wanted == 0.0).double().mean()) < 0.6
    prune.remove(net[0], "weight")
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_removed_parametrization_is_programmed(hardware: str) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 0.5 * weight

    net = stored(HARDWARE[hardware])
    wanted = 0.5 * net[0].weight.detach()
    parametrize.register_parametrization(net[0], "weight", Halved())
    parametrize.remove_parametrizations(net[0], "weight")
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "noisy", "soft bounds"])
def test_functional_call_with_other_weights_is_refused(hardware: str) -> None:
    net = stored(HARDWARE[hardware])
    before = state_of(net)
    other = {"0.weight": torch.zeros(8, 12)}
    with pytest.raises(RuntimeError, match=r"^0: it was called with another weight than its own.*0\.weight out of"):
        torch.func.functional_call(net, other, (x(),))
    assert all(torch.equal(before[k], v) for k, v in state_of(net).items())
    net(x())


@pytest.mark.parametrize("passed", ["same", "detached", "equal", "biases"])
@pytest.mark.parametrize("hardware", ["pair", "noisy", "soft bounds"])
def test_functional_call_with_its_own_weights_computes(hardware: str, passed: str) -> None:
    net = stored(HARDWARE[hardware]).eval()
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    if passed == "detached":
        parameters = {k: v.detach() for k, v in parameters.items()}
    elif passed == "equal":
        parameters = {k: v.detach().clone() for k, v in parameters.items()}
    elif passed == "biases":
        parameters = {k: v for k, v in parameters.items() if k.endswith("bias")}
    weights = [net[0].weight, net[2].weight]
    torch.manual_seed(0)
    expected = net(x())
    torch.manual_seed(0)
    assert torch.equal(torch.func.functional_call(net, parameters, (x(),)), expected)
    assert net[0].weight is weights[0]
    assert net[2].weight is weights[1]


@pytest.mark.parametrize("way", ["grad", "requires_grad"])
def test_a_gradient_of_a_weight_on_devices_is_refused(way: str) -> None:
    net = stored(pg.presets.ideal_inference())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x(),)).square().sum()

    parameters = {k: v.detach().clone() for k, v in net.named_parameters()}
    biases = {k: v for k, v in parameters.items() if k.endswith("bias")}
    assert all(bool(g.any()) for g in torch.func.grad(loss)(biases).values())
    if way == "requires_grad":
        parameters = {k: v.requires_grad_() for k, v in parameters.items()}
    compute = loss if way == "requires_grad" else torch.func.grad(loss)
    with pytest.raises(RuntimeError, match=r"^0: a gradient is wanted for a weight that lives on devices"):
        compute(parameters)


def test_chips_of_a_vmap_are_compared_with_their_own_devices() -> None:
    chips = [pg.inference.program(pg.convert(model(), CHIPS["pair"]), seed=i) for i in range(3)]
    parameters, buffers = torch.func.stack_module_state(chips)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(chips[0], (parameters, buffers), (x(),))

    with torch.no_grad():
        found = torch.vmap(call, randomness="different")(parameters, buffers)
        assert found.shape == (3, 5, 4)
        wrong = {name: p + 0.1 for name, p in parameters.items()}
        own = {n: b.expand(3, *b.shape) for n, b in chips[0].named_buffers() if "devices" not in n}
        with pytest.raises(RuntimeError, match="another weight than its own"):
            torch.vmap(call, randomness="different")(wrong, own)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_write_within_a_transform_is_programmed_outside_of_it(hardware: str) -> None:
    net = stored(HARDWARE[hardware]).eval()
    wanted = add_to_data(net[0])
    with pytest.raises(RuntimeError, match=r"within a transform of torch\.func"):
        torch.vmap(net, randomness="different")(x(3, 5, 12))
    with pytest.warns(UserWarning, match=WRITTEN), torch.no_grad():
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_values_that_are_not_finite_are_refused_before_anything_is_programmed(hardware: str, value: float) -> None:
    net = stored(HARDWARE[hardware])
    before = state_of(net)
    add_to_data(net[0])
    net[2].weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"^2: the weight was written with values that are not finite"):
        net(x())
    assert all(torch.equal(before[k], v) for k, v in state_of(net).items())


def test_a_weight_of_another_shape_is_refused() -> None:
    net = stored(BASE)
    net[0].weight = nn.Parameter(torch.zeros(6, 12))
    with pytest.raises(ValueError, match=r"^0: the weight was replaced with one of shape \[6, 12\].*\[8, 12\]"):
        net(x())
    net = stored(BASE)
    net[0].weight.data = torch.zeros(6, 12)
    with pytest.raises(ValueError, match=r"^0: the weight was replaced with one of shape \[6, 12\]"):
        net(x())


@pytest.mark.parametrize("origin", ["digital", "pair", "soft bounds"])
@pytest.mark.parametrize("write", WRITES)
def test_writes_to_a_noiseless_net_are_refused(write: Callable[[nn.Module], Tensor], origin: str) -> None:
    net = pg.convert(model(), BASE) if origin == "digital" else stored(HARDWARE[origin])
    quiet = pg.inference.noiseless(net)
    expected = quiet(x())
    quiet[0].weight.data.abs().sum()
    assert torch.equal(quiet(x()), expected)
    write(quiet[0])
    for use in (forward, save, make_digital):
        with pytest.raises(RuntimeError, match=r"^0: the weight was written, but the layer is noiseless"):
            use(quiet)


def test_a_noiseless_net_keeps_ties_with_digital_modules() -> None:
    net = pg.convert(LanguageModel(), BASE)
    quiet = pg.inference.noiseless(net)
    assert quiet.head.weight is quiet.embedding.weight
    digital = pg.to_digital(quiet)
    assert digital.head.weight is digital.embedding.weight
    assert type(digital.head.weight) is nn.Parameter


# Modes.


@pytest.mark.parametrize("hardware", ["noisy", "soft bounds"])
def test_inference_mode_counts_writes(hardware: str) -> None:
    with torch.inference_mode():
        net = copy.deepcopy(stored(HARDWARE[hardware]))
        net(x())
        wanted = fill_in_place(net[0])
        with pytest.warns(UserWarning, match=WRITTEN):
            net(x())
        assert_programmed(net[0], wanted)


def test_autocast_does_not_round_what_is_programmed() -> None:
    net = stored(CHIPS["pair"])
    wanted = fill_in_place(net[0])
    with pytest.warns(UserWarning, match=WRITTEN), torch.autocast("cpu", dtype=torch.bfloat16):
        net(x())
    assert error(net[0], wanted) < 1e-5


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_other_precisions_program_what_was_written(hardware: str) -> None:
    net = stored(HARDWARE[hardware]).bfloat16()
    wanted = add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x().bfloat16())
    assert error(net[0], wanted.float()) < 0.12
    stored_weight = net[0].devices.logical_weight()
    assert torch.equal(net.float()[0].weight, stored_weight)  # the devices are not rounded


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_chips_compile_without_graph_breaks_after_a_write() -> None:
    torch.compiler.reset()
    net = stored(pg.presets.ideal_inference())
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN), torch.no_grad():
        expected = net(x())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x()), expected)
    torch.compiler.reset()
