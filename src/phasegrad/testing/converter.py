"""The contract of bit-line converters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from phasegrad.crossbar.converters import OutputConverter
from phasegrad.crossbar.converters.state import draw_errors
from phasegrad.testing.configuration import ConfigurationContract
from phasegrad.testing.samples import BOUND, SEED, same_bits, standard_errors


class ConverterContract(ConfigurationContract):
    """Tests of every bit-line converter, for moderate errors: less than a quarter of the range in total."""

    converters: ClassVar[int] = 2000
    """Physical converters per sample."""

    def configuration(self) -> OutputConverter:
        """Create the converter under test."""
        raise NotImplementedError

    def convert(self, y: Tensor, full: Tensor | float = 1.0, adc: OutputConverter | None = None) -> Tensor:
        """Convert inputs ``[converters, inputs]`` by that number of physical converters with noise."""
        adc = self.configuration() if adc is None else adc
        errors = draw_errors(adc.errors, (len(y), 1), SEED, 0).unbind(0)
        return adc.convert(y, torch.as_tensor(full), errors, _normals(tuple(y.shape)))

    def test_output_increases_with_the_input_on_average(self) -> None:
        """The mean output over converters never decreases and follows the input over the range."""
        ramp = torch.linspace(-1.2, 1.2, 97)
        outputs = self.convert(ramp.expand(self.converters, -1)).double()
        steps = outputs.diff(dim=1)
        error = steps.std(0) / math.sqrt(self.converters)
        assert (steps.mean(0) >= -BOUND * error - 1e-6).all()
        assert (outputs[:, -1] - outputs[:, 0]).mean().item() > 1.0

    def test_output_has_at_most_two_to_the_bits_levels(self) -> None:
        """One converter outputs no more levels than its resolution allows."""
        adc = self.configuration()
        ramp = torch.linspace(-1.2, 1.2, 1 << (adc.bits + 3)).unsqueeze(0)
        steps = (self.convert(ramp) * adc.max_code * 2.0).round()
        assert len(steps.unique()) <= 1 << adc.bits

    def test_output_clips_to_the_range(self) -> None:
        """Outputs stay within the range; inputs far outside of it have the same output."""
        y = torch.tensor([-1e6, -10.0, 10.0, 1e6]).expand(50, -1)
        outputs = self.convert(y, full=0.7, adc=self.configuration().without_noise())
        assert (outputs.abs() <= 0.7 * (1.0 + 1e-6)).all()
        assert (outputs[:, 0] == outputs[:, 1]).all()
        assert (outputs[:, 2] == outputs[:, 3]).all()
        assert (outputs[:, 0] < 0.0).all()
        assert (outputs[:, 3] > 0.0).all()

    def test_values_that_are_not_finite_or_have_no_range_pass(self) -> None:
        """NaN, infinities, and inputs with a range of 0 pass unchanged."""
        y = torch.tensor([[math.nan, math.inf, -math.inf]])
        assert same_bits([self.convert(y)], [y])
        y = torch.tensor([[-2.0, 0.3, 5.0]])
        assert same_bits([self.convert(y, full=0.0)], [y])

    def test_gradient_is_straight_through(self) -> None:
        """The gradient passes to the input within the range, and to the range outside of it."""
        y = torch.tensor([[-3.0, -0.4, 0.4, 3.0]], requires_grad=True)
        full = torch.ones(1, 4, requires_grad=True)
        self.convert(y, full).sum().backward()
        assert y.grad is not None
        assert full.grad is not None
        assert y.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
        assert full.grad.tolist() == [[-1.0, 0.0, 0.0, 1.0]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_output_has_the_shape_and_dtype_of_the_input(self, dtype: torch.dtype) -> None:
        """Outputs have the shape and dtype of the inputs."""
        y = torch.linspace(-1.0, 1.0, 35).view(5, 7).to(dtype)
        outputs = self.convert(y)
        assert (outputs.shape, outputs.dtype) == (y.shape, dtype)

    def test_errors_are_drawn_reproducibly(self) -> None:
        """A seed determines the errors; another seed draws other errors of the same mean and standard deviation."""
        tolerances = self.configuration().errors
        draws = [draw_errors(tolerances, (self.converters,), SEED + s, 0) for s in (0, 0, 1)]
        assert same_bits(draws[:1], draws[1:2])
        for (mean, sd), found, other in zip(tolerances, draws[0], draws[2], strict=True):
            assert same_bits([found], [other]) is (sd == 0.0)
            assert standard_errors(found, mean, sd) < BOUND

    def test_conversion_without_noise_draws_nothing(self) -> None:
        """The converter without noise converts the same inputs to the same outputs and draws no normals."""
        adc = self.configuration().without_noise()
        errors = draw_errors(adc.errors, (20, 1), SEED, 0).unbind(0)

        def refuse(decision: int) -> Tensor:
            raise AssertionError(f"a converter without noise drew normals for decision {decision}")

        y = torch.linspace(-1.0, 1.0, 51).expand(20, -1)
        assert same_bits(*([adc.convert(y, torch.ones(1), errors, refuse)] for _ in range(2)))


def _normals(shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda decision: torch.ops.phasegrad.normal(SEED, (1 << 20) + decision, shape)
