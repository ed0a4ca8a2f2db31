"""Convolutions trained in memory, compared with the dense gradient for every option."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.op import threads
from tests.optim.test_analog_sgd import fine, preset, same, state
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange, tilings
from phasegrad.ops import pulses
from phasegrad.ops.native import library
from phasegrad.stores import staged_gradient

PAIRS = {
    1: (nn.Conv1d, pg.nn.AnalogConv1d),
    2: (nn.Conv2d, pg.nn.AnalogConv2d),
    3: (nn.Conv3d, pg.nn.AnalogConv3d),
}
SIZES = (7, 6, 5)
# With an even kernel, torch warns that padding="same" copies the input, in its layers and in ours.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

kernels = pytest.mark.skipif(
    library is None, reason="the test has thousands of samples, which the reference processes one by one"
)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2},
    "padding": {"padding": 1},
    "stride, dilation, padding": {"stride": 2, "dilation": 2, "padding": 2},
    "same": {"padding": "same"},
    "same, even kernel": {"padding": "same", "kernel_size": 2},
    "same, dilation": {"padding": "same", "kernel_size": 2, "dilation": 2},
    "valid": {"padding": "valid"},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": 1, "padding_mode": "replicate", "stride": 2},
    "circular, same": {"padding": "same", "padding_mode": "circular"},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "padding": 1, "stride": 2},
    "groups, same, reflect": {"groups": 2, "padding": "same", "padding_mode": "reflect"},
    "point": {"kernel_size": 1},
    "no bias": {"bias": False},
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
spaces = pytest.mark.parametrize("space", [1, 2, 3])


def counterparts(space: int, hardware: pg.Hardware, **options: Any) -> tuple[nn.Module, pg.nn.AnalogLayer]:
    digital_type, analog_type = PAIRS[space]
    options = {"kernel_size": 3} | options
    torch.manual_seed(0)
    digital = digital_type(4, 8, **options)
    return digital, analog_type.from_digital(copy.deepcopy(digital), hardware)


def images(space: int, *batch: int, seed: int = 1) -> Tensor:
    return torch.randn(*batch, 4, *SIZES[:space], generator=torch.Generator().manual_seed(seed))


def backward(layer: nn.Module, x: Tensor) -> Tensor:
    """The gradient of the input under a loss that weighs every output differently."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    return x.grad


