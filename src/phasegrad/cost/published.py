"""Technologies of published chips. Each constant says where it is from, and whether it was read, derived or fitted.

What a fit reproduces is not predicted: ``docs/cost-of-published-chips.md`` tells the two apart, figure by figure.
"""

from __future__ import annotations

from typing import Any

from phasegrad import argument_checks as check
from phasegrad.cost.constant import Constant
from phasegrad.cost.technology import Technology

_CORE = "Khaddam-Aljameh et al. 2022"
_CHIP = "Le Gallo et al. 2023"
_SPEECH = "Ambrogio et al. 2023"

_CORE_OPERATIONS = 2 * 256 * 256
"""Operations of a product of a HERMES core; a multiply-accumulate is two."""
_SPEECH_OPERATIONS = 2 * 512 * 512
"""Operations of a product of a tile of 512 x 2048 devices with four devices per weight."""

_HERMES_ARRAY = 0.47e-9
"""Energy of the array in a product [J]: 0.2 V, pulses of half the full length, and normal weights clipped at three
standard deviations on pairs of ``hermes_one``, whose sides have a mean of 1.41 uS."""
_SPEECH_ARRAY = 7.46e-9
"""The same for a tile of 512 x 512 weights on pairs of ``hermes_two``, with pulses of up to 256 ns."""


def _published(value: float, source: str) -> Constant:
    return Constant(value=value, source=source, origin="published")


def _derived(value: float, source: str) -> Constant:
    return Constant(value=value, source=source, origin="derived")


def _fitted(value: float, source: str) -> Constant:
    return Constant(value=value, source=source, origin="fitted")


def _assumed(value: float, source: str) -> Constant:
    return Constant(value=value, source=source, origin="assumed")


def _included(where: str) -> Constant:
    return Constant(value=0.0, source=f"included in {where}", origin="derived")


def hermes_core() -> Technology:
    """The core of 256 x 256 weights with 256 oscillator converters, in 14 nm CMOS, alone on its chip.

    Its three published figures, 1.008 TOPS, 10.5 TOPS/W and 1.59 TOPS/mm2, are reproduced by three fitted or derived
    constants, so they are no test of the model. What the core predicts is the area of the chip with 64 of them.
    The local digital unit and the transfers to the board are not part of the published figures: their constants are
    unknown (``None``).

    References:
        Khaddam-Aljameh, R. et al. HERMES-core: a 1.59-TOPS/mm2 PCM on 14-nm CMOS in-memory compute core using
        300-ps/LSB linearized CCO-based ADCs. IEEE J. Solid-State Circuits 57 (2022).
        https://doi.org/10.1109/JSSC.2022.3140414
    """
    return Technology(
        read_time=_published(128e-9, f"{_CORE}: 8-bit pulses are integrated for 128 ns, at a clock of 1 GHz"),
        setup_time=_fitted(2e-9, f"{_CORE}: 1.008 TOPS are products of 130 ns, 2 ns more than the integration"),
        adc_energy=_converter(_CORE_OPERATIONS / 10.5e12, f"{_CORE}: 10.5 TOPS/W"),
        **_hermes_circuits(),
    )


def hermes_64_core(*, phases: int = 1) -> Technology:
    """The chip with 64 HERMES cores, their links, and global digital units for LSTMs, in 14 nm CMOS.

    Fitted to the throughput and the efficiency of products read in one phase, and to the latency and the energy of a
    ResNet-9 layer read in one phase. It predicts all figures of four phases and those of an LSTM step.

    The chip's global units compute activations and the gates of LSTMs, at no cost of their own. It has none for other
    operators, such as attention: for nets that need them, replace ``digital_energy``, ``digital_time``,
    ``memory_energy`` and ``memory_time`` by those of the unit that computes them.

    Args:
        phases: 1: inputs and weights of both polarities are read at once; 4: each combination by itself, which is more
            precise.

    Raises:
        ValueError: ``phases`` is neither 1 nor 4.

    References:
        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1

        Ferro, E. et al. A precision-optimized fixed-point near-memory digital processing unit for analog in-memory
        computing. ISCAS (2024), for the serial local digital unit. https://arxiv.org/abs/2402.07549
    """
    check.integer("hermes_64_core", "phases", phases, 1, 4)
    if phases not in (1, 4):
        raise ValueError(f"hermes_64_core: phases = {phases}; it must be 1 or 4, the chip's two ways to read")
    clock = "one per cycle of 1 GHz"
    return Technology(
        phases=phases,
        read_time=_published(128e-9, f"{_CHIP}: 8-bit pulses of 1 ns per level; {_CORE}: 128 ns"),
        setup_time=_fitted(5e-9, f"{_CHIP}: 63.1 TOPS in one phase are products of 133 ns"),
        adc_energy=_converter(_CORE_OPERATIONS / 9.76e12, f"{_CHIP}: 9.76 TOPS/W in one phase"),
        local_cycle=_assumed(1e-9, f"a serial unit, {clock}; Ferro et al. 2024: little parallelism, high latency"),
        local_latency=_included("hop_time and local_cycle"),
        local_energy=_included("tile_power"),
        link_time=_assumed(1e-9, f"{_CHIP}, figure 1: links of 8 bits; a byte per cycle of 1 GHz"),
        link_latency=_included("hop_time"),
        link_energy=_included("tile_power"),
        partial_sums="local",
        hop_time=_fitted(42e-9, f"{_CHIP}: 1131 ns for a ResNet-9 layer in one phase, a chain of 8 cores"),
        tile_power=_fitted(96.8e-3, f"{_CHIP}: 0.97 uJ for a ResNet-9 layer in one phase, on 8 cores for 1131 ns"),
        chip_power=_included("tile_power"),
        digital_time=_assumed(0.0, f"{_CHIP}, figure 1: gates of LSTMs, computed as the links deliver, {clock}"),
        digital_energy=_included("tile_power, for gates of LSTMs; the chip computes no attention"),
        memory_time=_included("link_time, for gates of LSTMs"),
        memory_energy=_included("tile_power, for gates of LSTMs"),
        digital_area=_derived(144e-6 - 64 * 0.634e-6, f"{_CHIP}, figure 1: 12 mm x 12 mm, less 64 cores"),
        programming_energy=_derived(
            8.2e-9, f"{_CHIP}: an upper bound, RESET, SET and 30 pulses of 700 uA for 125 ns at 3 V"
        ),
        programming_time=_derived(
            5.9e-6,
            f"{_CHIP}: 30 iterations of 0.5 ms of pulses and 0.3 ms of reads per core, over 4096 groups of devices",
        ),
        programmed_together=32,
        **_hermes_circuits(),
    )


