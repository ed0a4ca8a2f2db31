"""Analog counterpart of ``nn.MultiheadAttention``."""

from __future__ import annotations

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.construction import counterpart
from phasegrad.nn.inputs import check_input
from phasegrad.nn.linear import AnalogLinear


@final
class AnalogMultiheadAttention(AnalogComposite):
    """``nn.MultiheadAttention`` whose projections are computed in crossbar tiles.

    If queries, keys and values have the same size, their projections are columns of one matrix, ``in_proj``. In
    self-attention one input on the word lines computes all three; in cross-attention the columns of each projection are
    read with their own input. With different sizes each projection is a separate matrix. Scores, softmax and weighted
    sums are digital: both factors of these products change with every input, and devices cannot be rewritten that
    often.

    Inputs are ``[length, batch, size]``, ``[batch, length, size]`` with ``batch_first``, or ``[length, size]``.

    Args:
        embed_dim: size of queries and outputs.
        num_heads: number of heads; each has size ``embed_dim / num_heads``.
        dropout: probability of dropping an attention weight in training.
        bias: whether the projections have biases; biases are digital.
        add_bias_kv: whether a learned key and value are appended.
        add_zero_attn: whether a key and a value of zeros are appended.
        kdim: size of keys; ``None`` for ``embed_dim``.
        vdim: size of values; ``None`` for ``embed_dim``.
        batch_first: whether inputs are ``[batch, length, size]`` instead of ``[length, batch, size]``.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Raises:
        TypeError: ``hardware`` is not a [`Hardware`][phasegrad.Hardware].
        ValueError: ``embed_dim`` is not divisible by ``num_heads``, or a size is out of range.

    Examples:
        >>> import torch, phasegrad as pg
        >>> attention = AnalogMultiheadAttention(16, 4, batch_first=True, hardware=pg.presets.pcm_inference())
        >>> x = torch.randn(2, 5, 16)
        >>> [tuple(y.shape) for y in attention(x, x, x)]
        [(2, 5, 16), (2, 5, 5)]
    """

    digital_part = "scores and weighted values are products of two activations, which no device stores"
    _options = (
        "embed_dim", "kdim", "vdim", "num_heads", "dropout", "batch_first", "head_dim", "add_zero_attn",
    )  # fmt: skip
    # A fused transformer would bypass this module in evaluation; torch does not take that path if this is False.
    _qkv_same_embed_dim = False

    embed_dim: int
    kdim: int
    vdim: int
    num_heads: int
    dropout: float
    batch_first: bool
    head_dim: int
    add_zero_attn: bool
    out_proj: AnalogLinear
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, nn.MultiheadAttention, hardware, embed_dim=embed_dim, num_heads=num_heads, dropout=dropout, bias=bias,
            add_bias_kv=add_bias_kv, add_zero_attn=add_zero_attn, kdim=kdim, vdim=vdim, batch_first=batch_first,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _make_layers(self, digital: nn.Module) -> None:
        for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
            weight = digital._parameters[f"{name}_weight"]
            self.register_module(name, None if weight is None else self._linear(weight, None))
        self.register_parameter("in_proj_bias", digital.in_proj_bias)  # type: ignore[arg-type]
        out: dict[str, Any] = digital.get_submodule("out_proj")._parameters
        self.out_proj = self._linear(out["weight"], out["bias"])
        self.register_parameter("bias_k", digital.bias_k)  # type: ignore[arg-type]
        self.register_parameter("bias_v", digital.bias_v)  # type: ignore[arg-type]

    @property
    def _key_map(self) -> dict[str, str]:
        names = ("in_proj",) if self._modules["in_proj"] is not None else ("q_proj", "k_proj", "v_proj")
        own = ("in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias")
        return {f"{name}_weight": f"{name}.weight" for name in names} | {name: name for name in own}

    def _make_digital(self) -> nn.Module:
        bias, bias_kv = self.in_proj_bias is not None, self.bias_k is not None
        options = (self.dropout, bias, bias_kv, self.add_zero_attn, self.kdim, self.vdim, self.batch_first)
        return nn.MultiheadAttention(self.embed_dim, self.num_heads, *options, device="meta")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Compute outputs and attention weights; arguments and results are those of torch.

        Raises:
            ValueError: an input is a nested tensor, ``is_causal`` is set without ``attn_mask``, or the shapes of inputs
                and masks do not match.
        """
        if any(isinstance(given, Tensor) and given.is_nested for given in (query, key, value)):
            raise ValueError(
                "AnalogMultiheadAttention: nested tensors are not supported; pad the inputs and pass key_padding_mask"
            )
        for given in (query, key, value):
            check_input(self, given, self.out_proj.weight, "of three dimensions, or of two without a batch")
        if is_causal and attn_mask is None:
            raise ValueError(
                "AnalogMultiheadAttention: is_causal = True is only a hint about attn_mask; pass attn_mask as well"
            )
        batched = self._check_dimensions(query, key, value, key_padding_mask, attn_mask)
        self._check_shapes(batched, query, key, value, key_padding_mask, attn_mask)
        q, k, v = self._split_heads(batched, *self._project(query, key, value))
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._merge_masks(q, attn_mask, key_padding_mask)
        k, v, mask = self._append_extra_keys(k, v, mask)
        y, weights = self._attend(q, k, v, mask, causal, need_weights)
        y = self.out_proj(self._merge_heads(y, batched))
        if weights is None:
            return y, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return y, weights if batched else weights.squeeze(0)

    def _check_dimensions(self, *inputs: Tensor | None) -> bool:
        """Whether the inputs have a batch; raise if torch refuses their numbers of dimensions."""
        try:
            return F._mha_shape_check(*inputs, self.num_heads)  # type: ignore[attr-defined]
        except AssertionError as error:
            raise ValueError(f"AnalogMultiheadAttention: {error}") from error

    def _check_shapes(
        self, batched: bool, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> None:  # fmt: skip
        """Raise for shapes that torch refuses, which would be broadcast here."""
        length_axis, batch_axis = (-2, 0) if self.batch_first or not batched else (0, 1)
        queries, keys = query.shape[length_axis], key.shape[length_axis]
        batch = query.shape[batch_axis] if batched else 1
        leading = ([batch, keys] if self.batch_first else [keys, batch]) if batched else [keys]
        shapes: list[tuple[str, Tensor | None, list[list[int]]]] = [
            ("key", key, [[*leading, self.kdim]]),
            ("value", value, [[*leading, self.vdim]]),
            ("key_padding_mask", padding, [[batch, keys] if batched else [keys]]),
            ("attn_mask", mask, [[queries, keys], [batch * self.num_heads, queries, keys]]),
        ]
        for name, given, allowed in shapes:
            if given is not None and list(given.shape) not in allowed:
                raise ValueError(
                    f"AnalogMultiheadAttention: {name} has shape {list(given.shape)}; with a query of shape "
                    f"{list(query.shape)} it must be {' or '.join(map(str, allowed))}"
                )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._projections(query, key, value)
        if self.in_proj_bias is None:
            return q, k, v
        q_bias, k_bias, v_bias = self.in_proj_bias.chunk(3)
        return q + q_bias, k + k_bias, v + v_bias

    def _projections(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        packed: Any = self._modules["in_proj"]
        size = self.embed_dim
        if packed is None:
            inputs = {"q_proj": query, "k_proj": key, "v_proj": value}
            return tuple(self.get_submodule(name)(x) for name, x in inputs.items())
        if query is key and key is value:
            return packed(query).chunk(3, dim=-1)
        weights = packed.read()  # one read of the devices serves all inputs
        q = packed(query, weights, slice(size))
        if key is value:
            return q, *packed(key, weights, slice(size, 3 * size)).chunk(2, dim=-1)
        return q, packed(key, weights, slice(size, 2 * size)), packed(value, weights, slice(2 * size, 3 * size))

    def _split_heads(self, batched: bool, *projected: Tensor) -> tuple[Tensor, ...]:
        """Reshape each projection to ``[batch, heads, length, head_dim]``."""
        split = (x.unflatten(-1, (self.num_heads, self.head_dim)) for x in projected)
        if not batched:
            return tuple(x.transpose(0, 1).unsqueeze(0) for x in split)
        return tuple(x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3) for x in split)

    def _merge_heads(self, y: Tensor, batched: bool) -> Tensor:
        """Reshape ``[batch, heads, length, head_dim]`` to the layout of the query."""
        if not batched:
            return y.squeeze(0).transpose(0, 1).flatten(1)
        return (y.transpose(1, 2) if self.batch_first else y.permute(2, 0, 1, 3)).flatten(2)

    def _merge_masks(self, q: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
        """One mask to add to the scores, ``[batch or 1, heads or 1, queries or 1, keys]``, from both masks."""
        other = F._none_or_dtype(attn_mask)
        padding = F._canonical_mask(key_padding_mask, "key_padding_mask", other, "attn_mask", q.dtype)
        mask = F._canonical_mask(attn_mask, "attn_mask", None, "", q.dtype, check_other=False)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        if padding is None:
            return mask
        padding = padding[:, None, None]
        return padding if mask is None else mask + padding

    def _append_extra_keys(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append the keys and values of ``add_bias_kv`` and ``add_zero_attn``, which are never masked."""
        extra = []
        if self.bias_k is not None and self.bias_v is not None:
            extra.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            zero = k.new_zeros(1, 1, self.embed_dim)
            extra.append((zero, zero))
        for key, value in extra:
            a, b = (x.view(1, self.num_heads, 1, -1).expand(len(k), -1, -1, -1) for x in (key, value))
            k, v = torch.cat([k, a], dim=2), torch.cat([v, b], dim=2)
            mask = None if mask is None else F.pad(mask, (0, 1))
        return k, v, mask

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = q * math.sqrt(1.0 / self.head_dim) @ k.transpose(-2, -1)
        weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        return weights @ v, weights
