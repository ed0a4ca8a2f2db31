"""Phase-change memory: programming error, drift and read noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.configuration import check_number, check_type
from phasegrad.devices.base import CellSum, Device, DeviceState, ReadMoments
from phasegrad.devices.curves import Curve, Law
from phasegrad.devices.moments import ConductanceMoments, pcm_moments
from phasegrad.devices.noise import CorrelatedNoise, Telegraph
from phasegrad.devices.partial_set import PartialSet
from phasegrad.devices.steps import Steps
from phasegrad.devices.thermal import Thermal
from phasegrad.ops.direct import call

_NONE = Curve()


@final
@dataclass(frozen=True, kw_only=True)
class PCM(Device):
    """A phase-change device described by its statistics.

    Let ``g`` be the *target* over ``g_max`` and ``xi`` a standard normal. A device programmed to ``G_target`` has the
    conductance ``G = max(G_target + programming_sd(g) xi, 0)`` and drifts as ``G(t) = G ((t + t0) / t0) ** -nu``. Its
    exponent ``nu = |nu_mean(g) + nu_sd(g) xi|`` is drawn once. A read adds noise of standard deviation
    ``G(t) read_noise(G / g_max) sqrt(ln((t + t0 + t_read) / (2 t_read)))``, which is 1/f noise integrated over the
    bandwidth of a read at that age, then ``read_sd(G(t)) xi``, and is clipped at 0. By default each read redraws all
    noise. With ``correlated_noise``, 1/f noise is a process in time: reads at the same age find the same deviation,
    and ``advance`` advances it.

    Args:
        g_max: conductance of the largest weight [S].
        t0: time from programming to the first read, the reference time of drift [s].
        t_read: duration of one read [s].
        programming_sd: standard deviation of programming as coefficients of powers of ``g``, lowest power first [S];
            all zero for exact programming.
        nu_mean: mean drift exponent.
        nu_sd: standard deviation of the drift exponent from device to device.
        read_noise: relative 1/f noise ``Q``; ``None`` for no 1/f noise.
        read_sd: standard deviation of noise that does not depend on the duration or age of a read, as coefficients of
            powers of the drifted ``G``, lowest power first [S]; empty for no such noise.
        t_min: lower bound of the time since the last pulse or programming in the drift law [s], which is then
            ``G(t) = G (max(t, t_min) / t0) ** -nu``; ``None`` for the law above.
        steps: response to pulses in training in the memory; ``None`` for a device that is only programmed.
        partial_set: response to the length of a SET pulse, for programming by pulse length; ``None`` for none.
        g_min: conductance at RESET [S], the lower bound of programming; it represents a weight of 0.
        correlated_noise: correlation of 1/f noise in time; ``None`` for noise that each read redraws.
        telegraph: random telegraph noise in addition to 1/f noise; ``None`` for no telegraph noise.
        thermal: laws of temperature; ``None`` for a device that does not depend on temperature.

    Raises:
        ValueError: a number is out of its range, or ``correlated_noise`` is given without ``read_noise``.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9

    Examples:
        A custom device with a table of drift exponents:

        >>> from phasegrad.devices import Table
        >>> device = PCM(g_max=20e-6, t0=20.0, t_read=250e-9, programming_sd=(0.3e-6, 0.8e-6),
        ...     nu_mean=Table(g=(0.0, 1.0), value=(0.1, 0.04)), nu_sd=Table(g=(0.0,), value=(0.01,)), read_noise=None)
        >>> device.program(torch.full((2, 3), 10e-6), torch.tensor([0]), 0).nu.shape
        torch.Size([2, 3])
    """

    t0: float
    t_read: float
    programming_sd: tuple[float, ...]
    nu_mean: Law
    nu_sd: Law
    read_noise: Law | None
    read_sd: tuple[float, ...] = ()
    t_min: float | None = None
    g_min: float = 0.0
    correlated_noise: CorrelatedNoise | None = None
    telegraph: Telegraph | None = None
    thermal: Thermal | None = None

    _renamed: ClassVar[dict[str, str]] = {"memory": "correlated_noise"}

    def __post_init__(self) -> None:
        for name in ("g_max", "t0", "t_read"):
            check_number(self, name, 0.0, above=True)
        if self.t_read > self.t0:
            raise ValueError(
                f"PCM: t_read = {self.t_read} s; it must not exceed t0 = {self.t0} s, the time of the first read"
            )
        if not self.programming_sd or not all(math.isfinite(c) for c in self.programming_sd):
            raise ValueError(f"PCM: programming_sd = {self.programming_sd}; it must contain one or more finite numbers")
        if not all(math.isfinite(c) for c in self.read_sd):
            raise ValueError(f"PCM: read_sd = {self.read_sd}; it must contain only finite numbers, or be empty")
        if self.t_min is not None:
            check_number(self, "t_min", 0.0, above=True)
        check_type(self, "nu_mean", Law)
        check_type(self, "nu_sd", Law)
        check_type(self, "read_noise", (Law, type(None)))
        check_type(self, "steps", (Steps, type(None)))
        check_type(self, "partial_set", (PartialSet, type(None)))
        check_number(self, "g_min", 0.0)
        if self.g_min >= self.g_max:
            raise ValueError(f"PCM: g_min = {self.g_min} S; it must be below g_max = {self.g_max} S")
        check_type(self, "correlated_noise", (CorrelatedNoise, type(None)))
        check_type(self, "telegraph", (Telegraph, type(None)))
        check_type(self, "thermal", (Thermal, type(None)))
        if self.correlated_noise is not None:
            self._check_correlated_noise(self.correlated_noise)

    def _check_correlated_noise(self, noise: CorrelatedNoise) -> None:
        if self.read_noise is None:
            raise ValueError(
                f"PCM: correlated_noise = {noise} with read_noise = None; give read_noise, the law of the 1/f noise"
            )
        first = self.since(0.0)
        if not max(10.0 * noise.shortest, 40.0 * self.t_read) <= first <= noise.longest:
            raise ValueError(
                f"PCM: correlated_noise = {noise} with a first read {first} s after programming; it must be at "
                f"least 10 shortest and 40 t_read = {40.0 * self.t_read} s, and at most longest, after programming"
            )

    @property
    def lowest(self) -> float:
        """``g_min``."""
        return self.g_min

    @property
    def reads_are_noisy(self) -> bool:
        """Whether the device has read noise of any kind."""
        return self.read_noise is not None or any(self.read_sd) or self.telegraph is not None

    @property
    def stateful_fields(self) -> tuple[str, ...]:
        """Those of ``correlated_noise``, ``telegraph`` and ``thermal`` that are not ``None``."""
        return tuple(name for name in ("correlated_noise", "telegraph", "thermal") if getattr(self, name) is not None)

    @property
    def redrawn(self) -> PCM:
        """The device without correlation of its noise in time, at the reference temperature of ``thermal``.

        Telegraph noise is stationary, so that its law is the same at each age.
        """
        return dataclasses.replace(self, correlated_noise=None, thermal=None)

    @property
    def planes(self) -> int:
        """Noise state variables per device: the present deviation, one per 1/f mode, and two for telegraph noise."""
        modes = len(self.correlated_noise.modes(self.t_read)) if self.correlated_noise else 0
        held = modes + (2 if self.telegraph else 0)
        return held + 1 if held else 0

    @property
    def drifts(self) -> bool:
        """Whether a drift exponent can differ from 0."""
        return self.nu_mean != _NONE or self.nu_sd != _NONE

    @property
    def drifts_by_exponent(self) -> bool:
        """Whether a device whose drift exponent is 0 keeps its conductance; always ``True``."""
        return True

    def drifts_within(self, seconds: float) -> bool:
        """Whether the conductance may change within a time [s] after it was written."""
        return self.drifts and (self.t_min is None or seconds > self.t_min or self.t_min != self.t0)

    @property
    def read_sd_alone(self) -> tuple[float, ...] | None:
        """``read_sd`` if there is no other read noise, otherwise ``None``."""
        alone = self.read_noise is None and self.telegraph is None
        return self.read_sd if alone and len(self.read_sd) <= 3 else None

    def since(self, age: float) -> float:
        """Time since programming or the last pulse in the laws of drift and noise, at an age [s]."""
        return age + self.t0 if self.t_min is None else max(age, self.t_min)

    def heat(self) -> Tensor | None:
        """Heat of a new device at the reference temperature; ``None`` without ``thermal``."""
        return None if self.thermal is None else self.thermal.at_rest()

    def check_temperature(self, temperature: float) -> None:
        """Raise unless ``thermal`` is given and valid at a temperature [K]."""
        if self.thermal is None:
            return super().check_temperature(temperature)
        return self.thermal.check(temperature)

    @torch.no_grad()
    def advance(self, state: DeviceState, before: float, after: float, seed: Tensor, offset: int) -> None:
        """Advance noise and heat from one age [s] to another, in place.

        The result is exact for any interval. Each of the ``planes`` draws from its own stream.

        Args:
            state: state of devices of the same age.
            before: present age [s].
            after: final age [s].
            seed: seed of the draws, different in each call.
            offset: first stream.

        Raises:
            ValueError: an age is not finite, or ``after`` is below ``before``.
        """
        if not (math.isfinite(before) and math.isfinite(after) and before <= after):
            raise ValueError(
                f"PCM: age before = {before} s and after = {after} s; both must be finite, and before <= after"
            )
        first, last = self.since(before), self.since(after)
        if state.noise is not None and last > first:
            self._advance_noise(state, last - first, seed, offset)
        if self.thermal is not None and state.heat is not None:
            self.thermal.spend(state.heat, math.log(last / first))

    def _advance_noise(self, state: DeviceState, seconds: float, seed: Tensor, offset: int) -> None:
        assert state.noise is not None
        if self.correlated_noise is not None:
            self.correlated_noise.advance(state.noise[1:], seconds, self.t_read, seed, offset)
        if self.telegraph is not None:
            self.telegraph.advance(state.noise[-2:], seconds, seed, offset + self.planes)
        self._sum_up(state)

    def _sum_up(self, state: DeviceState) -> None:
        """Set the present deviation, mode by mode, so that the sum does not depend on the number of threads."""
        assert state.noise is not None
        deviation, held = state.noise[0].zero_(), state.noise[1:]
        if self.correlated_noise is not None and self.read_noise is not None:
            for k in range(len(self.correlated_noise.modes(self.t_read))):
                deviation.add_(held[k])
            deviation.mul_(self.read_noise(state.conductance / self.g_max))
        if self.telegraph is not None:
            deviation.add_(held[-1] * self.telegraph.amplitude)

    def program(self, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Program devices to targets [S]; draws from streams ``offset``, ``offset + 1``, and later ones for noise."""
        conductance, nu = torch.ops.phasegrad.pcm_program(
            target, seed, offset, self.g_max, self.programming_sd, self.nu_mean.encode(), self.nu_sd.encode()
        )
        if self.g_min:
            conductance.clamp_(min=self.g_min)
        state = DeviceState(conductance, nu, self._blank(conductance))
        self._start_noise(state, seed, offset)
        return state

    def _start_noise(self, state: DeviceState, seed: Tensor, offset: int) -> None:
        if state.noise is None:
            return
        if self.telegraph is not None:
            self.telegraph.start(state.noise[-2:], seed, offset + 2)
        # Modes are 0 at programming; advance them to the time of the first read.
        self._advance_noise(state, self.since(0.0), seed, offset + 5)

    def hold(self, state: DeviceState, stuck: Tensor) -> DeviceState:
        """The state in which stuck devices keep their conductances [S], with the noise of these; NaN: not stuck."""
        held = super().hold(state, stuck)
        if held.noise is not None:
            self._sum_up(held)
        return held

    def written(self, conductance: Tensor, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """The state of devices that a write loop left at these conductances [S]: drift exponents and noise."""
        exact = dataclasses.replace(self, programming_sd=(0.0,), correlated_noise=None, telegraph=None)
        nu = exact.program(target, seed, offset).nu
        state = DeviceState(conductance, nu, self._blank(conductance))
        self._start_noise(state, seed, offset)
        return state

    def averaging(self, reads: int, seconds: float) -> PCM:
        """A device whose one read is the mean of several reads in a row of this one.

        Most 1/f noise is slower than the reads, so all of them see it: their mean has the noise of one read that takes
        as long. ``read_sd`` falls with the root of their number. Correlated and telegraph noise are left out.
        """
        sd = tuple(c / math.sqrt(reads) for c in self.read_sd)
        duration = min(reads * seconds, self.t0) if self.read_noise is not None and seconds > 0.0 else self.t_read
        return dataclasses.replace(self, correlated_noise=None, telegraph=None, t_read=duration, read_sd=sd)

    def programming_deviation(self, target: Tensor) -> Tensor:
        """Standard deviation [S] of the conductances of devices programmed to targets [S].

        Near RESET it is below the polynomial ``programming_sd``, because no conductance is below ``g_min``: it is that
        of a normal distribution whose lower tail is moved to ``g_min``.
        """
        g, sd = target.double() / self.g_max, torch.full_like(target, self.programming_sd[-1], dtype=torch.float64)
        for coefficient in self.programming_sd[-2::-1]:
            sd = sd * g + coefficient
        sd = sd.clamp(min=0.0)
        distance = (target.double() - self.g_min) / sd.clamp(min=1e-6 * self.g_max)
        a = distance.clamp(-8.0, 8.0)  # beyond, nothing is cut off, or everything
        density, part = torch.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi), torch.special.ndtr(a)
        mean = a * part + density
        kept = ((a * a + 1.0) * part + a * density - mean * mean).clamp(min=0.0).sqrt()
        return (sd * kept).to(target.dtype)

    def conductance_moments(self, target: Tensor, ages: Sequence[float]) -> ConductanceMoments | None:
        """Mean and variance of one read of devices programmed to targets [S], at each age [s]; without telegraph noise.

        Noise described by ``read_sd`` is taken as that of the mean conductance of its age.
        """
        return None if self.telegraph is not None else pcm_moments(self, target, ages)

    def _blank(self, like: Tensor) -> Tensor | None:
        return torch.zeros(self.planes, *like.shape, dtype=like.dtype, device=like.device) if self.planes else None

    def drift(self, state: DeviceState, age: Tensor) -> Tensor:
        """Conductance [S] at an age [s], without read noise."""
        seed = torch.zeros(1, dtype=torch.int64, device=age.device)  # unused without noise
        return self._heated(self._read(state, age, seed, 0, ()), state)

    def read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductance [S] found by one read at an age [s]; draws from streams ``offset`` and ``offset + 1``.

        Raises:
            ValueError: the device has correlated or telegraph noise, but the state has no noise.
        """
        law = self.read_noise.encode() if self.read_noise and self.correlated_noise is None else ()
        g = self._read(state, age, seed, offset, law)
        if self.correlated_noise is not None or self.telegraph is not None:
            drifted = self._read(state, age, seed, offset, ()) if law else g
            g = (g + drifted * self._deviation(state, seed, offset)).clamp(min=0.0)
        g = self._heated(g, state)
        if not any(self.read_sd):
            return g
        sd = torch.full_like(g, self.read_sd[-1])
        for coefficient in self.read_sd[-2::-1]:
            sd = sd * g + coefficient
        return (g + sd * torch.ops.phasegrad.normal(seed, offset + 1, g.shape)).clamp_(min=0.0)

    @property
    def _reads_in_one_pass(self) -> bool:
        """Whether the ops of drift and 1/f noise are all of a read."""
        others = (self.correlated_noise, self.telegraph, self.thermal)
        return all(law is None for law in others) and not any(self.read_sd)

    def read_moments(self, state: DeviceState, age: Tensor) -> ReadMoments | None:
        """The moments of reads whose noise is the 1/f noise that each read redraws; ``None`` for other noise."""
        if not self._reads_in_one_pass or self.read_noise is None or age.numel() != 1:
            return None
        moments = call("pcm_moments", *state[:2], self._op_age(age), *self._op_times, self.read_noise.encode())
        return ReadMoments(*moments)

    def read_cells(
        self, state: DeviceState, age: Tensor, seed: Tensor, offset: int, cells: CellSum, noisy: bool
    ) -> Tensor | None:
        """The sum of ``read`` or ``drift`` over the devices of each cell; ``None`` if other laws apply."""
        if not self._reads_in_one_pass or age.numel() != 1:
            return None
        law = self.read_noise.encode() if self.read_noise and noisy else ()
        return call("pcm_cells", *state[:2], self._op_age(age), seed, offset, *self._op_times, law, *cells)

    @property
    def _op_times(self) -> tuple[float, float, float]:
        return self.g_max, self.t0, self.t_read

    def _op_age(self, age: Tensor) -> Tensor:
        return age if self.t_min is None else age.clamp(min=self.t_min) - self.t0  # the op adds t0 to the age

    def _deviation(self, state: DeviceState, seed: Tensor, offset: int) -> Tensor:
        """Relative deviation of a read from the drifted conductance."""
        if state.noise is None:
            raise ValueError(
                "PCM: noise = None in the state of a device with correlated_noise or telegraph; pass the state that "
                "program returned, after advance to the age of the read"
            )
        fresh = self.correlated_noise.fresh_variance(self.t_read) if self.correlated_noise else 0.0
        if fresh == 0.0 or self.read_noise is None:
            return state.noise[0]
        q = self.read_noise(state.conductance / self.g_max)
        drawn = torch.ops.phasegrad.normal(seed, offset, state.conductance.shape)
        return state.noise[0] + q * drawn.mul_(math.sqrt(fresh))

    def _heated(self, g: Tensor, state: DeviceState) -> Tensor:
        if self.thermal is None or state.heat is None:
            return g
        return g * self.thermal.factor(state.conductance / self.g_max, state.nu, state.heat)

    def _read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int, noise: tuple[float, ...]) -> Tensor:
        return torch.ops.phasegrad.pcm_read(*state[:2], self._op_age(age), seed, offset, *self._op_times, noise)
