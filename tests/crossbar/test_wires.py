"""Wires of tiles: configuration, and effective conductances of arrays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.contracts.op import draw
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import DurationCodedDrop, Sinh, Wires, solve
from phasegrad.crossbar.wires import over_tiles
from phasegrad.testing import ConfigurationContract

WIRES = Wires(word_line=1.0, bit_line=2.0, driver=3.0, sense=4.0)


def cells(m: int, n: int) -> Tensor:
    return draw(m, n).double().abs() * 0.05


class TestWires(ConfigurationContract):
    def configuration(self) -> Wires:
        return Wires(word_line=1.0, bit_line=2.0, driver=3.0, sense=4.0, driven="both", sensed="first")


class TestDurationCodedDrop(ConfigurationContract):
    def configuration(self) -> DurationCodedDrop:
        return DurationCodedDrop(segment=0.7)


class TestSinh(ConfigurationContract):
    def configuration(self) -> Sinh:
        return Sinh(v0=0.3)


@pytest.mark.parametrize("name", ["word_line", "bit_line", "driver", "sense"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "1"])
def test_an_impossible_resistance_is_named(name: str, value: object) -> None:
    resistances = {"word_line": 1.0, "bit_line": 1.0, name: value}
    with pytest.raises(ValueError, match=rf"Wires: {name} = {value!r}; it must be a number in \[0"):
        Wires(**resistances)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("driven", "none"), ("sensed", "both"), ("solve", "fast")])
def test_an_impossible_choice_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"Wires: {name} = '{value}'; it must be one of"):
        Wires(word_line=1.0, bit_line=1.0, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["exact", "first-order"])
def test_sensed_at_the_first_row_is_the_array_upside_down(how: str) -> None:
    g = cells(5, 4)
    last, first = (Wires(word_line=1.0, bit_line=2.0, sensed=end, solve=how) for end in ("last", "first"))
    torch.testing.assert_close(first.effective(g), last.effective(g.flip(0)).flip(0), rtol=0.0, atol=0.0)
    assert float(first.effective(g)[0].sum() / g[0].sum()) > float(last.effective(g)[0].sum() / g[0].sum())


def test_two_drivers_halve_the_longest_way() -> None:
    """One row, ideal bit lines, one cell in the middle: R = 2 segments alone, and two such paths in parallel."""
    g = torch.tensor([[0.0, 0.1, 0.0]], dtype=torch.float64)
    alone, both = (Wires(word_line=3.0, bit_line=0.0, driven=d).effective(g)[0, 1] for d in ("one", "both"))
    assert float(alone) == pytest.approx(1 / 16.0, rel=1e-13)
    assert float(both) == pytest.approx(1 / 13.0, rel=1e-13)


def test_the_effective_matrix_gives_the_outputs_of_the_circuit() -> None:
    g, v = cells(6, 5), draw(7, 6).double()
    for wires in (WIRES, Wires(word_line=1.0, bit_line=2.0, driven="both", sensed="first")):
        torch.testing.assert_close(solve(g, v, wires).output, v @ wires.effective(g), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("value", [-1e-6, math.inf, math.nan])
def test_a_singular_array_is_refused(value: float) -> None:
    g = cells(3, 2)
    g[2, 1] = value
    with pytest.raises(ValueError, match=rf"conductance\[2, 1\] = {value:g} S; it must be finite and not negative"):
        solve(g, torch.ones(3), WIRES)


@pytest.mark.parametrize("how", ["exact", "first-order"])
@pytest.mark.parametrize("value", [-1e-6, math.inf, math.nan])
def test_the_effective_matrix_of_what_cannot_be_is_refused(value: float, how: str) -> None:
    g, wires = cells(3, 2).expand(2, 3, 2).clone(), replace(WIRES, solve=how)
    g[1, 2, 1] = value
    with pytest.raises(ValueError, match=rf"Wires.effective: conductance\[1, 2, 1\] = {value:g} S; it must be finite"):
        wires.effective(g.requires_grad_())


@pytest.mark.parametrize("given", [[[0.1]], torch.tensor([[1]]), None], ids=["list", "integers", "nothing"])
def test_what_is_no_floating_point_tensor_is_said(given: object) -> None:
    with pytest.raises(TypeError, match=r"Wires\.effective: conductance is .*; it must be a floating-point tensor"):
        WIRES.effective(given)  # type: ignore[arg-type]


def test_shorts_are_solved_up_to_the_largest_and_refused_beyond() -> None:
    """At the limit of ``G R = 1e9`` the rounding error of 2e-16 grows to at most 1e-4 of the current of a short."""
    wires, g = Wires(word_line=1.0, bit_line=1.0), draw(70, 70).double().abs() * 25e-6
    g[40, 33] = g[10, 50] = g[69, 0] = g[0, 0] = 1e6
    usual = wires.effective(g)
    largest = wires.effective(torch.where(g == 1e6, 1e9, g))
    torch.testing.assert_close(largest, usual, rtol=0.0, atol=1e-4 * float(usual.max()))
    g[40, 33] = 1e12
    message = r"conductance\[40, 33\] = 1e\+12 S with wires of 1 ohm; .* at most 1e\+09, .* 1e\+09 S for a short"
    for ask in (wires.effective, lambda g: solve(g, torch.ones(70), wires)):
        with pytest.raises(ValueError, match=message):
            ask(g)
    assert bool(Wires(word_line=0.0, bit_line=0.0).effective(g).eq(g).all())
    assert bool(replace(wires, solve="first-order").effective(g).isfinite().all())


@pytest.mark.parametrize("how", ["exact", "first-order"])
def test_transforms_and_compilers_come_through(how: str) -> None:
    wires, g = replace(WIRES, solve=how), torch.stack((cells(3, 2), 2 * cells(3, 2)))
    torch.testing.assert_close(torch.func.vmap(wires.effective)(g), wires.effective(g))
    compiled = torch.compile(wires.effective, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(g), wires.effective(g))
    assert wires.effective(g.to("meta")).shape == g.shape


def test_a_shape_that_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match=r"voltages \[4\]; they must be \[rows, columns\] and \[\.\.\., rows\]"):
        solve(cells(3, 2), torch.ones(4), WIRES)


@pytest.mark.parametrize("iv", [None, Sinh(v0=0.3)], ids=["linear", "sinh"])
@pytest.mark.parametrize("name", ["conductance", "voltages"])
def test_a_gradient_is_refused_with_the_way_out(name: str, iv: Sinh | None) -> None:
    given = {"conductance": cells(3, 2), "voltages": torch.ones(3, dtype=torch.float64)}
    given[name].requires_grad_()
    with pytest.raises(RuntimeError, match=rf"solve: {name}\.requires_grad = True; .*Detach it, or .*Wires\.effective"):
        solve(**given, wires=WIRES, iv=iv)
    with torch.no_grad():
        solve(**given, wires=WIRES, iv=iv)
    found = solve(**{k: t.detach() for k, t in given.items()}, wires=WIRES, iv=iv)
    assert not any(part.requires_grad for part in found)


def test_one_bent_cell_behind_its_wires() -> None:
    """``I = G v0 sinh((V - R I) / v0)``, found by bisection."""
    g, v0, v, r = 0.1, 0.25, 1.0, 1.0 + 2.0 + 3.0 + 4.0
    low, high = 0.0, v / r
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if g * v0 * math.sinh((v - r * middle) / v0) > middle else (low, middle)
    found = solve(torch.tensor([[g]]), torch.tensor([v], dtype=torch.float64), WIRES, Sinh(v0=v0))
    assert float(found.output) == pytest.approx(low, rel=1e-7)  # the conductance is float32


@pytest.mark.parametrize("v0", [0.05, 0.3, 2.0])
def test_bent_cells_obey_their_law_and_the_nodes(v0: float) -> None:
    g, v, iv = cells(6, 5), torch.tensor([1.0, -1.0, 0.5, 0.0, 1.0, 0.2], dtype=torch.float64), Sinh(v0=v0)
    found = solve(g, v, WIRES, iv)
    largest = float(found.cell.abs().max())
    over = found.word_line - found.bit_line
    torch.testing.assert_close(found.cell, g * v0 * torch.sinh(over / v0), rtol=0.0, atol=1e-11 * largest)
    torch.testing.assert_close(found.output, found.cell.sum(0), rtol=0.0, atol=1e-11 * largest)
    steps = found.bit_line - torch.cat((found.bit_line[1:], torch.zeros(1, 5, dtype=torch.float64)))
    resistance = torch.tensor([2.0] * 5 + [6.0], dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(steps, found.cell.cumsum(0) * resistance, rtol=0.0, atol=1e-11)


def test_at_small_voltages_the_law_is_linear() -> None:
    """``sinh(x) = x (1 + x^2 / 6)``: at a hundredth of v0 the currents differ by 2e-5 at most."""
    g, v = cells(6, 5), torch.full((6,), 0.01, dtype=torch.float64)
    linear, bent = solve(g, v, WIRES), solve(g, v, WIRES, Sinh(v0=1.0))
    torch.testing.assert_close(bent.output, linear.output, rtol=2e-5, atol=0.0)
    assert not torch.equal(bent.output, linear.output)


@pytest.mark.parametrize("times", [20.0, 40.0, 60.0, 300.0, 1e4])
@pytest.mark.parametrize("ohms", [1e-3, 1.0, 1e3])
def test_steep_laws_are_solved(times: float, ohms: float) -> None:
    """Voltages of many ``v0``; the law is checked as ``V = v0 asinh(I / (G v0))``, which rounds as voltages do."""
    g, iv = cells(9, 7) + 1e-4, Sinh(v0=1.0 / times)
    g[3, 4] = 0.0
    v = torch.stack((torch.ones(9), torch.linspace(-1.0, 1.0, 9))).double()
    found = solve(g, v, Wires(word_line=ohms, bit_line=2 * ohms, sense=ohms), iv)
    over = found.word_line - found.bit_line
    bent = iv.v0 * torch.asinh(found.cell / (g * iv.v0))
    torch.testing.assert_close(over[:, g > 0], bent[:, g > 0], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(found.output, found.cell.sum(1), rtol=1e-10, atol=1e-10 * float(found.cell.abs().max()))
    assert bool(found.cell[:, 3, 4].eq(0).all())


def test_a_vector_is_solved_the_same_beside_a_larger_one() -> None:
    g, small, iv = cells(6, 5), 1e-9 * draw(6).double(), Sinh(v0=0.05)
    beside = solve(g, torch.stack((torch.ones(6, dtype=torch.float64), small)), WIRES, iv)
    alone = solve(g, small, WIRES, iv)
    torch.testing.assert_close(beside.output[1], alone.output, rtol=1e-11, atol=0.0)
    torch.testing.assert_close(alone.output, solve(g, small, WIRES).output, rtol=1e-9, atol=0.0)  # (V / v0)^2 / 6


@pytest.mark.parametrize("iv", [None, Sinh(v0=0.3)], ids=["linear", "sinh"])
def test_no_vectors_no_cells_and_no_numbers(iv: Sinh | None) -> None:
    nothing = solve(cells(3, 2), torch.ones(2, 0, 3), WIRES, iv)
    assert nothing.output.shape == (2, 0, 2)
    assert nothing.cell.shape == nothing.bit_line.shape == (2, 0, 3, 2)
    for m, n in ((0, 2), (3, 0)):
        with pytest.raises(
            ValueError, match=rf"solve: conductance has shape \[{m}, {n}\]; it must have at least one row and col"
        ):
            solve(torch.ones(m, n), torch.ones(m), WIRES, iv)
    for value in (math.nan, math.inf):
        v = torch.ones(2, 3)
        v[1, 2] = value
        with pytest.raises(ValueError, match=rf"solve: voltages\[1, 2\] = {value:g} V; it must be finite"):
            solve(cells(3, 2), v, WIRES, iv)


def test_a_law_that_overflows_is_refused() -> None:
    """Without wires, which bound the current, it would be ``sinh(1e5)``."""
    v = torch.stack((torch.ones(3), torch.full((3,), 1e4)))
    with pytest.raises(ValueError, match=r"solve: .* in vector 1 of 2, .* 1e\+04 V: lower the voltages, or raise v0"):
        solve(cells(3, 2), v, Wires(word_line=0.0, bit_line=0.0), Sinh(v0=0.1))


@pytest.mark.parametrize("shape", [(11, 19), (10, 14), (3, 4), (5, 20)], ids=str)
def test_every_tile_is_an_array_of_its_own(shape: tuple[int, int]) -> None:
    planes = draw(2, *shape).double().abs()
    got = over_tiles(planes, 7, 5, WIRES.effective)
    assert got.shape == planes.shape
    for o in range(0, shape[0], 5):
        for i in range(0, shape[1], 7):
            tile = planes[:, o : o + 5, i : i + 7]
            alone = WIRES.effective(tile.mT.contiguous()).mT
            torch.testing.assert_close(got[:, o : o + 5, i : i + 7], alone, rtol=1e-12, atol=1e-15)


def test_the_duration_coded_formula() -> None:
    """Three rows by hand, at the sensed end first; R = 1 / (r g_max) = 114,286 for the usual wires at 25 uS."""
    drop, g_max = DurationCodedDrop(), 25e-6
    w, x = (0.5, -1.0, 0.25), (1.0, 0.5, -1.0)
    big = 1.0 / (0.35 * 25e-6)
    assert big == pytest.approx(114_286, rel=1e-5)
    a = 3 / big * (0.5 + 0.5 + 0.25)
    ramped = 0.5 * 0.0 + -0.5 * (1 - (2 / 3) ** 2) + -0.25 * (1 - (1 / 3) ** 2)
    want = a * (0.05 * a**2 - 0.2 * a + 0.5) * ramped
    products = torch.tensor(w) * torch.tensor(x)
    sums = products.abs().sum(), (products * drop.ramp(3, products)).sum()
    assert float(drop.lost(*sums, 3, g_max)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("g_max", [5e-6, 12e-6, 25e-6])
def test_the_drop_at_a_reference_conductance_does_not_depend_on_the_device(g_max: float) -> None:
    """``R`` is 1 / (0.35 ohm 5 uS) = 571,429, as in the simulator that the formula is from."""
    drop, n = DurationCodedDrop.at_reference_conductance(g_max), 512
    a = n * 40.0 / 571_428.57
    expected = a * (0.05 * a**2 - 0.2 * a + 0.5) * 3.0
    assert float(drop.lost(torch.tensor(40.0), torch.tensor(3.0), n, g_max)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"g_max = -1\.0 S"):
        DurationCodedDrop.at_reference_conductance(-1.0)


def test_outputs_shrink_by_the_stated_part() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(512, 128, bias=False), torch.randn(64, 512)
    layer.weight.data.normal_()
    slopes = []
    for drop in (DurationCodedDrop(), DurationCodedDrop.at_reference_conductance(25e-6)):
        hardware = replace(pg.presets.ideal_inference(), wires=drop)
        wired = pg.convert(nn.Sequential(layer), hardware)(x)
        slopes.append(((wired * layer(x)).sum() / layer(x).square().sum()).item())
    assert slopes == pytest.approx([0.956, 0.991], abs=0.002)
