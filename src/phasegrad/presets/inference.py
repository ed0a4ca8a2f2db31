"""Hardware for inference with programmed weights."""

from __future__ import annotations

from phasegrad.cells import DifferentialPair
from phasegrad.crossbar import Adc, Dac, FixedRange, Hardware, LearnedRange
from phasegrad.devices import PCM, hermes_one, hermes_two, ideal_device, joshi_2020


def _standard(device: PCM, rows: int, columns: int) -> Hardware:
    return Hardware(
        cell=DifferentialPair(device=device),
        rows=rows,
        columns=columns,
        scale="column",
        dac=Dac(bits=8, range=LearnedRange(start=3.0, decay=1e-3, keep=0.95)),
        adc=Adc(bits=8, range=FixedRange(value=10.0)),
        output_noise=0.04,
        read_noise=0.0175,
    )


def pcm_inference(*, g_max: float = 25e-6) -> Hardware:
    """The standard inference tile of Rasch et al. with pairs of 90 nm PCM devices of Joshi et al.

    Tiles are 512 x 512 with one scale per column, 8-bit converters and a learned input range. The output bound is 10
    and the output noise 0.04, in units of ``max|w| max|x|``; weight read noise is 0.0175. Wires are ideal.

    Args:
        g_max: conductance of the largest weight [S].

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023), Methods.
        https://doi.org/10.1038/s41467-023-40770-4
    """
    return _standard(joshi_2020(g_max=g_max), 512, 512)


def hermes_inference(*, devices: int = 1) -> Hardware:
    """Tiles of 256 x 256 with 14 nm PCM devices, the size and devices of IBM's HERMES core.

    The periphery is that of ``pcm_inference``, not that of the chip. ``phasegrad.devices.hermes_one`` states
    the source of the device statistics.

    Args:
        devices: devices on each side of a pair, 1 or 2.

    Raises:
        ValueError: ``devices`` is not 1 or 2.

    References:
        Khaddam-Aljameh, R. et al. HERMES-core: a 1.59-TOPS/mm2 PCM on 14-nm CMOS in-memory compute core using
        300-ps/LSB linearized CCO-based ADCs. IEEE J. Solid-State Circuits 57 (2022).
        https://doi.org/10.1109/JSSC.2022.3140414

        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023), Methods.
        https://doi.org/10.1038/s41467-023-40770-4
    """
    if not isinstance(devices, int) or devices not in (1, 2):
        raise ValueError(
            f"hermes_inference: devices = {devices!r}; it must be 1 or 2, for which statistics are published"
        )
    return _standard(hermes_one() if devices == 1 else hermes_two(), 256, 256)


def ideal_inference(*, rows: int = 512, columns: int = 512) -> Hardware:
    """Exact devices, converters and tiles: a converted network computes the same as the float model.

    Args:
        rows: word lines (inputs) per tile.
        columns: bit lines (outputs) per tile.
    """
    return Hardware(cell=DifferentialPair(device=ideal_device()), rows=rows, columns=columns)
