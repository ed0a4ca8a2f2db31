"""Programming by the amplitude of pulses on chosen devices of a cell, as on IBM's HERMES chip."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import check_choice, check_number
from phasegrad.stores.programming.pulses import Pulses
from phasegrad.stores.programming.selection_rules import Selection, fill_up_to, parallel_devices, select_by_reads
from phasegrad.stores.programming.strategies import Run, Site, Strategy, require_amplitude


@final
@dataclass(frozen=True, kw_only=True)
class DeviceSelection(Strategy):
    """RESET a cell, SET the devices of the wanted polarity, choose among them by a read, and program the chosen ones.

    The devices of a cell that add to its weight with the same factor share a target, the sum of theirs. All devices are
    RESET, those that share a target above RESET are SET, and all are read. The rule ``full`` then leaves at most one
    device of them between RESET and SET. That one is programmed by single pulses that melt and quench it: each pulse
    is stronger than the one before it if the conductance was read too high, and weaker if too low, in proportion to the
    error. Every pulse erases the effect of the one before.

    Args:
        full: ``"read"`` for the conductance that each device was read to have when fully SET: the strongest devices
            stay SET while the target exceeds them, the next one is programmed so that the *sum* meets the target.
            ``"nominal"`` for ``g_max`` of the device: one device after the other is programmed to it, each to a target
            of its own.
        gain: change of the amplitude per error of the conductance [A/S].
        weakest: amplitude of the weakest pulse, and of the SET pulse [A].
        strongest: amplitude of the strongest pulse, which RESETs a device [A].
        length: duration of these pulses [s].
        set_length: duration of the SET pulse with its trailing edge [s].

    Raises:
        ValueError: a number is out of its range.

    References:
        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1

        Vasilopoulos, A. et al. Exploiting the state dependency of conductance variations in memristive devices for
        accurate in-memory computing. IEEE Trans. Electron Devices 70
        (2023).
    """

    preparation: ClassVar[int] = 2

    full: Literal["read", "nominal"] = "read"
    gain: float = 5.0
    weakest: float = 125e-6
    strongest: float = 700e-6
    length: float = 125e-9
    set_length: float = 300e-9

    def __post_init__(self) -> None:
        check_choice(self, "full", ("read", "nominal"))
        for name in ("gain", "weakest", "length", "set_length"):
            check_number(self, name, 0.0, above=True)
        check_number(self, "strongest", 0.0, above=True)
        if self.strongest <= self.weakest:
            raise ValueError(
                f"DeviceSelection: weakest = {self.weakest:g} A and strongest = {self.strongest:g} A; the "
                "weakest pulse must have the lower current"
            )

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` unless pulses of these amplitudes can bring the median device to every target."""
        require_amplitude(self, cell)
        curve, nothing = cell.device.amplitude, torch.zeros(1)
        assert curve is not None
        most = curve.conductance(torch.full((1,), self.weakest), nothing, nothing, nothing).item()
        if cell.device.g_max > most:
            raise ValueError(
                f"DeviceSelection: weakest = {self.weakest:g} A leaves a device at {most:g} S, but targets reach g_max "
                f"= {cell.device.g_max:g} S; lower weakest, or the g_max of the device"
            )

    def begin(self, site: Site) -> SelectedDevices:
        """Start on some cells."""
        return SelectedDevices(self, site)


@final
class SelectedDevices(Run):
    """One run of the strategy: the roles of the devices, and the amplitudes that they received last.

    Args:
        strategy: the configuration.
        site: the cells.
    """

    def __init__(self, strategy: DeviceSelection, site: Site) -> None:
        self._strategy, self._device, self._groups = strategy, site.cell.device, parallel_devices(site.cell)
        self._target = self._shared(site.targets - self._device.lowest)
        self._wanted = self._target > 1e-6 * self._device.window
        self._amplitude = torch.full_like(site.targets, strategy.weakest)
        self._chosen: Selection | None = None

    def pulses(self, read: Tensor | None, attempt: int, unfinished: Tensor) -> Pulses | None:
        """RESET all devices, SET the wanted ones, and then send the next pulse to those that are programmed."""
        rule = self._strategy
        if attempt == 0:
            return self._square(torch.full_like(self._amplitude, rule.strongest))
        if attempt == 1:
            return Pulses(fully_set=self._wanted, set_duration=rule.set_length, set_current=rule.weakest)
        assert read is not None
        unused = self._choose(read) if self._chosen is None else None
        moved = self._amplitude.add(self.residual(read), alpha=rule.gain)
        self._amplitude = moved.clamp_(rule.weakest, rule.strongest)
        assert self._chosen is not None
        amplitude = self._amplitude * (self._chosen.programmed & unfinished)
        return self._square(amplitude if unused is None else amplitude.masked_fill(unused, rule.strongest))

    def residual(self, read: Tensor) -> Tensor:
        """What is too much on the devices that are programmed [S]; 0 on others, infinite before they are chosen."""
        if self._chosen is None:
            return torch.where(self._wanted, torch.inf, 0.0)
        above = read - self._device.lowest
        found = self._shared(above) if self._strategy.full == "read" else above
        return torch.where(self._chosen.programmed, found - self._target, 0.0)

    def keep(self, chosen: Tensor) -> SelectedDevices:
        """The run of some of the cells."""
        kept = copy.copy(self)
        kept._target, kept._wanted = self._target[:, chosen], self._wanted[:, chosen]
        kept._amplitude = self._amplitude[:, chosen]
        if self._chosen is not None:
            kept._chosen = Selection(*(role[:, chosen] for role in self._chosen))
        return kept

    def _choose(self, read: Tensor) -> Tensor:
        """Give the devices their roles; returns those that stay neither SET nor are programmed."""
        above, wanted = read - self._device.lowest, self._wanted
        stays, programmed = torch.zeros_like(wanted), torch.zeros_like(wanted)
        for group in self._groups:
            total = self._target[group[0]] * wanted[group[0]]
            if self._strategy.full == "read":
                stays[group], programmed[group] = select_by_reads(total, above[group])
            else:
                self._target[group] = fill_up_to(total, self._device.window, len(group))
                programmed[group] = self._target[group] > 0.0
        self._chosen = Selection(stays, programmed)
        return wanted & ~stays & ~programmed

    def _square(self, amplitude: Tensor) -> Pulses:
        return Pulses(amplitude=amplitude, duration=self._strategy.length)

    def _shared(self, conductance: Tensor) -> Tensor:
        """The sum over devices that share a target, at each of them."""
        sums = torch.empty_like(conductance)
        for group in self._groups:
            sums[group] = conductance[group].sum(dim=0)
        return sums