def ambrogio_2023() -> Technology:
    """The speech chip with 34 tiles of 512 x 2048 devices, in 14 nm CMOS: four devices per weight, no converters.

    Tiles integrate charge and pass durations on, so energy is that of a tile and of its share of mesh and control.
    Fitted to 20 TOPS/W of a tile, 12.4 of a whole chip, and to the digital part between 7.09 and 6.94. The step from
    12.4 to 7.09, tiles that are not fully used, belongs to the network and not to the technology. Areas and the time of
    the digital part, which was not on the chip, are unknown (``None``).

    References:
        Ambrogio, S. et al. An analog-AI chip for energy-efficient speech recognition and transcription. Nature 620,
        768-775 (2023). https://doi.org/10.1038/s41586-023-06337-5

        Narayanan, P. et al. Fully on-chip MAC at 14 nm enabled by accurate row-wise programming of PCM-based weights
        and parallel vector-transport in duration-format. IEEE Trans. Electron Devices 68, 6629-6636 (2021).
        https://doi.org/10.1109/TED.2021.3115993
    """
    tile = _SPEECH_OPERATIONS / 20.0e12
    rest = _SPEECH_OPERATIONS / 12.4e12 - tile
    return Technology(
        read_time=_assumed(
            256e-9, f"{_SPEECH}: 8-bit durations; 1 ns per level assumed, about 1.2 ns in Narayanan 2021"
        ),
        setup_time=_derived(44e-9, f"{_SPEECH}: time steps of 300 ns, less read_time"),
        read_voltage=_assumed(0.2, f"as in {_CHIP}; not found for this chip"),
        mean_conductance=_derived(2.78e-6, "normal weights clipped at three standard deviations, pairs of hermes_two"),
        tile_energy=_fitted(tile - _SPEECH_ARRAY, f"{_SPEECH}: 20 TOPS/W of a tile, less 7.46 nJ of the array"),
        driver_energy=_included("tile_energy"),
        adc_energy=_included("tile_energy"),
        adc_time=_included("setup_time"),
        local_cycle=_included("setup_time"),
        local_latency=_included("setup_time"),
        local_energy=_included("tile_energy"),
        link_time=_included("setup_time"),
        link_latency=_included("setup_time"),
        link_energy=_included("tile_power"),
        tile_power=_fitted(rest / 300e-9, f"{_SPEECH}: 12.4 TOPS/W of a chip, over time steps of 300 ns"),
        chip_power=_included("tile_power"),
        digital_energy=_fitted(
            325.0 * (1.0 / 6.94e12 - 1.0 / 7.09e12),
            f"{_SPEECH}: 7.09 to 6.94 TOPS/W with one digital operation to 325 analog ones",
        ),
        memory_energy=_included("digital_energy"),
    )


def _converter(product: float, source: str) -> Constant:
    """Energy per conversion of a HERMES core: that of its product less the array's."""
    return _fitted((product - _HERMES_ARRAY) / 256, f"{source}, less 0.47 nJ of the array, over 256 converters")


def _hermes_circuits() -> dict[str, Any]:
    """What the core alone and the cores of the chip have in common."""
    return {
        "read_voltage": _published(0.2, f"{_CHIP}: verify reads at 0.2 V"),
        "mean_conductance": _derived(1.41e-6, "normal weights clipped at three standard deviations, hermes_one"),
        "driver_energy": _included("adc_energy"),
        "adc_time": _included("read_time: oscillators count while the currents flow"),
        "adc_bits": 8,
        "adc_scaling": "codes",
        "tile_energy": _included("adc_energy"),
        "tile_area": _derived(
            1.008 / 1.59 * 1e-6, f"{_CORE}: 1.008 TOPS at 1.59 TOPS/mm2, converters and digital unit"
        ),
        **{
            name: _included("tile_area")
            for name in ("device_area", "driver_area", "adc_area", "local_area", "link_area")
        },
    }
