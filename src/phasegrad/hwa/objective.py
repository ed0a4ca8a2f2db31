"""The loss of a net on a batch of a data loader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.hwa.recipe import Distillation
from phasegrad.nn.evaluation import binds, keywords, moved, run, signature_of

Loss = Callable[[Any, Any], Tensor]
Forward = Callable[[nn.Module, Any], Any]

_TAKES = (
    "fine_tune takes batches (input, target), with the loss loss(net(input), target), and dictionaries, with the loss "
    "net(**batch).loss or, where the net computes none, loss(net(**inputs), batch['labels']). For other batches pass "
    "forward=lambda net, batch: ..., which returns the loss or (output, target), such as "
    "forward=lambda net, batch: (net(batch[0], batch[1]), batch[2])"
)


class Result(NamedTuple):
    """What a net computes for a batch."""

    output: Any = None
    """Output of the net, if it is known."""
    target: Any = None
    """Target of the output; ``None`` if the loss is computed already."""
    loss: Tensor | None = None
    """Loss that the net or the user's ``forward`` computed, or ``None``."""


class Objective:
    """The loss of a net on a batch, with the distillation term if there is a teacher.

    Args:
        loss: ``(output, target) -> scalar``.
        forward: the user's ``(net, batch) -> loss or (output, target)``, or ``None``.
        distillation: weight and temperature of the distillation term.
        teacher: the teacher; ``None`` for no distillation.
    """

    def __init__(
        self, loss: Loss, forward: Forward | None, distillation: Distillation | None, teacher: nn.Module | None
    ) -> None:  # fmt: skip
        self.loss, self.forward, self.distillation, self.teacher = loss, forward, distillation, teacher

    def __call__(self, net: nn.Module, batch: Any) -> Tensor:
        """The loss.

        Raises:
            TypeError: the form of the batch, or of what ``forward`` or the net returns, is none of those described.
            ValueError: a loss function is given for a net that computes its own loss, or distillation lacks outputs.
        """
        result = self.run(net, batch)
        value = self._own_loss(result) if result.loss is None else result.loss
        if self.distillation is None or self.teacher is None:
            return value
        t, w = self.distillation.temperature, self.distillation.weight
        with torch.no_grad():
            wanted = F.log_softmax(self._logits(self.run(self.teacher, batch)) / t, dim=-1)
        own = F.log_softmax(self._logits(result) / t, dim=-1)
        distance = F.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return (1.0 - w) * value + w * t * t * distance

    def run(self, net: nn.Module, batch: Any) -> Result:
        """Run a net on a batch, without the loss function."""
        if self.forward is not None:
            return _returned(self.forward(net, batch))
        if isinstance(batch, Mapping):
            return self._run_on_dictionary(net, moved(batch, net))
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            x, target = moved(batch, net)
            return Result(_output(net, x), target)
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(f"fine_tune: the loader yielded a {type(batch).__name__}{size}. {_TAKES}")

    def _run_on_dictionary(self, net: nn.Module, batch: Mapping[str, Any]) -> Result:
        named = keywords(net, batch)
        if named is None:
            raise TypeError(
                f"fine_tune: the batch is a dictionary of {', '.join(map(str, batch))}, but forward of "
                f"{type(net).__name__} takes {_names(signature_of(net))}. {_TAKES}"
            )
        output = net(**named)
        loss = _computed_loss(output)
        if loss is None and "labels" not in batch:
            raise TypeError(
                f"fine_tune: the batch is a dictionary of {', '.join(map(str, batch))} without 'labels', and the net "
                f"computes no loss. {_TAKES}"
            )
        if loss is not None and self.loss is not F.cross_entropy:
            raise ValueError(
                "fine_tune: loss is given, but the net computes its own loss of the batch. Leave loss out, or pass "
                "forward=lambda net, batch: (net(...), target) to use it"
            )
        return Result(output, batch.get("labels"), loss)

    def _own_loss(self, result: Result) -> Tensor:
        output = self._logits(result) if self.loss is F.cross_entropy else result.output
        value = self.loss(output, result.target)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = (
                f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            )
            raise TypeError(f"fine_tune: loss returned {found}; it must return a tensor of one element, such as a mean")
        return value

    @staticmethod
    def _logits(result: Result) -> Tensor:
        output = result.output
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if isinstance(found, Tensor):
            return found
        raise TypeError(
            f"fine_tune: the output is a {type(output).__name__}, but the default loss and distillation need a tensor "
            "or its logits. Pass loss=, or forward=lambda net, batch: (output, target) with a tensor as output"
        )


def _returned(value: Any) -> Result:
    """What the user's ``forward`` returned, or the output of a net that computes its loss."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return Result(loss=value)
    loss = None if isinstance(value, (tuple, list)) else _computed_loss(value)
    if loss is not None:
        return Result(value, None, loss)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        loss = _computed_loss(value)
        if loss is not None and loss.requires_grad and isinstance(value[1], Tensor) and value[1].dim() > 0:
            raise TypeError(
                "fine_tune: forward returned a tensor of one element and another tensor, as (loss, logits); it must "
                "return the loss alone, or (output, target), of which loss(output, target) is computed"
            )
        return Result(*value)
    shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
    raise TypeError(
        f"fine_tune: forward returned a {type(value).__name__}{shape}; it must return the loss, a tensor of one "
        "element, or (output, target), of which loss(output, target) is computed"
    )


def _computed_loss(output: Any) -> Tensor | None:
    """The loss in the output of a net that computes it, as those of Hugging Face do if they get labels."""
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif isinstance(output, (tuple, list)):
        loss = output[0] if output and isinstance(output[0], Tensor) and output[0].dim() == 0 else None
    else:
        loss = None if isinstance(output, Tensor) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _output(net: nn.Module, x: Any) -> Any:
    try:
        return run(net, x)
    except TypeError as error:
        signature = signature_of(net)
        if signature is None or binds(signature, x) or isinstance(x, Mapping):
            raise
        raise TypeError(
            f"fine_tune: net(input) failed ({error}): forward of {type(net).__name__} takes {_names(signature)}, "
            f"and the input of the batch is one {type(x).__name__}. {_TAKES}"
        ) from error


def _names(signature: inspect.Signature | None) -> str:
    return f"({', '.join(signature.parameters if signature else ())})"