def samples(layer: pg.nn.AnalogLayer) -> tuple[Tensor, Tensor]:
    """Inputs ``[samples, in]`` and gradients of all outputs ``[samples, out]``, 0 outside of a sample's group."""
    x, d = (torch.cat(parts) for parts in zip(*layer.weight.staged(), strict=True))
    return x, pulses.of_all_groups(d, layer.weight.matrix_size[0] // d.shape[1])


@spaces
@options
@pytest.mark.parametrize("batch", [(), (3,)], ids=["unbatched", "batch"])
def test_samples_add_up_to_the_dense_gradient(space: int, options: dict[str, Any], batch: tuple[int, ...]) -> None:
    digital, analog = counterparts(space, fine(), **options)
    x = images(space, *batch)
    theirs, mine = backward(digital, x), backward(analog, x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    patches, d = samples(analog)
    dense = digital.weight.grad.flatten(1)
    torch.testing.assert_close(d.t() @ patches, dense, rtol=1e-4, atol=1e-4)
    assert len(patches) == digital(x).numel() // 8 * options.get("groups", 1)
    if analog.bias is not None:
        torch.testing.assert_close(analog.bias.grad, digital.bias.grad, rtol=1e-4, atol=1e-4)


def test_samples_come_image_by_image_position_by_position_group_by_group() -> None:
    _, analog = counterparts(2, fine(), groups=2, padding=1, stride=2)
    x = images(2, 3)
    backward(analog, x)
    patches, d = samples(analog)
    unfolded = F.unfold(x, 3, padding=1, stride=2)  # [batch, channels * 9, positions]
    expected = unfolded.view(3, 2, 2 * 9, -1).permute(0, 3, 1, 2).reshape(-1, 2 * 9)
    assert torch.equal(patches, expected)
    assert (d[0::2, 4:] == 0).all()
    assert (d[1::2, :4] == 0).all()
    staged = analog.weight.grad.samples[0].d.flatten(2).permute(0, 2, 1).reshape(-1, 8)
    assert torch.equal(d[0::2] + d[1::2], staged)


def test_images_are_staged_instead_of_patches() -> None:
    _, analog = counterparts(2, fine(), padding=1)
    x = images(2, 3)
    backward(analog, x)
    staged = analog.weight.grad.samples[0]
    assert staged.x.shape == x.shape
    assert staged.d.shape == (3, 8, 7, 6)


@kernels
def test_updates_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(staged_gradient, "_MAX_UNFOLDED", size)
        _, analog = counterparts(2, pg.presets.soft_bounds_training(), groups=2, padding=1)
        for seed in range(2):
            backward(analog, images(2, 20, seed=seed))
        parts = [len(x) for x, _ in analog.weight.staged()]
        torch.manual_seed(0)
        pg.optim.AnalogSGD(analog.parameters(), lr=0.01).step()
        found.append((parts, state(analog)))
    assert found[0][0] == [1024, 1024, 1024, 288]
    assert found[1][0] == [3360]
    assert same(found[0][1], found[1][1])


@pytest.mark.parametrize("groups", [3, 4])
def test_blocks_of_grouped_samples_start_with_the_first_group(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_gradient, "_MAX_UNFOLDED", 1)
    torch.manual_seed(0)
    conv = pg.nn.AnalogConv1d(groups, 2 * groups, 3, groups=groups, hardware=fine())
    conv(torch.randn(7, groups, 400)).square().sum().backward()
    parts = [(len(x), tuple(d.shape)) for x, d in conv.weight.staged()]
    size = math.lcm(1024, groups)
    assert {n for n, _ in parts[:-1]} == {size}
    assert all(shape == (n, 2) for n, shape in parts)
    whole = samples(conv)
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(whole, samples(conv), strict=True))


def test_layers_with_different_groups_may_share_a_weight() -> None:
    # An in-memory weight [6, 2, 3] is that of 2 inputs, and of 4 inputs in 2 groups.
    torch.manual_seed(0)
    whole, halves = nn.Conv1d(2, 6, 3), nn.Conv1d(4, 6, 3, groups=2)
    halves.weight = whole.weight
    digital = nn.ModuleList([whole, halves])
    analog = pg.convert(digital, fine())
    x = torch.randn(2, 4, 9)
    for net in (digital, analog):
        (net[0](x[:, :2]).square().sum() + net[1](x).square().sum()).backward()
    inputs, d = samples(analog[0])
    torch.testing.assert_close(d.t() @ inputs, whole.weight.grad.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", [pg.optim.AnalogSGD, pg.optim.MixedPrecision])
def test_a_depthwise_step_descends_the_dense_gradient(algorithm: Any) -> None:
    digital, analog = counterparts(2, fine(), groups=4, padding=1)
    x, lr = images(2, 3), 1e-5
    backward(digital, x), backward(analog, x)
    before, dw_min = analog.weight.detach().clone(), analog.devices.dw_min
    inputs, d = samples(analog)
    number = (lr / dw_min * d.abs().t() @ inputs.abs()).view_as(before)  # of the pulses of trains
    algorithm(analog.parameters(), lr=lr).step()
    change, expected = analog.weight.detach() - before, -lr * digital.weight.grad
    # The pulses of a train are binomial; counted pulses leave a remainder. Conductances have 24 bits.
    sd = dw_min * number.sqrt() if algorithm is pg.optim.AnalogSGD else 0.0
    assert ((change - expected).abs() < 5.0 * sd + 2.0 * dw_min + 1e-5 * before.abs()).all()


def test_patches_are_unfolded_in_blocks() -> None:
    conv = pg.nn.AnalogConv2d(64, 8, 7, padding=3, hardware=fine())
    x = torch.randn(2, 64, 32, 32)
    backward(conv, x)
    sizes = [patches.numel() for patches, _ in conv.weight.staged()]
    assert sizes == [1024 * 64 * 49] * 2  # blocks of the smallest number of samples, 1,024
    conv = pg.nn.AnalogConv2d(1, 8, 3, hardware=fine())
    backward(conv, torch.randn(400, 1, 32, 32))
    sizes = [patches.numel() + d.numel() for patches, d in conv.weight.staged()]
    assert len(sizes) > 2
    assert max(sizes) <= 1 << 20


class Largest(TorchDispatchMode):
    """Size of the largest storage that any operation allocates [bytes]."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, Tensor)]
        self.size = max(self.size, *(t.untyped_storage().nbytes() for t in made), 0)
        return out


@kernels
@pytest.mark.parametrize("fields", [{}, {"dac": Dac(range=AbsMaxRange())}], ids=["exact", "converters"])
@pytest.mark.parametrize("optimizer", [pg.optim.AnalogSGD, pg.optim.MixedPrecision])
def test_no_buffer_stores_all_patches(fields: dict[str, Any], optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilings, "_MAX_FOLDED", 1 << 16)
    conv = pg.nn.AnalogConv2d(4, 4, 7, padding=3, hardware=fine(**fields))
    x = torch.randn(64, 4, 16, 16, requires_grad=True)
    with Largest() as largest:
        conv(x).square().sum().backward()
        staged = conv.weight.grad.samples[0]
        optimizer(conv.parameters(), lr=1e-6).step()
    everything = 64 * 16 * 16 * 4 * 49 * 4
    assert staged.x.data_ptr() == x.data_ptr()
    assert 4 * x.numel() <= largest.size < everything / 2


def pulsed(space: int, options: dict[str, Any], optimizer: type[torch.optim.Optimizer], steps: int) -> list[Tensor]:
    """Change of the weight with steps of 1e-4 at a learning rate of 3e-4, its expectation, and the number of pulses."""
    digital, analog = counterparts(space, fine(steps=20_000), **options)
    x, before = images(space, 2), analog.weight.detach().double()
    backward(digital, x)
    backward(analog, x)
    patches, d = (t.double() for t in samples(analog))
    staged = analog.weight.grad.samples[0]
    analog.weight.grad = None
    for update in [optimizer([analog.weight], lr=3e-4)] * steps:
        analog.weight.stage(*staged)
        update.step()
    change = analog.weight.detach().double() - before
    sent = steps * 3.0 * d.abs().t() @ patches.abs()
    return [change, -steps * 3e-4 * digital.weight.grad.double(), sent.view_as(change)]


@spaces
@options
def test_counted_pulses_equal_the_dense_gradient(space: int, options: dict[str, Any]) -> None:
    change, expected, _ = pulsed(space, options, pg.optim.MixedPrecision, 4)
    # Less than a step remains in chi; conductances of 25 uS have a precision of 24 bits.
    assert ((change - expected).abs() < 1.01e-4 + 1e-3 * expected.abs()).all()
    assert (expected.abs() > 3e-4).double().mean() > 0.5


# What trains receive is tested above, for every option in every space: here each option is tested once.
@kernels
@pytest.mark.parametrize(
    ("space", "options"), [(1 + i % 3, o) for i, o in enumerate(OPTIONS.values())], ids=OPTIONS.keys()
)
def test_trains_descend_the_dense_gradient(space: int, options: dict[str, Any]) -> None:
    change, expected, sent = pulsed(space, options, pg.optim.AnalogSGD, 100 if space == 1 else 40)
    error = 5.0 * 1e-4 * (sent + 1.0).sqrt()  # the number of pulses per train is binomial
    assert ((change - expected).abs() < error + 1e-3 * expected.abs()).all()
    assert (expected.abs() > 2.0 * error).double().mean() > 0.1  # the check is sensitive


def cnn(hardware: pg.Hardware | None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    digital = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    return digital if hardware is None else pg.convert(digital, hardware)  # type: ignore[return-value]


def data(n: int = 64) -> tuple[Tensor, Tensor]:
    """Images with one bright quadrant, whose number is the label."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 4, (n,), generator=generator)
    for image, corner in zip(x, y.tolist(), strict=True):
        image[0, 4 * (corner // 2) :, 4 * (corner % 2) :][:4, :4] += 0.7
    return x, y


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int | range) -> list[float]:
    x, y = data()
    losses = []
    for i in range(steps) if isinstance(steps, int) else steps:
        some = slice(16 * (i % 4), 16 * (i % 4) + 16)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[some]), y[some])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@kernels
@pytest.mark.parametrize(
    ("optimizer", "steps", "tolerance"),
    [(pg.optim.AnalogSGD, 6_000, 0.15), (pg.optim.MixedPrecision, 20_000, 0.01)],
    ids=["trains", "counted"],
)
def test_a_network_learns_as_in_float(optimizer: Any, steps: int, tolerance: float) -> None:
    digital, analog = cnn(None), cnn(fine(steps=steps))
    theirs = train(digital, torch.optim.SGD(digital.parameters(), lr=0.1), 80)
    mine = train(analog, optimizer(analog.parameters(), lr=0.1), 80)
    assert theirs[-1] < 0.3 * theirs[0]
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < tolerance


@kernels
@pytest.mark.parametrize(
    ("preset", "optimizer"),
    [
        (pg.presets.constant_step_training, pg.optim.AnalogSGD),
        (pg.presets.soft_bounds_training, pg.optim.AnalogSGD),
        (pg.presets.soft_bounds_training, pg.optim.MixedPrecision),
        (pg.presets.pcm_pair_training, pg.optim.MixedPrecision),
    ],
)
def test_training_lowers_the_loss(preset: Callable[[], pg.Hardware], optimizer: Any) -> None:
    net = cnn(preset())
    losses = train(net, optimizer(net.parameters(), lr=0.1), 120)
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])


