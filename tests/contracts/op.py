"""Contracts that every op must satisfy. A test class inherits one and supplies the op's name, calls, and truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tests.contracts.triton_kernels import DEVICE, needs_triton, run_kernel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from phasegrad.ops import reference
from phasegrad.ops.native import library

Call = tuple[Any, ...]

SEED = torch.tensor([0x0123_4567_89AB_CDEF])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensors(results: Any) -> list[Tensor]:
    return [t for t in tree_leaves(results) if isinstance(t, Tensor)]


def same_bits(results: Any, others: Any) -> bool:
    """NaN equals NaN of the same payload here, and 0 differs from -0."""
    pairs = zip(tensors(results), tensors(others), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b) for a, b in pairs)


def bytes_of(t: Tensor) -> bytes:
    return t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def floating(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.dtype.is_floating_point


def cast(call: Call, dtype: torch.dtype) -> Call:
    return tree_map(lambda a: a.to(dtype) if floating(a) else a, call)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class KernelContract:
    """A kernel agrees with its law and with the reference, for any number of threads."""

    name: ClassVar[str]
    rtol: ClassVar[float] = 1e-6
    atol: ClassVar[float] = 0.0
    differentiable: ClassVar[tuple[int, ...]] = ()
    """Positions of the arguments that take a gradient."""
    opchecked: ClassVar[tuple[str, ...]]
    """Names of the samples that torch.library.opcheck sees; it is slow."""
    triton_block_sizes: ClassVar[tuple[tuple[str, tuple[int, int, int]], ...]] = (("launch.BLOCKS", (64, 256, 4096)),)
    """Constants of ``phasegrad.ops.triton`` with three sizes for which results are the same."""
    only_compiled: ClassVar[tuple[str, ...]] = ()
    """Samples that take Triton's interpreter too long."""
    triton_rtol: ClassVar[float] = 0.0
    triton_atol: ClassVar[float] = 0.0
    """Tolerances of the Triton kernel where they are larger than those of the C++ kernel."""

    def samples(self) -> dict[str, Call]:
        raise NotImplementedError

    def truth(self, *call: Any) -> Any:
        """The op's law, in float64 and independent of the library."""
        raise NotImplementedError

    def near_ties(self, *call: Any) -> tuple[float, float]:
        """The fraction of values that rounding may move across a step, and the height of the step."""
        return 0.0, 0.0

    @property
    def op(self) -> Callable[..., Any]:
        return getattr(torch.ops.phasegrad, self.name)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "call" in metafunc.fixturenames:
            samples = self.samples()
            metafunc.parametrize("call", list(samples.values()), ids=list(samples))
        if "triton_call" in metafunc.fixturenames:
            samples = {n: s for n, s in self.samples().items() if DEVICE.type == "cuda" or n not in self.only_compiled}
            metafunc.parametrize("triton_call", list(samples.values()), ids=list(samples))
        if "opcheck_call" in metafunc.fixturenames:
            samples = self.samples()
            metafunc.parametrize("opcheck_call", [samples[n] for n in self.opchecked], ids=self.opchecked)

    def same(self, results: Any, others: Any) -> bool:
        """Whether two calls with copies of the same arguments agree."""
        return same_bits(results, others)

    def agrees(self, results: Any, wanted: Any, call: Call, rtol: float = 0.0, atol: float = 0.0) -> None:
        fraction, step = self.near_ties(*call)
        for got, want in zip(tensors(results), tensors(wanted), strict=True):
            assert got.shape == want.shape, f"{self.name} gave {got.shape}, not {want.shape}"
            got, want = got.double(), want.double()
            tolerance = {"rtol": max(rtol, self.rtol), "atol": max(atol, self.atol)}
            off = ~torch.isclose(got, want, **tolerance, equal_nan=True)
            largest = (got - want)[off].abs().max().item() if off.any() else 0.0
            message = f"{self.name}: {int(off.sum())} of {off.numel()} values differ by up to {largest}"
            assert off.sum() <= fraction * off.numel(), message
            assert largest <= step, message

    def test_truth(self, call: Call) -> None:
        self.agrees(self.op(*call), self.truth(*call), call)

    @pytest.mark.skipif(library is None, reason="no kernels: the op is its reference")
    def test_kernel_equals_reference(self, call: Call) -> None:
        self.agrees(self.op(*call), getattr(reference, self.name)(*call), call)

    def run_in_blocks(self, call: Call, which: int, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The results of the Triton kernel with the ``which``-th sizes of its blocks."""
        with monkeypatch.context() as patched:
            for constant, sizes in self.triton_block_sizes:
                patched.setattr(f"phasegrad.ops.triton.{constant}", sizes[which])
            return run_kernel(self.name, *call)

    @needs_triton
    def test_triton_equals_reference(self, triton_call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = getattr(reference, self.name)(*triton_call)
        results = self.run_in_blocks(triton_call, -1, monkeypatch)  # few large blocks suit the interpreter
        self.agrees(results, wanted, triton_call, self.triton_rtol, self.triton_atol)

    @needs_triton
    def test_block_sizes_of_triton_do_not_show(self, opcheck_call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        results = [self.run_in_blocks(opcheck_call, which, monkeypatch) for which in range(3)]
        assert same_bits(results[0], results[1])
        assert same_bits(results[0], results[2])

    def test_repeats_to_the_bit_for_any_number_of_threads(self, call: Call) -> None:
        results = []
        for count in (1, 2, 3):
            with threads(count):
                results.append(self.op(*call))
        assert same_bits(results[0], results[1])
        assert same_bits(results[0], results[2])

    @pytest.mark.parametrize(
        "utility",
        ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"],
    )
    def test_opcheck(self, opcheck_call: Call, utility: str) -> None:
        leaves = [
            tree_map(lambda t: t.clone().requires_grad_(), a) if i in self.differentiable else a
            for i, a in enumerate(opcheck_call)
        ]
        torch.library.opcheck(self.op.default, leaves, test_utils=utility)

    def test_vmap_is_a_loop(self, opcheck_call: Call) -> None:
        batch = [tree_map(partial(varied, i=i), opcheck_call) for i in range(3)]
        stacked = tree_map(lambda *a: torch.stack(a) if isinstance(a[0], Tensor) else a[0], *batch)
        dims = tuple(tree_map(lambda a: 0 if isinstance(a, Tensor) else None, a) for a in stacked)
        rows = [tensors(self.op(*call)) for call in batch]
        wanted = [torch.stack(part) for part in zip(*rows, strict=True)]
        assert self.same(torch.vmap(self.op, in_dims=dims)(*stacked), wanted)


def varied(argument: Any, i: int) -> Any:
    """The ``i``-th of several different arguments: another seed, other values."""
    if floating(argument):
        return argument * (1.0 + 0.25 * i)
    return argument + i if isinstance(argument, Tensor) and argument.dtype == torch.int64 else argument


class FloatingContract(KernelContract):
    """A kernel of floating-point tensors: it is written for float32, the reference computes other dtypes."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_other_dtypes_are_what_the_reference_gives(self, opcheck_call: Call, dtype: torch.dtype) -> None:
        call = cast(opcheck_call, dtype)
        assert same_bits(self.op(*call), getattr(reference, self.name)(*call))


class OpContract(FloatingContract):
    """A public op: it refuses wrong arguments, eager and traced, and computes in float32 under autocast."""

    elementwise: ClassVar[tuple[int, ...]]
    """Positions of the arguments of which a NaN makes the same element of every floating result NaN."""

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        """Calls that must raise, with the exception and a pattern of its message."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        super().pytest_generate_tests(metafunc)
        if "wrong_call" in metafunc.fixturenames:
            wrong = self.wrong()
            metafunc.parametrize(("wrong_call", "error", "message"), list(wrong.values()), ids=list(wrong))

    def test_refuses(self, wrong_call: Call, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            self.op(*wrong_call)

    def test_refuses_when_traced(self, wrong_call: Call, error: type[Exception], message: str) -> None:
        with FakeTensorMode() as mode:
            fake = tree_map(lambda a: mode.from_tensor(a) if isinstance(a, Tensor) else a, wrong_call)
            with pytest.raises(error, match=message):
                self.op(*fake)

    def test_autocast_computes_in_float32(self, opcheck_call: Call) -> None:
        low = cast_float32(opcheck_call, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            result = self.op(*low)
        assert same_bits(result, self.op(*cast_low(low)))

    def test_result_has_the_dtype_of_the_first_argument(self, opcheck_call: Call) -> None:
        first = cast((opcheck_call[0],), torch.bfloat16)
        result = tensors(self.op(*first, *opcheck_call[1:]))[0]
        assert result.dtype == torch.bfloat16

    def test_nan_stays_where_it_is(self, opcheck_call: Call) -> None:
        for position in (p for p in self.elementwise if tensors(opcheck_call[p])):
            spoilt = tree_map(lambda a: a, list(opcheck_call))
            spoilt[position] = tree_map(with_nan, spoilt[position])
            for part in tensors(self.op(*spoilt)):
                if floating(part):
                    assert part.flatten()[1].isnan(), f"argument {position} was NaN, the result {part.flatten()[1]}"


def cast_float32(call: Call, dtype: torch.dtype) -> Call:
    """Cast float32 arguments only: autocast leaves float64 (ages) unchanged."""
    return tree_map(lambda a: a.to(dtype) if floating(a) and a.dtype == torch.float32 else a, call)


def cast_low(call: Call) -> Call:
    return tree_map(lambda a: a.float() if floating(a) and a.dtype != torch.float64 else a, call)


def with_nan(t: Tensor) -> Tensor:
    t = t.clone(memory_format=torch.contiguous_format)
    t.view(-1)[1 if t.numel() > 1 else 0] = torch.nan
    return t


def seed_errors(call: Sequence[Any], at: int) -> dict[str, tuple[Call, type[Exception], str]]:
    """Errors that every op raises for a seed that is not a single int64."""

    def replaced(seed: Tensor) -> Call:
        return (*call[:at], seed, *call[at + 1 :])

    return {
        "float seed": (replaced(torch.zeros(1)), TypeError, r"seed has dtype torch.float32"),
        "two seeds": (replaced(torch.zeros(2, dtype=torch.int64)), TypeError, r"shape \[2\]"),
        "seed elsewhere": (replaced(SEED.to("meta")), ValueError, "seed is on meta"),
    }
