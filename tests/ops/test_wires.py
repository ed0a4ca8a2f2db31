"""Arrays with wires against the equations of all their nodes, and against closed forms."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from tests.contracts.op import Call, OpContract, draw
from tests.ops import nodal
from torch import Tensor

from phasegrad.ops.circuit import circuit
from phasegrad.ops.resistances import Resistances, reached, sensitivity
from phasegrad.ops.wires import wired_conductance, wired_conductance_backward

PLAIN = Resistances(1.0, 2.0, 0.0, 0.0, False)
LINES = {
    "plain": PLAIN,
    "ends": Resistances(1.0, 2.0, 3.0, 4.0, False),
    "both": Resistances(2.0, 1.0, 3.0, 4.0, True),
    "thin words": Resistances(100.0, 0.5, 0.0, 0.0, True),
    "thin bits": Resistances(1e-3, 50.0, 0.0, 0.0, False),
    "large sense": Resistances(1e-2, 1e-2, 0.0, 1e5, False),
}
SHAPES = [(5, 4), (4, 7), (1, 6), (6, 1), (1, 1), (9, 8)]


def cells(m: int, n: int, seed: int = 0) -> Tensor:
    return draw(m, n, seed=seed).double().abs() * 0.05


def off(got: Tensor, want: Tensor) -> float:
    """Largest error relative to the largest value."""
    return float((got - want).abs().max() / want.abs().max())


class TestWiredConductance(OpContract):
    name = "wired_conductance"
    atol = 1e-10
    differentiable = (0,)
    opchecked = ("small", "both")
    elementwise: ClassVar = (0,)

    def samples(self) -> dict[str, Call]:
        return {
            "small": (cells(5, 4).float(), *PLAIN),
            "both": (cells(4, 6).float(), *LINES["both"]),
            "wide": (cells(3, 9).float(), *LINES["ends"]),
            "two arrays": (torch.stack((cells(5, 4, 1), cells(5, 4, 2))).float(), *LINES["ends"]),
            "nothing": (torch.zeros(2, 0, 4), *PLAIN),
        }

    def truth(self, *call: Any) -> Tensor:
        g, resistances = call[0].double(), Resistances(*call[1:])
        if g.numel() == 0:
            return g
        arrays = g.reshape(-1, *g.shape[-2:])
        return torch.stack([nodal.effective(a, resistances) for a in arrays]).view(g.shape)

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        g = cells(3, 2).float()
        return {
            "integers": ((g.long(), *PLAIN), TypeError, "floating-point"),
            "one line": ((g[0], *PLAIN), ValueError, r"shape \[2\]; it must be \[\.\.\., rows, columns\]"),
            "negative": ((g, 1.0, -2.0, 0.0, 0.0, False), ValueError, "bit_line = -2.0 ohm"),
            "no number": ((g, 1.0, 2.0, float("nan"), 0.0, False), ValueError, "driver = nan ohm"),
        }


@pytest.mark.parametrize("resistances", LINES.values(), ids=LINES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_nodes_current_law_gives_the_same(shape: tuple[int, int], resistances: Resistances) -> None:
    g = cells(*shape)
    assert off(wired_conductance(g, *resistances), nodal.effective(g, resistances)) < 1e-9


@pytest.mark.parametrize("resistances", LINES.values(), ids=LINES)
def test_open_and_shorted_devices(resistances: Resistances) -> None:
    g = cells(6, 5)
    g[0, 0] = g[3, 2] = 0.0
    g[2, 1] = g[5, 4] = 1e3 / max(resistances.word_line, resistances.bit_line)
    got = wired_conductance(g, *resistances)
    assert off(got, nodal.effective(g, resistances)) < 1e-9
    assert bool(wired_conductance(torch.zeros(3, 3), *resistances).eq(0).all())


def test_published_values() -> None:
    """Five word lines, four bit lines, 10, 20, ..., 200 ohm row by row, 0 to 4 V."""
    g = 1.0 / (10.0 * torch.arange(1, 21, dtype=torch.float64).view(5, 4))
    v = torch.arange(5, dtype=torch.float64)
    without = torch.tensor([0.0888285571, 0.0803174603, 0.0735201640, 0.0679166667], dtype=torch.float64)
    with_wires = torch.tensor([0.0605701967, 0.0593276107, 0.0563487388, 0.0533523546], dtype=torch.float64)
    ideal = Resistances(0.0, 0.0, 0.0, 0.0, False)
    torch.testing.assert_close(v @ wired_conductance(g, *ideal), without, rtol=0.0, atol=6e-11)
    torch.testing.assert_close(v @ wired_conductance(g, *PLAIN), with_wires, rtol=0.0, atol=6e-11)
    one = wired_conductance(torch.tensor([[0.1]], dtype=torch.float64), *PLAIN)
    assert float(one) == pytest.approx(1.0 / 13.0, rel=1e-14)


@pytest.mark.parametrize("both", [False, True])
def test_without_resistance_it_is_the_conductance(both: bool) -> None:
    g = cells(7, 5)
    torch.testing.assert_close(wired_conductance(g, 0.0, 0.0, 0.0, 0.0, both), g, rtol=1e-15, atol=0.0)


def test_one_kind_of_wire_alone_is_the_limit_of_the_other() -> None:
    g = cells(7, 5)
    for resistances in (
        Resistances(0.0, 3.0, 0.0, 0.0, False),
        Resistances(3.0, 0.0, 0.0, 0.0, True),
        Resistances(0.0, 0.0, 5.0, 7.0, False),
    ):
        nearly = Resistances(resistances.word_line + 1e-9, resistances.bit_line + 1e-9, *resistances[2:])
        assert off(wired_conductance(g, *resistances), wired_conductance(g, *nearly)) < 1e-9


def test_ideal_word_lines_leave_each_bit_line_alone() -> None:
    """A divider for each row of a single column: I = sum of V (ladder); here of two rows, by hand."""
    a, b, r = 0.02, 0.03, 4.0
    g = torch.tensor([[a], [b]], dtype=torch.float64)
    thevenin = a / (1 + r * a)  # the first cell behind its segment, seen from the second node
    want = [thevenin / (1 + r * (b + thevenin)), b / (1 + r * (b + thevenin))]
    got = wired_conductance(g, 0.0, r, 0.0, 0.0, False)
    torch.testing.assert_close(got.flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("resistances", LINES.values(), ids=LINES)
@pytest.mark.parametrize("shape", [(5, 4), (3, 6), (1, 3), (9, 2)], ids=str)
def test_the_adjoint_is_the_derivative_of_the_nodes_equations(shape: tuple[int, int], resistances: Resistances) -> None:
    g, upstream = cells(*shape), draw(*shape, seed=3).double()
    g[0, 0] = 0.0
    g[-1, -1] = 100.0
    g.requires_grad_()
    (want,) = torch.autograd.grad((nodal.effective(g, resistances) * upstream).sum(), g)
    assert off(wired_conductance_backward(upstream, g.detach(), *resistances), want) < 1e-9


def test_gradcheck() -> None:
    g = (cells(4, 3) + 0.01).requires_grad_()
    for resistances in (
        PLAIN,
        LINES["both"],
        Resistances(0.0, 3.0, 0.0, 1.0, False),
        Resistances(3.0, 0.0, 0.0, 0.0, False),
    ):
        assert torch.autograd.gradcheck(
            lambda c, resistances=resistances: torch.ops.phasegrad.wired_conductance(c, *resistances), (g,)
        )


@pytest.mark.parametrize("also", [0.0, 1.0], ids=["wires alone", "beside others"])
@pytest.mark.parametrize("power", [1, 2], ids=["constant gradient", "its own gradient"])
def test_a_second_derivative_is_refused_and_never_left_out(power: int, also: float) -> None:
    g = (cells(4, 3) + 0.01).requires_grad_()
    loss = (torch.ops.phasegrad.wired_conductance(g, *PLAIN) ** power).sum() + also * (g**3).sum()
    (first,) = torch.autograd.grad(loss, g, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative .* there is only the first.*first-order"):
        torch.autograd.grad(first.sum(), g)


def test_arrays_that_are_solved_by_halves_agree_with_their_turned_selves() -> None:
    """Past the size of the leaves; driven from the bit lines an array carries the same (reciprocity)."""
    g = cells(140, 131) * 1e-3
    turned = wired_conductance(g.flip(-1, -2).mT.contiguous(), 2.0, 1.0, 4.0, 3.0, False).flip(-1, -2).mT
    assert off(wired_conductance(g, *LINES["ends"]), turned) < 1e-11


@pytest.mark.parametrize(
    "resistances", [*LINES.values(), Resistances(0.0, 0.0, 2.0, 3.0, False)], ids=[*LINES, "ends alone"]
)
def test_kirchhoffs_current_law_holds_at_every_node(resistances: Resistances) -> None:
    g, v = cells(6, 5), draw(2, 6, seed=1).double()
    found = circuit(g.expand(2, 6, 5), torch.zeros(2, 6, 5, dtype=torch.float64), v, resistances)
    largest = float(found.cell.abs().max())
    torch.testing.assert_close(found.cell, g * (found.word - found.bit), rtol=0.0, atol=1e-9 * largest)
    down = found.cell.cumsum(1)  # the current law of bit lines, from the open end
    steps = torch.cat((found.bit[:, 1:], torch.zeros_like(found.bit[:, :1])), 1)
    below = torch.tensor([resistances.below(i, 6) for i in range(6)], dtype=torch.float64).view(-1, 1)
    torch.testing.assert_close(found.bit - steps, down * below, rtol=0.0, atol=1e-9 * float(v.abs().max()))
    torch.testing.assert_close(found.output, down[:, -1], rtol=0.0, atol=1e-9 * largest)
    if not resistances.both:  # word lines: the current of all nodes from here on flows through the segment before
        carried = found.cell.flip(2).cumsum(2).flip(2)
        before = torch.cat((v.unsqueeze(2), found.word[:, :, :-1]), 2)
        along = torch.full((5,), resistances.word_line, dtype=torch.float64)
        along[0] += resistances.driver
        torch.testing.assert_close(before - found.word, carried * along, rtol=0.0, atol=1e-9 * float(v.abs().max()))
    else:
        torch.testing.assert_close(
            found.output, v @ nodal.effective(g, resistances), rtol=0.0, atol=1e-9 * float(found.output.abs().max())
        )


@pytest.mark.parametrize("resistances", [LINES["ends"], LINES["both"]], ids=["ends", "both"])
def test_the_first_order_is_that_of_the_exact_solution(resistances: Resistances) -> None:
    """Wires of half the resistance leave a quarter of the error; a first order off by 5 % would leave half."""
    g = cells(6, 5)
    errors = []
    for part in (1e-3, 5e-4):
        thin = Resistances(*(part * r for r in resistances[:4]), resistances.both)
        errors.append(float((g * reached(g, *thin) - wired_conductance(g, *thin)).abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.02)


def test_the_first_order_of_one_cell_is_exact() -> None:
    g = torch.tensor([[0.1]], dtype=torch.float64)
    for resistances in LINES.values():
        torch.testing.assert_close(
            g * reached(g, *resistances), wired_conductance(g, *resistances), rtol=1e-13, atol=0.0
        )


@pytest.mark.parametrize("resistances", LINES.values(), ids=LINES)
def test_the_sensitivity_is_the_own_derivative_of_the_first_order(resistances: Resistances) -> None:
    g = cells(5, 4)
    g[1, 2] = 0.0
    whole = torch.autograd.functional.jacobian(lambda g: g * reached(g, *resistances), g)
    own = whole.flatten(2).flatten(0, 1).diagonal().view(5, 4)
    torch.testing.assert_close(sensitivity(g, *resistances), own, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("resistances", [LINES["ends"], LINES["both"]], ids=["ends", "both"])
def test_the_sensitivity_has_the_first_order_of_the_exact_solution(resistances: Resistances) -> None:
    """Wires of half the resistance leave a quarter of the error."""
    g, errors = cells(5, 4), []
    for part in (1e-3, 5e-4):
        thin = Resistances(*(part * r for r in resistances[:4]), resistances.both)
        whole = torch.autograd.functional.jacobian(lambda g, thin=thin: nodal.effective(g, thin), g)
        own = whole.flatten(2).flatten(0, 1).diagonal().view(5, 4)
        errors.append(float((sensitivity(g, *thin) - own).abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.02)
