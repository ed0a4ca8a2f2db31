"""Analog recurrent layers equal their digital counterparts; noise is drawn per sequence or per step."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import phasegrad as pg
from phasegrad.nn import AnalogGRU, AnalogLSTM, AnalogRNN, analog_layers

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()
LAYERS = [nn.RNN, nn.LSTM, nn.GRU]
CELLS = [nn.RNNCell, nn.LSTMCell, nn.GRUCell]
OPTIONS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    *itertools.product(
        LAYERS,
        [
            {},
            {"num_layers": 2, "bidirectional": True},
            {"bias": False, "batch_first": True},
            {"num_layers": 3, "batch_first": True},
            {"bidirectional": True, "dropout": 0.0},
        ],
    ),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    (nn.LSTM, {"proj_size": 2}),
    (nn.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True, "bias": False}),
]
each_option = pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=[f"{k.__name__} {' '.join(map(str, o.items()))}" for k, o in OPTIONS]
)
one_dnn = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
each_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)
each_cell = pytest.mark.parametrize("kind", CELLS, ids=lambda k: k.__name__)


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def tensors(y: Any) -> list[Tensor]:
    if isinstance(y, Tensor):
        return [y]
    return [t for part in (y[:1] if isinstance(y, PackedSequence) else y) for t in tensors(part)]


def states(digital: nn.RNNBase, *batch: int) -> Any:
    count = digital.num_layers * (1 + digital.bidirectional)
    h = torch.randn(count, *batch, digital.proj_size or digital.hidden_size)
    return (h, torch.randn(count, *batch, digital.hidden_size)) if isinstance(digital, nn.LSTM) else h


@one_dnn
@each_option
@pytest.mark.parametrize("given", [True, False], ids=["hx", "zeros"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_outputs_and_gradients_equal_those_of_the_digital_counterpart(
    kind: type[nn.RNNBase], options: dict[str, Any], given: bool, batched: bool
) -> None:
    digital = kind(3, 5, **options)
    analog = pg.convert(digital, IDEAL)
    x = torch.randn(4, 6, 3) if batched else torch.randn(6, 3)
    hx = states(digital, *([4 if digital.batch_first else 6] if batched else [])) if given else None
    results = []
    for module in (digital, analog):
        inputs = x.clone().requires_grad_()
        y = module(inputs, hx)
        sum(t.square().sum() for t in tensors(y)).backward()
        results.append([*tensors(y), inputs.grad])
    close(results[1], results[0])
    for theirs, mine in analog._key_map.items():
        wanted = digital.get_parameter(theirs).grad
        torch.testing.assert_close(analog.get_parameter(mine).grad, wanted, rtol=1e-4, atol=1e-4)


@one_dnn
@each_option
@pytest.mark.parametrize("order", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("given", [True, False], ids=["hx", "zeros"])
def test_packed_sequences_equal_those_of_the_digital_counterpart(
    kind: type[nn.RNNBase], options: dict[str, Any], order: bool, given: bool
) -> None:
    digital = kind(3, 5, **options)
    analog = pg.convert(digital, IDEAL)
    lengths = (6, 4, 4, 1) if order else (4, 1, 6, 4)
    packed = pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=order)
    hx = states(digital, 4) if given else None
    mine, theirs = analog(packed, hx), digital(packed, hx)
    assert isinstance(mine[0], PackedSequence)
    close(pad_packed_sequence(mine[0]), pad_packed_sequence(theirs[0]))
    close(mine[1], theirs[1])


def test_dropout_acts_between_layers_in_training_only() -> None:
    digital = nn.LSTM(3, 5, num_layers=2, dropout=0.5)
    analog, x = pg.convert(digital, IDEAL), torch.randn(7, 2, 3)
    assert not torch.equal(analog(x)[0], analog(x)[0])
    close(analog.eval()(x), digital.eval()(x))
    with pytest.warns(UserWarning, match="dropout"):
        single = nn.LSTM(3, 5, dropout=0.5)
    analog = pg.convert(single, IDEAL)
    assert torch.equal(analog(x)[0], analog(x)[0])  # torch has none after the last layer
    assert pg.to_digital(analog).dropout == 0.5


@each_layer
@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        (torch.zeros(4, 2, 4), None, r"input has shape \[4, 2, 4\]; it must be \[length, batch, 3\]"),
        (torch.zeros(3), None, r"input has shape \[3\]"),
        (torch.zeros(0, 2, 3), None, "a sequence must have at least one step"),
        (torch.zeros(4, 2, 3), 7, "hx has shape"),
        (torch.zeros(4, 3), 2, "hx has shape"),
    ],
)
def test_wrong_shapes_raise(kind: type[nn.RNNBase], x: Tensor, hx: int | None, message: str) -> None:
    digital = kind(3, 5)
    given = None if hx is None else states(digital, hx)
    with pytest.raises(ValueError, match=message):
        pg.convert(digital, IDEAL)(x, given)


def noisy_counterpart(kind: type[nn.RNNBase], sigma: float = 0.2) -> nn.Module:
    net = pg.convert(kind(32, 32, bias=False, dtype=torch.float64), IDEAL)
    pg.hwa.Recipe(noise=pg.hwa.AdditiveNoise(sigma=sigma), clip_sigma=0.0).apply(net)
    return net


def recurrent_products(net: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and outputs of ``hh`` at each step."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = net.hh_l0.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0].detach(), y.detach())))
    net(x)
    handle.remove()
    return [a for a, _ in seen], [b for _, b in seen]


@each_layer
def test_training_noise_is_drawn_once_per_sequence(kind: type[nn.RNNBase]) -> None:
    net = noisy_counterpart(kind)
    x = torch.randn(6, 100, 32, dtype=torch.float64)
    h, y = recurrent_products(net, x)
    matrices = [torch.linalg.lstsq(a, b).solution for a, b in zip(h[1:], y[1:], strict=True)]
    for m in matrices[1:]:  # 100 samples of 32 hidden units determine the matrix
        torch.testing.assert_close(m, matrices[0], rtol=1e-6, atol=1e-6)
    noise = matrices[0].t() - net.hh_l0.weight.detach()
    sd = noise / net.hh_l0.weight.detach().abs().amax(1, keepdim=True)
    assert abs(sd.std().item() / 0.2 - 1) < 5 / (2 * sd.numel()) ** 0.5
    again = recurrent_products(net, x)
    other = torch.linalg.lstsq(again[0][1], again[1][1]).solution
    difference = (other - matrices[0]).std().item()  # of two independent draws
    assert abs(difference / noise.std().item() / 2**0.5 - 1) < 5 / noise.numel() ** 0.5


def test_a_chip_is_read_again_at_each_step() -> None:
    device = pg.devices.joshi_2020()
    hardware = replace(IDEAL, cell=pg.cells.DifferentialPair(device=device))
    chip = pg.inference.program(pg.convert(nn.RNN(32, 32, bias=False), hardware), seed=0)
    h, y = recurrent_products(chip, torch.randn(6, 100, 32))
    first, second = (torch.linalg.lstsq(a, b).solution for a, b in zip(h[1:3], y[1:3], strict=True))
    assert (first - second).std() > 1e-3 * first.std()


def test_output_noise_is_drawn_at_each_step() -> None:
    net = pg.convert(nn.RNN(1, 200, bias=False), replace(IDEAL, output_noise=0.1)).eval()
    h, y = recurrent_products(net, torch.zeros(3, 50, 1) + 0.1)
    unit = net.hh_l0.weight.detach().abs().amax(1)
    exact = [a @ net.hh_l0.weight.detach().t() for a in h]
    z = [(b - e) / (0.1 * unit * a.abs().amax(1, keepdim=True)) for a, b, e in zip(h, y, exact, strict=True)]
    for noise in z[1:]:
        assert abs(noise.std().item() - 1) < 5 / (2 * noise.numel()) ** 0.5
    assert abs((z[1] * z[2]).mean().item()) < 5 / z[1].numel() ** 0.5


def test_gradients_of_a_noisy_sequence_add_up_over_the_steps() -> None:
    torch.manual_seed(0)
    net = noisy_counterpart(nn.RNN, sigma=0.1)
    x = torch.randn(4, 3, 32, dtype=torch.float64)
    matrices: list[Any] = []
    read = net.hh_l0.read

    def recorded_read() -> Any:
        matrices.append(read())
        matrices[-1].weight.retain_grad()
        return matrices[-1]

    net.hh_l0.read = recorded_read
    net(x)[0].square().sum().backward()
    assert len(matrices) == 1
    torch.testing.assert_close(net.hh_l0.weight.grad, matrices[0].weight.grad)


@one_dnn
@each_option
def test_float_checkpoints_load_and_to_digital_restores_the_module(
    kind: type[nn.RNNBase], options: dict[str, Any]
) -> None:
    digital, other, x = kind(3, 5, **options), kind(3, 5, **options), torch.randn(4, 2, 3)
    net = nn.ModuleDict({"a": digital})
    converted = pg.convert(net, IDEAL)
    converted.load_state_dict({f"a.{k}": v for k, v in other.state_dict().items()})
    close(converted["a"](x), other(x))
    back = pg.to_digital(converted)["a"]
    assert type(back) is kind
    assert list(back.state_dict()) == list(digital.state_dict())
    close(back(x), other(x))
    back.load_state_dict(digital.state_dict())
    close(back(x), digital(x))  # the flattened weights are the parameters


def test_checkpoints_of_the_wrong_shape_raise() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for hh_l0\.weight"):
        pg.convert(nn.GRU(3, 5), IDEAL).load_state_dict(nn.GRU(3, 4).state_dict())


@each_layer
def test_an_aged_chip_survives_saving_loading_and_copying(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    digital, x = kind(3, 5, num_layers=2), torch.randn(4, 2, 3)
    chip = pg.inference.age(pg.inference.program(pg.convert(digital, NOISY), seed=1), 1e6)
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = pg.convert(digital, NOISY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    y = []
    for module in (chip, loaded, copy.deepcopy(chip), pickle.loads(pickle.dumps(chip))):
        torch.manual_seed(4)
        y.append(tensors(module(x)))
    for other in y[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, y[0], strict=True))
    assert type(pg.to_digital(chip)) is kind


@each_layer
def test_two_layers_that_share_weights_share_devices(kind: type[nn.RNNBase]) -> None:
    a, b = kind(4, 4), kind(4, 4)
    b.weight_hh_l0 = a.weight_hh_l0
    b.weight_ih_l0 = a.weight_hh_l0
    model = nn.ModuleList([a, b, a])
    for hardware in (IDEAL, pg.presets.soft_bounds_training()):
        net = pg.convert(model, hardware)
        assert net[0] is net[2]
        assert net[0].hh_l0.weight is net[1].hh_l0.weight is net[1].ih_l0.weight
        back = pg.to_digital(net)
        assert back[0].weight_hh_l0 is back[1].weight_hh_l0 is back[1].weight_ih_l0
        assert back[0] is back[2]
    chip = pg.inference.program(pg.convert(model, NOISY), seed=0)
    assert chip[0].hh_l0.devices is chip[1].hh_l0.devices is chip[1].ih_l0.devices


@each_layer
def test_in_memory_training_stages_the_gradient_of_every_step(kind: type[nn.RNNBase]) -> None:
    digital = kind(3, 5)
    hardware = replace(pg.presets.soft_bounds_training(), dac=None, adc=None, output_noise=0.0, read_noise=0.0)
    analog = pg.convert(digital, hardware)
    with torch.no_grad():  # the devices store the weights after programming errors
        for theirs, mine in analog._key_map.items():
            digital.get_parameter(theirs).copy_(analog.get_parameter(mine))
    x = torch.randn(6, 2, 3)
    for module in (digital, analog):
        sum(t.square().sum() for t in tensors(module(x))).backward()
    assert len(analog.hh_l0.weight.grad.samples) == 6
    assert len(analog.ih_l0.weight.grad.samples) == 1
    for name in ("ih", "hh"):
        gradient = sum(d.t() @ rows for rows, d in getattr(analog, f"{name}_l0").weight.staged())
        wanted = getattr(digital, f"weight_{name}_l0").grad
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)
    before = analog.hh_l0.weight.detach().clone()
    pg.optim.AnalogSGD(analog.parameters(), lr=0.1).step()
    assert not torch.equal(analog.hh_l0.weight.detach(), before)


def test_calibration_uses_hidden_states() -> None:
    net = pg.convert(nn.LSTM(3, 5), NOISY)
    pg.hwa.calibrate(net, [torch.randn(6, 4, 3) for _ in range(3)])
    assert 0 < net.hh_l0.input_range.item() <= 1.0  # a hidden state is at most 1
    assert 1.5 < net.ih_l0.input_range.item() < 4.0


@pytest.mark.slow
def test_a_sequence_model_learns_with_noise() -> None:
    torch.manual_seed(0)
    net = pg.convert(nn.GRU(4, 16, batch_first=True), NOISY)
    head = pg.convert(nn.Linear(16, 4), NOISY)
    data = torch.eye(4)[torch.arange(12).remainder(4)].repeat(8, 1, 1)
    pg.hwa.calibrate(net, [data])
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(head(net(data[:, :-1])[0]).transpose(1, 2), data[:, 1:].argmax(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@each_cell
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(4,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("given", [True, False], ids=["hx", "zeros"])
def test_cells_equal_their_digital_counterparts(kind: Any, bias: bool, batch: tuple[int, ...], given: bool) -> None:
    digital = kind(3, 5, bias=bias)
    analog = pg.convert(digital, IDEAL)
    x, h, c = torch.randn(*batch, 3), torch.randn(*batch, 5), torch.randn(*batch, 5)
    hx = None if not given else (h, c) if kind is nn.LSTMCell else h
    close(analog(x, hx), digital(x, hx))
    analog.load_state_dict((other := kind(3, 5, bias=bias)).state_dict())
    close(analog(x, hx), other(x, hx))
    back = pg.to_digital(analog)
    assert type(back) is kind
    assert list(back.state_dict()) == list(digital.state_dict())


@each_cell
def test_wrong_shapes_in_cells_raise(kind: Any) -> None:
    analog = pg.convert(kind(3, 5), IDEAL)
    with pytest.raises(ValueError, match=r"input has shape \[2, 4\]; it must be \[batch, 3\]"):
        analog(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"hx has shape \[2, 4\]; it must be (a pair of )?\[2, 5\]"):
        analog(torch.zeros(2, 3), torch.zeros(2, 4))


def test_relu_cells_equal_their_digital_counterpart() -> None:
    digital = nn.RNNCell(3, 5, nonlinearity="relu")
    close(pg.convert(digital, IDEAL)(x := torch.randn(2, 3)), digital(x))


@each_layer
def test_layers_support_checkpointing_vmap_and_functional_call(kind: type[nn.RNNBase]) -> None:
    net, x = pg.convert(kind(3, 5), NOISY), torch.randn(4, 2, 3)
    pg.hwa.Recipe().apply(net)
    gradients = []
    for checkpointed in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        run = (lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)) if checkpointed else net
        run(x)[0].sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    zeros = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    zeros = {name: p + 1 if name.endswith("range") else p for name, p in zeros.items()}
    y = torch.func.functional_call(net.eval(), zeros, (x,))[0]
    assert y.abs().max() < 1e-6
    exact = pg.convert(kind(3, 5), IDEAL)
    with torch.no_grad():
        many = torch.vmap(lambda x: exact(x)[0], randomness="different")(torch.stack([x, 2 * x]))
        close(many[1], exact(2 * x)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
@each_layer
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.slow
def test_an_unrolled_sequence_is_traced_without_graph_breaks(kind: type[nn.RNNBase], training: bool) -> None:
    torch.compiler.reset()
    net, x = pg.convert(kind(3, 5), NOISY).train(training), torch.randn(2, 2, 3)
    pg.hwa.Recipe().apply(net)
    traced = torch.compile(net, fullgraph=True, backend="aot_eager_decomp_partition")
    y = []
    for module in (net, traced):
        torch.manual_seed(2)
        y.append(module(x)[0])
    close(y[1], y[0])


def test_autocast_is_accurate_to_the_precision_of_bfloat16() -> None:
    net, x = pg.convert(nn.LSTM(3, 5), IDEAL), torch.randn(4, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)[0]
    torch.testing.assert_close(y.float(), net(x)[0], rtol=0.05, atol=0.02)


def test_constructors_accept_the_arguments_of_the_counterparts() -> None:
    layer = AnalogLSTM(3, 8, 2, proj_size=4, bidirectional=True, dtype=torch.float64, hardware=IDEAL)
    assert set(analog_layers(layer)) == {
        f"{k}_l{n}{d}" for k in ("ih", "hh", "hr") for n in (0, 1) for d in ("", "_reverse")
    }
    assert layer.ih_l1.weight.shape == (32, 8)
    assert AnalogGRU(3, 4, bias=False, hardware=IDEAL).ih_l0.bias is None
    assert AnalogRNN(3, 4, nonlinearity="relu", hardware=IDEAL).nonlinearity == "relu"
    with pytest.raises(TypeError, match="hardware"):
        AnalogGRU(3, 4, hardware=None)  # type: ignore[arg-type]


def test_an_empty_batch_returns_empty_outputs() -> None:
    y, (h, c) = pg.convert(nn.LSTM(4, 5), pg.presets.ideal_inference())(torch.zeros(3, 0, 4))
    assert (tuple(y.shape), tuple(h.shape), tuple(c.shape)) == ((3, 0, 5), (1, 0, 5), (1, 0, 5))
