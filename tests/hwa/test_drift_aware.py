"""Drift-aware training: weights read from chips of a random age."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.hwa import (
    AdditiveNoise,
    FixedAge,
    LogUniform,
    PCMNoise,
    Recipe,
    Uniform,
    calibrate,
    draw_age,
    fine_tune,
    set_noise_level,
)

YEAR = 3.15e7
VALUES = torch.tensor([-1.0, -0.6, -0.25, -0.05, 0.0, 0.02, 0.15, 0.4, 0.8, 1.0])

PRESET = pg.presets.pcm_inference()
DEVICE = PRESET.cell.device
CELLS = {
    "pair": PRESET.cell,
    "significance": pg.cells.SignificancePairs(device=DEVICE, significances=(2.0, 1.0)),
    "slices": pg.cells.DifferentialSlices(device=DEVICE, bits=6, slices=2),
    "reference": pg.cells.OffsetSlices(device=DEVICE, bits=6, slices=2),
    "projected": pg.cells.DifferentialPair(device=pg.devices.projected(DEVICE, liner=0.9e-6)),
}


def on(cell: pg.cells.Cell, **changes: object) -> Hardware:
    """Small tiles, so that compensation per tile and per column differ: two row tiles of two column tiles."""
    return dataclasses.replace(PRESET, cell=cell, rows=20, columns=30, **changes)


def patterned(hardware: Hardware) -> nn.Module:
    """A layer in which each value occurs 240 times, and every column of a tile has the same scale."""
    layer = pg.convert(nn.Linear(40, 60, bias=False), hardware)
    with torch.no_grad():
        layer.weight.copy_(VALUES.repeat(4).expand(60, 40))
    layer.ranges_calibrated = True
    return layer


def compensated(weights: pg.crossbar.tile_weights.TileWeights, hardware: Hardware) -> Tensor:
    """The weights ``[out, in]`` that a product effectively uses."""
    weight = weights.weight
    if weights.slice_factors is not None:
        weight = torch.tensordot(weight.new_tensor(weights.slice_factors), weight, dims=1)
    if weights.gain is None:
        return weight
    return weight * weights.gain.t().repeat_interleave(hardware.rows, dim=1)


def of_chips(layer: nn.Module, age: float, compensation: str | None, chips: int) -> Tensor:
    """What reads of programmed, aged and compensated chips find, ``[chips, out, in]``."""
    found = []
    for seed in range(chips):
        chip = pg.inference.age(pg.inference.program(layer, seed=seed), seconds=age)
        if compensation is not None:
            chip = pg.inference.compensate(chip, compensation, seed=1000 + seed)
        found.append(compensated(chip.devices.tile_weights(torch.tensor([seed]), torch.float32), layer.hardware))
    return torch.stack(found)


def of_training(layer: nn.Module, age: float, compensation: str | None, chips: int) -> Tensor:
    """What training at the same age reads, ``[chips, out, in]``."""
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=age), compensation=compensation).apply(layer)
    layer.train()
    with torch.no_grad():
        reads = [layer.store.matrix(torch.tensor([5000 + seed])) for seed in range(chips)]
    assert all(read.read_noise == 0.0 for read in reads)  # the devices have their own
    return torch.stack([compensated(read, layer.hardware) for read in reads])


def deviations(found: Tensor, expected: Tensor) -> Tensor:
    """Differences of mean and of mean square of each value in standard errors, which chips determine.

    The weights of a chip are correlated through its gain and reference columns, chips are independent.
    """
    z = []
    for power in (1, 2):
        per_chip = [(x**power).mean(1).unflatten(1, (4, len(VALUES))).mean(1) for x in (found, expected)]
        error = sum(m.var(0) / len(m) for m in per_chip).sqrt()
        z.append((per_chip[0].mean(0) - per_chip[1].mean(0)) / error)
    return torch.stack(z)


@pytest.mark.parametrize(
    ("cell", "compensation", "age"),
    [
        ("pair", None, 5 * YEAR),
        ("pair", "tile", 5 * YEAR),
        ("pair", "column", 5 * YEAR),
        ("pair", "layer", 0.0),
        ("significance", "column", YEAR),
        ("slices", "tile", YEAR),
        ("reference", "column", YEAR),
        ("projected", "tile", YEAR),
    ],
)
def test_training_at_an_age_has_the_moments_of_programmed_aged_and_compensated_chips(
    cell: str, compensation: str | None, age: float
) -> None:
    layer = patterned(on(CELLS[cell]))
    expected = of_chips(layer, age, compensation, 24)
    found = of_training(layer, age, compensation, 24)
    # 20 statistics; Student's t of 46 degrees of freedom exceeds 4.5 in one of 20,000.
    assert deviations(found, expected).abs().max() < 4.5


def test_moments_notice_drift_that_is_five_percent_off() -> None:
    layer = patterned(on(CELLS["pair"]))
    expected = of_chips(layer, YEAR, None, 24)
    nu = DEVICE.nu_mean
    weaker = dataclasses.replace(nu, log_slope=0.95 * nu.log_slope, low=0.95 * nu.low, high=0.95 * nu.high)
    changed = dataclasses.replace(DEVICE, nu_mean=weaker)
    other = patterned(on(pg.cells.DifferentialPair(device=changed)))
    assert deviations(of_training(other, YEAR, None, 24), expected).abs().max() > 10.0


def two_layers(hardware: Hardware = PRESET) -> nn.Sequential:
    torch.manual_seed(0)
    return pg.convert(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), hardware)


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 12, generator=generator), torch.arange(16) % 4) for _ in range(count)]


def exact_pairs(nu: float) -> Hardware:
    """Devices that are programmed exactly and all drift with the same exponent, on exact tiles."""
    curve = pg.devices.Curve
    device = pg.devices.PCM(
        g_max=25e-6, t0=20.0, t_read=250e-9, programming_sd=(0.0,), nu_mean=curve(polynomial=(nu,)), nu_sd=curve(),
        read_noise=None,
    )  # fmt: skip
    return Hardware(cell=pg.cells.DifferentialPair(device=device))


def drawn_ages(net: nn.Module, x: Tensor) -> list[int]:
    """The draw from which each layer of a net finds its age in one call."""
    found: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: found.append(int(layer.age_draw)))
        for layer in pg.nn.analog_layers(net).values()
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return found


def test_layers_of_a_net_share_one_age_which_each_call_in_training_draws() -> None:
    net, (x, _) = two_layers(exact_pairs(0.05)), batches()[0]
    Recipe(clip_sigma=0.0, age=LogUniform(low=1.0, high=1e8)).apply(net)
    net.train()
    calls = [drawn_ages(net, x) for _ in range(5)]
    assert all(first == second >= 0 for first, second in calls)
    assert len({first for first, _ in calls}) == 5
    torch.manual_seed(7)
    once = net(x)
    torch.manual_seed(7)
    assert torch.equal(net(x), once)
    net.eval()
    before = int(net[0].age_draw)
    net(x)
    assert int(net[0].age_draw) == before


@pytest.mark.parametrize("age", [LogUniform(low=10.0, high=1e7), Uniform(low=0.0, high=1e7)])
def test_ages_of_steps_follow_the_distribution(age: LogUniform | Uniform) -> None:
    net = two_layers(exact_pairs(0.05))
    Recipe(clip_sigma=0.0, age=age).apply(net)
    layer, n, shares = net[0].train(), 400, []
    torch.manual_seed(3)
    for _ in range(n):
        draw_age(net)
        with torch.no_grad():
            read = layer.store.matrix(torch.zeros(1, dtype=torch.int64)).weight
        decay = float((read.sum() / layer.weight.detach().sum()).log())
        seconds = 20.0 * math.exp(-decay / 0.05) - 20.0
        low, high = age.low, age.high
        log = isinstance(age, LogUniform)
        shares.append(math.log(seconds / low) / math.log(high / low) if log else (seconds - low) / (high - low))
    gap = (torch.tensor(shares).sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(gap) < 2.0 / math.sqrt(n)  # Kolmogorov-Smirnov: exceeded with a probability of 0.0007


def test_parts_of_a_net_share_the_age_that_the_loop_draws() -> None:
    net, (x, _) = two_layers(exact_pairs(0.05)), batches()[0]
    Recipe(clip_sigma=0.0, age=LogUniform(low=1.0, high=1e8)).apply(net)
    net.train()
    draw_age(net)
    outputs = [net[0](x) for _ in range(2)]
    assert torch.equal(*outputs)  # exact devices: only the age could differ
    draw_age(net)
    assert not torch.equal(net[0](x), outputs[0])


@pytest.mark.parametrize("compensation", [None, "tile"])
def test_gradient_is_that_of_the_clean_weight_at_every_age(compensation: str | None) -> None:
    net, (x, _) = two_layers(exact_pairs(0.05)), batches()[0]
    layer = net[0].train()
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=1e8), compensation=compensation).apply(net)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(8, 12), rtol=1e-5)
    drifted = ((1e8 + 20.0) / 20.0) ** -0.05
    factor = drifted if compensation is None else 1.0
    expected = factor * nn.functional.linear(x, layer.weight) + layer.bias
    assert torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_noise_level_scales_the_whole_deviation() -> None:
    net = two_layers()
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=YEAR), compensation="tile").apply(net)
    layer, seed = net[0].train(), torch.zeros(1, dtype=torch.int64)
    set_noise_level(net, 0.0)
    read = layer.store.matrix(seed)
    assert torch.equal(read.weight, layer.weight)
    assert torch.equal(read.gain, torch.ones_like(read.gain))
    set_noise_level(net, 1.0)
    whole = layer.store.matrix(seed)
    set_noise_level(net, 0.5)
    half = layer.store.matrix(seed)
    assert torch.allclose(half.weight, 0.5 * (whole.weight + layer.weight), atol=1e-6)
    assert torch.allclose(half.gain, 0.5 * (whole.gain + 1.0), atol=1e-6)


def test_other_noise_is_added_to_what_devices_do() -> None:
    net = two_layers(dataclasses.replace(exact_pairs(0.05), rows=512))
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=1e6), noise=AdditiveNoise(sigma=0.1)).apply(net)
    layer = net[0].train()
    reads = []
    for seed in torch.arange(400).split(1):
        reads.append(layer.store.matrix(seed).read_once(seed, 512).weight.detach())
    weight = layer.weight.detach()
    drifted = weight * (1e6 / 20.0 + 1.0) ** -0.05
    z = (torch.stack(reads) - drifted) / (0.1 * weight.abs().amax(1, keepdim=True))
    n = z.numel()
    assert abs(float(z.mean())) < 4.5 / math.sqrt(n)
    assert abs(float(z.var()) - 1.0) < 4.5 * math.sqrt(2.0 / n)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nets_of_other_dtypes_train(dtype: torch.dtype) -> None:
    net = two_layers().to(dtype)
    Recipe(age=LogUniform(low=1.0, high=1e8), compensation="column").apply(net)
    net.train()
    y = net(torch.randn(16, 12, dtype=dtype))
    y.square().sum().backward()
    assert y.dtype == net[0].weight.grad.dtype == dtype
    assert net[0].age_draw.dtype == torch.int64


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.LSTM(4, 6, batch_first=True),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_kind_of_layer_trains(model: nn.Module) -> None:
    shapes = {nn.LSTM: ((2, 3, 4),), nn.MultiheadAttention: ((2, 3, 8),) * 3}
    inputs = [torch.randn(*shape) for shape in shapes.get(type(model), ((2, 4, 8, 8),))]
    net = pg.convert(model, PRESET).train()
    Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile").apply(net)
    y = net(*inputs)
    (y if isinstance(y, Tensor) else y[0]).square().sum().backward()
    grads = [layer.weight.grad for layer in pg.nn.analog_layers(net).values()]
    assert grads
    assert all(grad is not None and bool(grad.isfinite().all()) and bool(grad.any()) for grad in grads)


def test_wires_act_on_what_devices_conduct() -> None:
    wires = pg.crossbar.Wires(word_line=2.0, bit_line=2.0)
    hardware = dataclasses.replace(exact_pairs(0.05), wires=wires)
    net = two_layers(hardware)
    chip = pg.inference.age(pg.inference.program(net, seed=0), seconds=1e6)
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=1e6)).apply(net)
    layer = net[0].train()
    read = layer.store.matrix(torch.zeros(1, dtype=torch.int64))
    assert torch.allclose(
        read.weight,
        chip[0].devices.tile_weights(torch.zeros(1, dtype=torch.int64), torch.float32).weight,
        rtol=1e-4,
        atol=1e-6,
    )
    read.weight.sum().backward()
    assert bool(layer.weight.grad.isfinite().all())


def test_devices_with_noise_that_remembers_train_on_its_law_at_one_age() -> None:
    correlated = dataclasses.replace(
        DEVICE, correlated_noise=pg.devices.CorrelatedNoise(), thermal=pg.devices.Thermal()
    )
    layer = patterned(on(pg.cells.DifferentialPair(device=correlated)))
    expected = of_chips(layer, YEAR, None, 12)
    assert deviations(of_training(layer, YEAR, None, 12), expected).abs().max() < 4.5


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo itself
def test_a_compiled_net_trains_without_graph_breaks() -> None:
    torch._dynamo.reset()  # hooks compiled by other tests count against its limit of recompilations
    net, (x, target) = two_layers(), batches()[0]
    Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile").apply(net)
    net.train()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    outputs = []
    for _ in range(2):
        y = compiled(x)
        nn.functional.cross_entropy(y, target).backward()
        outputs.append((y.detach(), int(net[0].age_draw), int(net[2].age_draw)))
    assert outputs[0][1] == outputs[0][2] != outputs[1][1] == outputs[1][2]
    assert not torch.equal(outputs[0][0], outputs[1][0])
    assert net[0].weight.grad is not None


def test_checkpointed_activations_see_the_same_chip() -> None:
    net, (x, _) = two_layers(), batches()[0]
    Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile").apply(net)
    net.train()
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(5)
        net.zero_grad()
        if checkpointed:
            y = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
        else:
            y = net(x)
        y.square().sum().backward()
        grads.append(net[0].weight.grad.clone())
    assert torch.equal(*grads)


def test_ensembles_under_vmap_draw_ages_of_their_own() -> None:
    nets = [two_layers() for _ in range(2)]
    for net in nets:
        Recipe(age=LogUniform(low=1.0, high=1e8)).apply(net.train())
    parameters, buffers = torch.func.stack_module_state(nets)

    def one(p: dict, b: dict, x: Tensor) -> Tensor:
        return torch.func.functional_call(nets[0], (p, b), (x,))

    y = torch.vmap(one, (0, 0, None), randomness="different")(parameters, buffers, torch.randn(3, 12))
    assert not torch.equal(y[0], y[1])


def test_functional_gradients_use_the_age_that_the_loop_draws() -> None:
    net, (x, _) = two_layers(exact_pairs(0.05)), batches()[0]
    Recipe(clip_sigma=0.0, age=LogUniform(low=1.0, high=1e8)).apply(net)
    net.train()
    parameters = dict(net.named_parameters())

    def loss(p: dict) -> Tensor:
        return torch.func.functional_call(net, p, (x,)).square().sum()

    torch.func.grad(loss)(parameters)  # without a draw, each layer draws an age of its own
    draw_age(net)
    first = torch.func.grad(loss)(parameters)
    second = torch.func.grad(loss)(parameters)
    assert all(torch.equal(first[name], second[name]) for name in parameters)


def test_digital_copies_and_chips_draw_no_age() -> None:
    net, (x, _) = two_layers(), batches()[0]
    Recipe(age=LogUniform(low=1.0, high=1e8)).apply(net)
    assert not pg.to_digital(net)._forward_pre_hooks
    chip = pg.inference.program(net, seed=0).train()
    before = int(chip[0].age_draw)
    chip(x)
    assert int(chip[0].age_draw) == before


def test_copies_and_pickles_of_a_net_draw_ages_of_their_own() -> None:
    net, (x, _) = two_layers(exact_pairs(0.05)), batches()[0]
    Recipe(clip_sigma=0.0, age=LogUniform(low=1.0, high=1e8)).apply(net)
    net.train()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.manual_seed(2)
        expected = net(x)
        torch.manual_seed(2)
        assert torch.equal(other(x), expected)
        assert other[0].age_draw is not net[0].age_draw


def test_a_state_dict_carries_the_age() -> None:
    net, other, (x, _) = two_layers(), two_layers(), batches()[0]
    recipe = Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile")
    recipe.apply(net)
    assert not any("age" in key for key in net.state_dict())
    other.load_state_dict(net.state_dict())
    assert other[0].perturbation == net[0].perturbation
    other.train()(x).sum().backward()  # each layer draws an age of its own until the recipe is applied
    recipe.apply(other)
    torch.manual_seed(2)
    expected = net.train()(x)
    torch.manual_seed(2)
    assert torch.equal(other(x), expected)


def test_recipes_round_trip_through_json_and_old_ones_have_no_age() -> None:
    recipe = Recipe(age=Uniform(low=0.0, high=YEAR), compensation="layer")
    assert from_json(recipe.to_json()) == recipe
    assert from_json(recipe.perturbation(PRESET).to_json()) == recipe.perturbation(PRESET)
    for made in (Recipe(), Recipe().perturbation(PRESET)):
        old = made.to_json().replace('"age": null, ', "").replace('"compensation": null, ', "")
        assert "age" not in old
        assert from_json(old) == made


def test_a_recipe_without_age_ends_drift_aware_training() -> None:
    net, (x, _) = two_layers(), batches()[0]
    Recipe(age=LogUniform(low=1.0, high=1e8)).apply(net)
    Recipe().apply(net)
    assert net[0].age_draw is None
    assert not net._forward_pre_hooks
    state = torch.get_rng_state()
    draw_age(net.train())
    assert torch.equal(torch.get_rng_state(), state)
    net(x)


def test_fine_tune_and_a_loop_of_ones_own_train_for_an_age() -> None:
    data, recipe = batches(), Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile", ramp=0.5)
    history = fine_tune(two_layers(), data, epochs=2, recipe=recipe, progress=False)
    assert len(history.loss) == 2
    net = calibrate(two_layers(), data, recipe=recipe).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    for x, target in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), target).backward()
        optimizer.step()
    assert not torch.equal(net[0].weight, before)


def test_an_interrupted_fine_tuning_resumes_with_the_same_bits(tmp_path) -> None:
    recipe = Recipe(age=LogUniform(low=1.0, high=1e8), compensation="tile")

    def tuned(folder: str, epochs: int) -> Tensor:
        torch.manual_seed(0)
        net, kept = two_layers(), pg.checkpoint.Folder(tmp_path / folder)
        fine_tune(
            net,
            batches(),
            epochs=epochs,
            recipe=recipe,
            checkpoints=kept,
            progress=False,
            optimizer=torch.optim.SGD(net.parameters(), lr=0.05),
        )
        return net[0].weight.detach()

    whole = tuned("whole", 3)
    tuned("parts", 1)
    assert torch.equal(tuned("parts", 3), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(compensation="tile"), r"Recipe: compensation = 'tile' with age = None"),
        (lambda: Recipe(age=FixedAge(seconds=1.0), compensation="row"), r"Recipe: compensation = 'row'"),
        (lambda: Recipe(age=FixedAge(seconds=1.0), noise=PCMNoise(strength=2.0)), r"PCMNoise\(strength=2.0\)"),
        (lambda: Perturbation(compensation="tile"), r"Perturbation: compensation = 'tile'"),
        (lambda: LogUniform(low=0.0, high=1.0), r"LogUniform: low = 0.0"),
        (lambda: LogUniform(low=2.0, high=1.0), r"LogUniform: high = 1.0"),
        (lambda: Uniform(low=-1.0, high=1.0), r"Uniform: low = -1.0"),
        (lambda: FixedAge(seconds=math.inf), r"FixedAge: seconds = inf"),
    ],
)
def test_impossible_ages_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match=r"Recipe: age = 1\.0"):
        Recipe(age=1.0)  # type: ignore[arg-type]


def test_a_failed_calibration_leaves_no_age_behind() -> None:
    net = two_layers()
    recipe = Recipe(age=LogUniform(low=1.0, high=1e8))
    for prepare in (calibrate, fine_tune):
        with pytest.raises(ValueError, match="not finite"):
            prepare(net, [(torch.full((4, 12), math.nan), torch.zeros(4, dtype=torch.int64))], recipe=recipe)
        assert net[0].perturbation is None
        assert net[0].age_draw is None
        assert not net._forward_pre_hooks


def test_nets_that_cannot_age_are_refused_and_unchanged() -> None:
    recipe = Recipe(age=LogUniform(low=1.0, high=1e8))
    ideal = two_layers(pg.presets.ideal_inference())
    with pytest.raises(ValueError, match="no device of the net drifts"):
        recipe.apply(ideal)
    memory = two_layers(pg.presets.pcm_capacitor_training())
    with pytest.raises(ValueError, match="trained in the memory"):
        recipe.apply(memory)
    chip = pg.inference.program(two_layers(), seed=0)
    with pytest.raises(ValueError, match="is programmed"):
        recipe.apply(chip)
    for net in (ideal, memory, chip):
        assert net[0].perturbation is None
        assert net[0].age_draw is None