@kernels
def test_accumulated_backward_passes_equal_one_longer_batch() -> None:
    x, y = data()
    found = []
    for cuts in ([slice(0, 64)], [slice(0, 20), slice(20, 64)]):
        net = cnn(pg.presets.soft_bounds_training())
        for cut in cuts:
            F.cross_entropy(net(x[cut]), y[cut], reduction="sum").backward()
        torch.manual_seed(3)
        pg.optim.AnalogSGD([net[3].weight], lr=1e-3).step()
        found.append(net[3].devices.conductance)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("optimizer", [pg.optim.AnalogSGD, pg.optim.MixedPrecision])
def test_an_empty_batch_is_no_update(optimizer: Any) -> None:
    _, analog = counterparts(2, fine())
    before = analog.weight.detach().clone()
    analog(torch.ones(0, 4, 7, 6)).sum().backward()
    optimizer(analog.parameters(), lr=0.1).step()
    assert torch.equal(analog.weight, before)


def test_nothing_is_staged_for_a_frozen_weight() -> None:
    _, analog = counterparts(2, fine())
    analog.weight.requires_grad_(False)
    backward(analog, images(2, 2))
    assert analog.weight.grad is None
    assert analog.bias.grad is not None
    for copied in (copy.deepcopy(analog), pickle.loads(pickle.dumps(analog))):
        assert not copied.weight.requires_grad


@kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_train(dtype: torch.dtype) -> None:
    net = cnn(fine(steps=20_000)).to(dtype)
    x, y = data()
    before = net[0].devices.conductance.clone()
    F.cross_entropy(net(x.to(dtype)), y).backward()
    pg.optim.AnalogSGD(net.parameters(), lr=0.1).step()
    assert net[0].weight.dtype == dtype
    assert net[0].devices.conductance.dtype == torch.float32
    assert not torch.equal(net[0].devices.conductance, before)


@kernels
def test_autocast_trains() -> None:
    net, digital = cnn(fine()), cnn(None)
    x, y = data()
    for module in (net, digital):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(module(x), y)
        loss.backward()
    for i in (0, 3):
        patches, d = samples(net[i])
        dense = digital[i].weight.grad.flatten(1)
        # bfloat16 has a precision of 8 bits, and the many terms of the sums nearly cancel.
        assert (d.float().t() @ patches.float() - dense).norm() < 0.03 * dense.norm()
    pg.optim.AnalogSGD(net.parameters(), lr=1e-3).step()


def test_channels_last_images_are_supported() -> None:
    digital, analog = counterparts(2, fine(steps=20_000), padding=1)
    analog.to(memory_format=torch.channels_last)
    x = images(2, 3)
    backward(digital, x)
    backward(analog, x.to(memory_format=torch.channels_last))
    patches, d = samples(analog)
    torch.testing.assert_close(d.t() @ patches, digital.weight.grad.flatten(1), rtol=1e-4, atol=1e-4)
    pg.optim.MixedPrecision([analog.weight], lr=1e-3).step()
    assert torch.equal(analog.weight, analog.devices.logical_weight().view_as(analog.weight))


def test_gradient_checkpointing_stages_once() -> None:
    _, plain = counterparts(2, fine(), padding=1)
    _, analog = counterparts(2, fine(), padding=1)
    x = images(2, 3).requires_grad_()
    torch.utils.checkpoint.checkpoint(analog, x, use_reentrant=False).sum().backward()
    plain(x).sum().backward()
    assert len(analog.weight.grad.samples) == 1
    assert all(torch.equal(a, b) for a, b in zip(samples(analog), samples(plain), strict=True))


