"""Refusal to resize the embeddings of a converted model of ``transformers``, which would replace analog layers."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from phasegrad.nn import analog_layers

_METHOD = "resize_token_embeddings"


def refuse_resizing(net: nn.Module) -> None:
    """Let ``resize_token_embeddings`` of every module of a net with analog layers raise."""
    for module in net.modules():
        resizes = callable(getattr(type(module), _METHOD, None)) and _METHOD not in vars(module)
        if resizes and analog_layers(module):
            vars(module)[_METHOD] = _refuse


def allow_resizing(net: nn.Module) -> None:
    """Undo ``refuse_resizing``."""
    for module in net.modules():
        if vars(module).get(_METHOD) is _refuse:
            del vars(module)[_METHOD]


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        "resize_token_embeddings: the model is converted, and new embeddings and output layers would be digital, or "
        "would not fit the tiles; resize the digital model and convert it again, pg.to_digital(net) returns it"
    )
