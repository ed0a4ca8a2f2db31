"""A weight that is stored on devices and trained in memory.

The parameter that a layer registers is a copy of the devices' weight. It never has a dense gradient: the backward pass
stages inputs and output gradients, which [`AnalogSGD`][phasegrad.optim.AnalogSGD] converts to pulses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, final

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from phasegrad.crossbar.patches import Patches
from phasegrad.crossbar.streams import draw_seed
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.fixed_cells import check_mask, fixed_cells, why_not_fixed
from phasegrad.stores.layout import OUTPUTS_FIRST, Layout
from phasegrad.stores.staged_gradient import TRAINING_ADVICE, Samples, Staged, StagedGradient
from phasegrad.stores.watched_weight import WatchedWeight

_TENSOR_GRAD: Any = torch.Tensor.grad  # the attribute of torch, which the property of InMemoryWeight hides


@final
class InMemoryWeight(WatchedWeight):
    """A parameter whose value is a copy of the weight that its devices store.

    Attributes:
        devices: the devices.
        matrix_layout: layout that converts the parameter to a matrix ``[out, in]``.
        replicated: whether an optimizer applies the same pulses to it in several processes.
        grad: samples staged for the next update, or ``None``.
        mask: bool tensor in the shape of the weight, true where the weight is trained; ``None`` to train all of it. No
            optimizer pulses the devices of the other weights. It is saved in the state dict.
    """

    devices: AnalogWeight  # pyright: ignore[reportIncompatibleVariableOverride]
    matrix_layout: Layout
    replicated: bool
    _staged: Staged | None

    def __new__(cls, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> InMemoryWeight:
        """Wrap ``data``, the present value of the devices."""
        weight = cls.wrap(data, devices, True)
        weight.matrix_layout, weight.replicated, weight._staged = layout, False, None
        weight.register_post_accumulate_grad_hook(_take_gradient)
        return weight

    def __init__(self, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> None:
        pass

    @property
    def grad(self) -> StagedGradient | None:
        """The staged samples, or ``None``."""
        return None if self._staged is None else self._gradient(self._staged, shown=True)

    @grad.setter
    def grad(self, value: StagedGradient | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if not (value is None or isinstance(value, StagedGradient)):
            raise RuntimeError(
                "an in-memory weight has no dense gradient, so only None or staged samples can be assigned to .grad. "
                f"{TRAINING_ADVICE}"
            )
        self._staged = None if value is None else value.staged

    def _gradient(self, staged: Staged, *, shown: bool = False) -> StagedGradient:
        return StagedGradient(staged, self.shape, self.dtype, self.device, shown=shown)

    @property
    def pending(self) -> Staged | None:
        """The staged samples as ``grad`` shows them, without the form of a tensor, or ``None``."""
        return self._staged

    @property
    def mask(self) -> Tensor | None:
        """Where the weight is trained, or ``None``."""
        mask = self.devices.mask
        return None if mask is None else self.matrix_layout.weight(mask, self.shape).clone()

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        if mask is not None:
            trained = check_mask(mask, self.shape, self.devices).to(self.device)
            mask = self.matrix_layout.matrix(trained).clone()
        self.devices.register_buffer("mask", mask)

    @property
    def trained_cells(self) -> Tensor | None:
        """The cells ``[out, in]`` that ``mask`` and the mask of the staged gradient release; ``None``: all."""
        fixed, staged = self.devices.mask, None if self._staged is None else self._staged.mask
        if staged is None:
            return fixed
        cells = self.matrix_layout.matrix(staged)
        return cells if fixed is None else fixed & cells

    def stage(self, x: Tensor, d: Tensor, patches: Patches | None = None) -> None:
        """Stage the samples of a backward pass for the next update; see ``Samples``."""
        if self._staged is None:
            self._staged = Staged((), self.shape, self.matrix_layout)
        if self._staged.mask is None:
            self._staged.samples.append(Samples(x, d, patches))
        else:
            self.accumulate(Staged([Samples(x, d, patches)], self.shape, self.matrix_layout))

    def accumulate(self, staged: Staged) -> None:
        """Add the samples of a backward pass, with their mask, to those for the next update."""
        self._staged = staged if self._staged is None else self._staged.plus(staged)

    def gradient(self, node: Any, x: Tensor, d: Tensor, patches: Patches | None = None) -> StagedGradient | None:
        """The gradient that a backward pass returns for the weight.

        Where nobody looks at the gradient, it is staged here and ``None`` is returned, which is faster.

        Args:
            node: the node of autograd that accumulates the gradient of the weight.
            x: inputs of the samples.
            d: output gradients of the samples.
            patches: division of images into samples, or ``None``.
        """
        wanted = _engine_wants(node)
        if not wanted:
            return None
        x, d = x.detach(), d.detach()
        if wanted == "accumulated" and not self._backward_hooks:
            self.stage(x, d, patches)
            return None
        _TENSOR_GRAD.__set__(self, None)
        return self._gradient(Staged([Samples(x, d, patches)], self.shape, self.matrix_layout))

    def replace_staged(self, staged: Staged | None) -> Staged | None:
        """Replace the staged samples with others, or with none, and return them."""
        before, self._staged = self._staged, staged
        return before

    def staged(self, *, use: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """All staged samples, block by block; see ``Staged.blocks``."""
        assert self._staged is not None
        return self._staged.blocks(use=use)

    def read(self, seed: Tensor | None = None) -> Tensor:
        """The weight ``[out, in]`` as one read of the devices sees it, without gradient.

        Args:
            seed: seed of the read; ``None`` to draw one if reads are noisy.
        """
        devices = self.devices
        if not devices.reads_are_noisy:
            return self.matrix_layout.matrix(self.memory)
        seed = draw_seed(self.device) if seed is None else seed
        return devices.read_weight(seed).to(self.dtype)

    @property
    def matrix_size(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix."""
        return self.matrix_layout.size(self.shape)

    def apply_pulses(self, pulses: Callable[..., None], *arguments: Any) -> None:
        """Send pulses to the devices and update the value of this parameter.

        Args:
            pulses: a function of ``phasegrad.stores.pulsed_weight``, called as ``pulses(devices, *arguments, value)``.
            arguments: its arguments between the devices and the value ``[out, in]``.
        """
        was_current, value = self.is_unwritten, self.matrix_layout.matrix(self.memory)
        trained = self.trained_cells
        try:
            if trained is None:
                pulses(self.devices, *arguments, value)
            else:
                with fixed_cells(self.devices, ~trained):
                    pulses(self.devices, *arguments, value)
                value.copy_(self.devices.logical_weight())
        except BaseException:
            value.copy_(self.devices.logical_weight())  # the truth, wherever the update stopped
            self._write_back(value, was_current)
            raise
        self._write_back(value, was_current)

    def _write_back(self, value: Tensor, was_current: bool) -> None:
        """Take over what pulses have made of the matrix ``[out, in]``."""
        if value.data_ptr() != self.data_ptr():  # the matrix is a copy: write it back
            with torch.no_grad():
                self.copy_(self.matrix_layout.weight(value, self.shape))
        if was_current:
            self.mark_current()

    def like(self, data: Tensor, devices: AnalogWeight | None) -> InMemoryWeight:
        """A weight of the same layout with another value, on other devices, without staged samples."""
        assert devices is not None
        copied = InMemoryWeight(data, devices, self.matrix_layout)
        copied.replicated = self.replicated
        return copied.requires_grad_(self.requires_grad)  # type: ignore[return-value]

    def _as_parameter(self) -> NoReturn:
        raise RuntimeError(
            "nn.Parameter(weight): this weight is trained in memory, so another parameter cannot stand for it. Write "
            "nn.Parameter(weight.detach().clone()) for a copy of its value; parametrize the digital model, before "
            "converting it"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Value, devices, mask included, and layout, without staged samples."""
        return _restored, (self.memory, self.devices, self.requires_grad, self.matrix_layout)


def _engine_wants(node: Any) -> str | None:
    """What this backward pass does with a gradient at ``node``: ``"accumulated"``, ``"returned"``, or ``None``."""
    try:
        return "accumulated" if torch._C._will_engine_execute_node(node) else None
    except RuntimeError:  # torch.autograd.grad with respect to the weight
        return "returned"


def _take_gradient(weight: Any) -> None:
    """Stage the gradient that autograd has accumulated, so that torch itself, DDP included, sees no gradient.

    Raises:
        RuntimeError: the gradient is dense, or it has a mask that the hardware cannot obey.
    """
    gradient = _TENSOR_GRAD.__get__(weight)
    if gradient is None:  # the samples are staged already
        return
    _TENSOR_GRAD.__set__(weight, None)
    if not isinstance(gradient, StagedGradient):
        if not bool(gradient.any()):  # DDP leaves zeros on weights that it was not told to ignore
            return
        raise RuntimeError(
            "an in-memory weight was used outside its layer, for example in a weight penalty, and received a dense "
            f"gradient, or a hook returned one. {TRAINING_ADVICE}. Leave the weight out of the loss, or detach it "
            "there; a hook may return its argument times a number or a mask"
        )
    reason = None if gradient.staged.mask is None else why_not_fixed(weight.devices)
    if reason is not None:
        raise RuntimeError(f"a hook returned a masked gradient of an in-memory weight, but {reason}")
    weight.accumulate(gradient.staged)


def _restored(
    data: Tensor, devices: AnalogWeight, requires_grad: bool, layout: Layout = OUTPUTS_FIRST
) -> InMemoryWeight:
    return InMemoryWeight(data, devices, layout).requires_grad_(requires_grad)  # type: ignore[return-value]


def _refuse_other_optimizers(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if getattr(optimizer, "pulses_devices", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, InMemoryWeight) and parameter.requires_grad:
                raise RuntimeError(f"{type(optimizer).__name__} cannot step an in-memory weight. {TRAINING_ADVICE}")


register_optimizer_step_pre_hook(_refuse_other_optimizers)
