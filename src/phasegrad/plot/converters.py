"""Figures of converters and of bit-sliced weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from phasegrad.cells import DifferentialSlices
from phasegrad.conversion import convert
from phasegrad.crossbar import Adc, CalibratedRange, Hardware, OutputConverter
from phasegrad.crossbar.converters import linearity as measure
from phasegrad.drawing import new_figure, save_figure
from phasegrad.hwa import calibrate

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def linearity(adcs: Mapping[str, OutputConverter], path: str | os.PathLike[str] | None = None, *, seed: int = 0) -> Any:
    """Draw transfer curve, DNL and INL of one random physical converter per kind, measured with a slow ramp.

    Args:
        adcs: converters by name.
        path: path of the image file, or ``None`` to write none.
        seed: seed of the errors of the converters.

    Returns:
        The matplotlib figure, with one row per converter.
    """
    figure, axes = _figure(len(adcs), 3, (10.0, 1.55 * len(adcs) + 0.4))
    for row, (name, adc), colour in zip(axes, adcs.items(), _cycle(len(adcs)), strict=True):
        found = measure(adc, seed=seed)
        row[0].plot(found.inputs, found.inputs, color="0.6", lw=0.8, ls="--")
        row[0].plot(found.inputs, found.outputs[0], color=colour, lw=1.2)
        row[0].set_ylabel(name)
        row[1].plot(found.levels, found.dnl[0], color=colour, lw=0.9)
        row[2].plot(found.levels, found.inl[0], color=colour, lw=1.2)
    for column, title in enumerate(("output / range", "DNL (steps)", "INL (steps)")):
        axes[0][column].set_title(title)
        axes[-1][column].set_xlabel("input / range" if column == 0 else "level (steps)")
    return _saved(figure, path)


def slices(
    hardware: Hardware, path: str | os.PathLike[str] | None = None, *, bits: int = 8,
    counts: Sequence[int] = (1, 2, 4, 7), resolutions: Sequence[int] = (4, 5, 6, 7, 8, 9, 10, 11, 12), seed: int = 0,
) -> Any:  # fmt: skip
    """Draw the error of a product against the resolution of the converters, for weights in several slices.

    Args:
        hardware: hardware to modify: tiles of 256 rows, with sliced cells of its device and digital weights.
        path: path of the image file, or ``None`` to write none.
        bits: bits of the weights.
        counts: numbers of slices.
        resolutions: resolutions of the converters [bit].
        seed: seed of weights and inputs.

    Returns:
        The matplotlib figure: root-mean-square error relative to the root mean square of the exact product.
    """
    figure, axes = _figure(1, 1, (5.4, 3.4))
    generator = torch.Generator().manual_seed(seed)
    model, x = nn.Linear(256, 64, bias=False), torch.randn(256, 256, generator=generator)
    model.weight.data = torch.randn(64, 256, generator=generator)
    exact = model(x)
    for count, colour in zip(counts, _cycle(len(counts)), strict=True):
        cell = DifferentialSlices(device=hardware.cell.device, bits=bits, slices=count)
        errors = []
        for resolution in resolutions:
            adc = Adc(bits=resolution, range=CalibratedRange(percentile=99.99))
            layer = convert(model, replace(hardware, cell=cell, rows=256, adc=adc))
            with torch.no_grad():
                y = calibrate(layer, [x], recipe=None)(x)
            errors.append(((y - exact).square().mean() / exact.square().mean()).sqrt().item())
        axes[0][0].plot(resolutions, errors, "o-", ms=3, lw=1.2, color=colour, label=f"{count}")
    axes[0][0].set(yscale="log", xlabel="converter resolution (bits)", ylabel="relative error of the product")
    axes[0][0].legend(frameon=False, fontsize=8, title=f"slices of {bits}-bit weights", title_fontsize=8)
    return _saved(figure, path)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    figure = new_figure(*size)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.92", lw=0.8)
        one.set_axisbelow(True)
    return figure, axes


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        save_figure(figure, path)
    return figure
