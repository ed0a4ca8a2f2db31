"""Hardware for inference."""

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
        adc=Adc(bits=8, range=FixedRange(value=10.0), convention="end-point"),
        output_noise=0.04,
        read_noise=0.0175,
    )


def pcm_inference(*, g_max: float = 25e-6) -> Hardware:
    """The field's standard inference tile on 90 nm PCM pairs.

    Devices: Joshi et al., Nat. Commun. 11:2473 (2020). Periphery: Rasch et al., Nat. Commun. 14 (2023): tiles of
    512 x 512, a scale a column, 8-bit converters, learned input range, output bound 10 and output noise 0.04 in
    units of ``max|w| max|x|``, weight read noise 0.0175. Wires are ideal.

    Args:
        g_max: conductance of the largest weight [S].
    """
    return _standard(joshi_2020(g_max=g_max), 512, 512)


def hermes_inference(*, devices: int = 1) -> Hardware:
    """The same periphery on 256 x 256 tiles of 14 nm devices, as in IBM's HERMES core.

    Args:
        devices: devices on each side of a pair, 1 or 2.
    """
    if devices not in (1, 2):
        raise ValueError(f"hermes_inference: devices = {devices!r}; statistics are published for 1 and 2")
    return _standard(hermes_one() if devices == 1 else hermes_two(), 256, 256)


def ideal_inference(*, rows: int = 512, columns: int = 512) -> Hardware:
    """Exact devices, converters and tiles: a converted net computes what the float model does."""
    return Hardware(cell=DifferentialPair(device=ideal_device()), rows=rows, columns=columns)
