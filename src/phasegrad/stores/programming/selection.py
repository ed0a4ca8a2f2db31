"""Programming by the amplitude of pulses on chosen devices of a cell, as on IBM's HERMES chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration, check_number
from phasegrad.stores.programming.selection_rules import (
    Selection,
    fill_up_to,
    parallel_devices,
    select_by_reads,
)


@final
@dataclass(frozen=True, kw_only=True)
class DeviceSelection(Configuration):
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
        check_number(self, "strongest", self.weakest, above=True)

    def begin(self, cell: Cell, targets: Tensor) -> SelectedDevices:
        """Start to program cells to targets ``[devices, *shape]`` [S]."""
        return SelectedDevices(self, cell, targets)


@final
class SelectedDevices:
    """One run of the strategy: the roles of the devices, and the amplitudes that they received last."""

    def __init__(self, strategy: DeviceSelection, cell: Cell, targets: Tensor) -> None:
        self._strategy, self._device, self._groups = strategy, cell.device, parallel_devices(cell)
        self._target = self._shared(targets - cell.device.lowest)
        self._wanted = self._target > 1e-6 * cell.device.window
        self._amplitude = torch.full_like(targets, strategy.weakest)
        self._chosen: Selection | None = None

    def prepare(self) -> tuple[Pulses, ...]:
        """RESET all devices, then SET those of the wanted polarity."""
        rule, everywhere = self._strategy, torch.ones_like(self._wanted)
        reset = self._pulses(everywhere, rule.strongest, rule.length)
        return reset, self._pulses(self._wanted, rule.weakest, rule.set_length)

    def error(self, read: Tensor) -> Tensor:
        """What is too much on the devices that are programmed [S]; 0 on the others.

        Args:
            read: conductances ``[devices, *shape]`` of the last verify read [S]; the first one finds the devices SET.
        """
        if self._chosen is None:
            self._choose(read)
        assert self._chosen is not None
        above = read - self._device.lowest
        found = self._shared(above) if self._strategy.full == "read" else above
        return torch.where(self._chosen.programmed, found - self._target, 0.0)

    def next(self, error: Tensor, unfinished: Tensor) -> Pulses:
        """The next pulse of devices that are unfinished: stronger in proportion to the error [S]."""
        rule = self._strategy
        moved = (self._amplitude + rule.gain * error).clamp(rule.weakest, rule.strongest)
        self._amplitude = torch.where(unfinished, moved, self._amplitude)
        return self._pulses(unfinished, self._amplitude, rule.length)

    def reset_unused(self) -> Pulses:
        """RESET the devices that are neither left SET nor programmed."""
        assert self._chosen is not None
        unused = self._wanted & ~self._chosen.stays & ~self._chosen.programmed
        return self._pulses(unused, self._strategy.strongest, self._strategy.length)

    def _choose(self, read: Tensor) -> None:
        above, device = read - self._device.lowest, self._device
        stays, programmed = torch.zeros_like(self._wanted), torch.zeros_like(self._wanted)
        for group in self._groups:
            total = self._target[group[0]] * self._wanted[group[0]]
            if self._strategy.full == "read":
                stays[group], programmed[group] = select_by_reads(total, above[group])
            else:
                self._target[group] = fill_up_to(total, device.window, len(group))
                programmed[group] = self._target[group] > 0.0
        self._chosen = Selection(stays, programmed)

    def _shared(self, conductance: Tensor) -> Tensor:
        """The sum over devices that share a target, at each of them."""
        sums = torch.empty_like(conductance)
        for group in self._groups:
            sums[group] = conductance[group].sum(dim=0)
        return sums

    def _pulses(self, where: Tensor, amplitude: Tensor | float, length: float) -> Pulses:
        return Pulses(where * torch.as_tensor(amplitude, dtype=self._amplitude.dtype), length)