@spaces
@options
def test_backward_products_pass_through_converters(space: int, options: dict[str, Any]) -> None:
    hardware = fine(dac=Dac(bits=16, range=AbsMaxRange()), adc=Adc(bits=16, range=FullScaleRange()))
    for rows in (512, 5):
        digital, analog = counterparts(space, replace(hardware, rows=rows, columns=rows), **options)
        x = images(space, 2)
        mine, theirs = backward(analog, x), backward(digital, x)
        # Rows and columns have the same ADC, which rounds each tile's part at each position that reads an input.
        parts = math.prod(analog.kernel_size) * math.ceil(8 / rows)
        rounding = float(analog.output_range) / 32767.0 / math.sqrt(12.0) * math.sqrt(parts)
        # Pixels in a reflected edge receive more contributions.
        assert (mine - theirs).square().mean().sqrt() < 2.5 * rounding + 1e-4
        assert theirs.square().mean().sqrt() > 10.0 * rounding  # the check is sensitive


def test_a_coarse_converter_rounds_gradients_position_by_position() -> None:
    digital, analog = counterparts(1, fine(dac=Dac(bits=2, range=AbsMaxRange())), kernel_size=1, bias=False)
    x = images(1, 2).requires_grad_()
    d = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(0))
    analog(x).backward(d)
    largest = d.abs().amax(1, keepdim=True)  # per position: the DACs drive -1, 0 or 1 times this value
    converted = (d / largest).round() * largest
    expected = F.conv_transpose1d(converted, digital.weight)
    torch.testing.assert_close(x.grad, expected, rtol=1e-3, atol=1e-4)


def test_backward_products_have_noise_that_differs_per_image() -> None:
    _, analog = counterparts(2, fine(output_noise=0.1), groups=2)
    grads = []
    for _ in range(2):
        x = images(2, 1).expand(3, -1, -1, -1).clone().requires_grad_()
        torch.manual_seed(0)
        analog(x).sum().backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[0][0], grads[0][1])
    assert not torch.equal(grads[0][:, :2].sum(), grads[0][:, 2:].sum())


def test_folding_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = fine(dac=Dac(bits=6, range=AbsMaxRange()))
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(tilings, "_MAX_FOLDED", size)
        _, analog = counterparts(2, hardware, groups=2, padding=1)
        found.append(backward(analog, images(2, 5)))
    torch.testing.assert_close(found[0], found[1])


@kernels
@preset
def test_results_do_not_depend_on_the_number_of_threads(preset: Callable[[], pg.Hardware]) -> None:
    found = []
    for count in (1, 2, 3):
        with threads(count):
            net = cnn(preset())
            train(net, pg.optim.AnalogSGD(net.parameters(), lr=0.1), 4)
            found.append(state(net))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@kernels
@preset
def test_a_resumed_run_is_bit_identical(preset: Callable[[], pg.Hardware]) -> None:
    net = cnn(preset())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1, momentum=0.5)
    train(net, optimizer, range(3))
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    train(net, optimizer, range(3, 6))
    file.seek(0)
    resumed = cnn(preset(), seed=5)
    again = pg.optim.AnalogSGD(resumed.parameters(), lr=0.7)
    weights, rest, random = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state_dict(rest)
    torch.set_rng_state(random)
    train(resumed, again, range(3, 6))
    assert same(state(net), state(resumed))


@kernels
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_have_their_own_devices(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = cnn(pg.presets.pcm_pair_training())
    x, y = data()
    F.cross_entropy(net(x), y).backward()
    other, before = copied(net), state(net)
    assert same(before, state(other))
    assert other[0].weight.grad is None
    train(other, pg.optim.AnalogSGD(other.parameters(), lr=0.1), 2)
    assert same(state(net), before)
    assert not same(state(other), before)


def test_conversion_to_digital_restores_a_plain_parameter() -> None:
    net = cnn(fine())
    digital = pg.to_digital(net)
    assert type(digital[3].weight) is nn.Parameter
    x, _ = data()
    torch.testing.assert_close(digital(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_samples_pulse_no_device(value: float) -> None:
    net = cnn(fine())
    x, y = data()
    F.cross_entropy(net(x), y).backward()
    net[3].weight.grad.samples[0].d[0, 0, 0, 0] = value
    before = state(net)
    for optimizer in (pg.optim.AnalogSGD, pg.optim.MixedPrecision):
        with pytest.raises(ValueError, match="not finite"):
            optimizer(net.parameters(), lr=0.1).step()
    assert same(state(net), before)
