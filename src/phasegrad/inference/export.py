"""Noise-free copies of converted nets, and their export as graphs that run without phasegrad."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phasegrad.argument_checks import shown
from phasegrad.nn import analog_layers
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.layer import require_analog_layers, take_writes_of_net
from phasegrad.ops import reference
from phasegrad.stores.noiseless import make_noiseless
from phasegrad.stores.sharing import exchange_parameters, sharing
from phasegrad.writing import checked_path

_NOISELESS_OPS = ("dac", "adc", "tile_linear")
"""The ops of phasegrad that a noise-free net uses."""


def noiseless(net: nn.Module) -> nn.Module:
    """Copy a net with analog layers that compute without noise.

    The weights are those stored in the devices at the chip's present age (the clipped weights of a net that is not
    programmed), wires included. Inputs and outputs are converted and clipped tile by tile as on the hardware, and drift
    compensation applies. The copy omits all noise that is drawn at each call: read noise, output noise and comparator
    noise. Its outputs differ slightly from the chip's mean outputs, because converters, activations, and reads that
    cannot be negative make the effect of noise asymmetric.

    Args:
        net: a converted net, programmed or not; it is not modified.

    Returns:
        The copy, in evaluation mode. It draws no random numbers and is for inference only.

    Raises:
        ValueError: the net has no analog layer.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.pcm_inference())
        >>> x = torch.randn(3, 16)
        >>> quiet = noiseless(pg.inference.program(pg.hwa.calibrate(net, [x], recipe=None), seed=0))
        >>> torch.equal(quiet(x), quiet(x))
        True
    """
    require_analog_layers(net, "noiseless")
    take_writes_of_net(net)
    quiet = shared_copy(net).eval().requires_grad_(False)
    with sharing() as exchanges:
        for layer in analog_layers(quiet).values():
            make_noiseless(layer)
    exchange_parameters(quiet, exchanges)
    return quiet


def export_graph(net: nn.Module, inputs: tuple[Any, ...], **options: Any) -> torch.export.ExportedProgram:
    """Export the ``noiseless`` net as a graph of torch's own operations, which runs without phasegrad.

    Args:
        net: a converted net, programmed or not.
        inputs: example inputs of its ``forward``.
        options: options of ``torch.export.export``, such as ``dynamic_shapes``.

    Returns:
        The exported program.

    Raises:
        ValueError: the net has no analog layer, or the graph still contains an op of phasegrad (the message names it).
    """
    if not isinstance(inputs, tuple):
        raise TypeError(
            f"export_graph: inputs = {shown(inputs)}; it must be the tuple of the arguments of the net's forward, such "
            "as (x,)"
        )
    with torch.no_grad():
        exported = torch.export.export(noiseless(net), inputs, **options)
    table = torch.export.default_decompositions()
    for name in _NOISELESS_OPS:
        table[getattr(torch.ops.phasegrad, name).default] = getattr(reference, name)
    plain = exported.run_decompositions(table)
    left = {str(node.target) for node in plain.graph.nodes if str(node.target).startswith("phasegrad.")}
    if left:
        raise ValueError(
            f"export_graph: the graph still contains {', '.join(sorted(left))}, which only phasegrad can run; keep the "
            "modules that call these ops digital"
        )
    return plain


def export_onnx(net: nn.Module, inputs: tuple[Any, ...], path: str | os.PathLike[str], **options: Any) -> None:
    """Write the [`noiseless`][phasegrad.inference.noiseless] net as an ONNX model.

    Needs onnx and onnxscript: ``pip install phasegrad[integrations]``.

    Args:
        net: a converted net, programmed or not.
        inputs: example inputs of its ``forward``.
        path: path of the ONNX file.
        options: options of ``torch.export.export``, such as ``dynamic_shapes``.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: as for [`export_graph`][phasegrad.inference.export_graph].
        TypeError: ``path`` is no path.
        OSError: ``path`` is a folder, or its folder does not exist.
    """
    file = checked_path(path, "export_onnx")
    plain = export_graph(net, inputs, **options)
    try:
        program = torch.onnx.export(plain, dynamo=True, verbose=False)
    except ModuleNotFoundError as error:
        raise ImportError("ONNX models need onnx and onnxscript: pip install phasegrad[integrations]") from error
    assert program is not None
    with tempfile.TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent) as folder:
        program.save(Path(folder) / file.name)
        # A large model has its weights in a second file, which must be there when the first one is.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == file.name):
            os.replace(part, file.with_name(part.name))
