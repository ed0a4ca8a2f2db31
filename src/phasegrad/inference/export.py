"""A net as its hardware computes but for noise, and as a graph that other programs run."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phasegrad.inference.programming import _layers
from phasegrad.nn import analog_layers
from phasegrad.ops import reference
from phasegrad.stores.noiseless import make_noiseless

_DEFINITIONS = ("dac", "adc", "tile_linear")
"""The ops that converters and tiles come down to where nothing is drawn."""


def noiseless(net: nn.Module) -> nn.Module:
    """Copy a net, with analog layers that compute without noise.

    Weights are what the devices hold at the chip's present time (of a net that is not programmed: its clipped weights),
    wires included; inputs and outputs are converted and clipped as on the hardware, tile by tile; gains count. What is
    drawn at each call, noise of reads, outputs and comparators, is left out. So an output is not quite the mean of the
    chip's, as converters, activations, and conductances that are read as 0 or more bend noise to one side.

    Args:
        net: a converted net, programmed or not; left as it is.

    Returns:
        The copy, in evaluation mode. It draws nothing, and is for inference alone.

    Raises:
        ValueError: the net has no analog layer.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.pcm_inference())
        >>> fixed, x = noiseless(pg.inference.program(net, seed=0)), torch.randn(3, 16)
        >>> torch.equal(fixed(x), fixed(x))
        True
    """
    _layers(net, "noiseless")
    fixed = copy.deepcopy(net).eval().requires_grad_(False)
    for layer in analog_layers(fixed).values():
        make_noiseless(layer)
    return fixed


def export_graph(net: nn.Module, inputs: tuple[Any, ...], **options: Any) -> torch.export.ExportedProgram:
    """The :func:`noiseless` net as a graph of torch's own operations, which needs no phasegrad to run.

    Args:
        net: a converted net, programmed or not.
        inputs: example inputs of its ``forward``.
        options: of ``torch.export.export``, such as ``dynamic_shapes``.

    Raises:
        ValueError: the net has no analog layer, or an operation of phasegrad is left (the message names it).
    """
    with torch.no_grad():
        exported = torch.export.export(noiseless(net), inputs, **options)
    table = torch.export.default_decompositions()
    for name in _DEFINITIONS:
        table[getattr(torch.ops.phasegrad, name).default] = getattr(reference, name)
    plain = exported.run_decompositions(table)
    left = {str(node.target) for node in plain.graph.nodes if str(node.target).startswith("phasegrad.")}
    if left:
        raise ValueError(f"export_graph: {', '.join(sorted(left))} is left, which no other program knows")
    return plain


def export_onnx(net: nn.Module, inputs: tuple[Any, ...], path: str | os.PathLike[str], **options: Any) -> None:
    """Write the :func:`noiseless` net as an ONNX model.

    Needs onnx and onnxscript: ``pip install phasegrad[integrations]``.

    Args:
        net: a converted net, programmed or not.
        inputs: example inputs of its ``forward``.
        path: the file.
        options: of ``torch.export.export``, such as ``dynamic_shapes``.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: as :func:`export_graph`.
    """
    plain = export_graph(net, inputs, **options)
    try:
        program = torch.onnx.export(plain, dynamo=True, verbose=False)
    except ModuleNotFoundError as error:
        raise ImportError("ONNX models need onnx and onnxscript: pip install phasegrad[integrations]") from error
    assert program is not None
    program.save(Path(path))
