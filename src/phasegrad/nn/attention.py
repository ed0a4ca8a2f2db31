"""Analog counterpart of ``nn.MultiheadAttention``."""

from __future__ import annotations

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.linear import AnalogLinear


@final
class AnalogMultiheadAttention(AnalogComposite):
    """``nn.MultiheadAttention`` whose projections are computed in crossbar tiles.

    Where queries, keys and values have one size their projections are columns of one matrix, ``in_proj``: in
    self-attention one drive of the word lines reads all three. Otherwise, and in cross-attention, the columns that
    belong to an input are read with that input on the lines. Scores, softmax and weighted sums are digital: both
    factors of these products change with every input, and devices are not written at that rate.

    Args:
        embed_dim: as in torch, as are all that follow.
        num_heads: number of heads, each of ``embed_dim / num_heads``.
        dropout: of attention weights, in training.
        bias: of all projections, digital.
        add_bias_kv: add a learned key and value.
        add_zero_attn: add a key and a value of zeros.
        kdim: size of keys.
        vdim: size of values.
        batch_first: inputs are ``[batch, length, size]`` and not ``[length, batch, size]``.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Examples:
        >>> import torch, phasegrad as pg
        >>> attention = AnalogMultiheadAttention(16, 4, batch_first=True, hardware=pg.presets.pcm_inference())
        >>> x = torch.randn(2, 5, 16)
        >>> [tuple(y.shape) for y in attention(x, x, x)]
        [(2, 5, 16), (2, 5, 5)]
    """

    digital_part = "scores and weighted values multiply activations with activations; no device holds either"
    _options = (
        "embed_dim", "kdim", "vdim", "num_heads", "dropout", "batch_first", "head_dim", "add_zero_attn",
    )  # fmt: skip
    # In evaluation a fused transformer would read the weights past this module; so it finds that it must not.
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
        options = (dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype)
        self._adopt(nn.MultiheadAttention(embed_dim, num_heads, *options), hardware)

    def _take(self, digital: nn.Module) -> None:
        for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
            weight = digital._parameters[f"{name}_weight"]
            self.register_module(name, None if weight is None else self._linear(weight, None))
        self.register_parameter("in_proj_bias", digital.in_proj_bias)  # type: ignore[arg-type]
        out: dict[str, Any] = digital.get_submodule("out_proj")._parameters
        self.out_proj = self._linear(out["weight"], out["bias"])
        self.register_parameter("bias_k", digital.bias_k)  # type: ignore[arg-type]
        self.register_parameter("bias_v", digital.bias_v)  # type: ignore[arg-type]

    @property
    def _keys(self) -> dict[str, str]:
        names = ("in_proj",) if self._modules["in_proj"] is not None else ("q_proj", "k_proj", "v_proj")
        own = ("in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias")
        return {f"{name}_weight": f"{name}.weight" for name in names} | {name: name for name in own}

    def _digital(self) -> nn.Module:
        bias, bias_kv = self.in_proj_bias is not None, self.bias_k is not None
        options = (self.dropout, bias, bias_kv, self.add_zero_attn, self.kdim, self.vdim, self.batch_first)
        return nn.MultiheadAttention(self.embed_dim, self.num_heads, *options, device="meta")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Outputs and attention weights; arguments and results as in torch.

        Raises:
            ValueError: an input is nested, a causal hint comes without its mask, or inputs or masks have shapes that do
                not belong together.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError("AnalogMultiheadAttention: nested tensors are not supported; pad them, and give masks")
        if is_causal and attn_mask is None:
            raise ValueError("AnalogMultiheadAttention: is_causal = True is a hint about attn_mask; give the mask too")
        batched: bool = F._mha_shape_check(  # type: ignore[attr-defined]
            query, key, value, key_padding_mask, attn_mask, self.num_heads
        )
        self._check_shapes(batched, query, key, value, key_padding_mask, attn_mask)
        q, k, v = self._heads(batched, *self._project(query, key, value))
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else self._mask(q, attn_mask, key_padding_mask)
        k, v, mask = self._extended(k, v, mask)
        y, weights = self._attend(q, k, v, mask, hinted, need_weights)
        y = self.out_proj(self._joined(y, batched))
        if weights is None:
            return y, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return y, weights if batched else weights.squeeze(0)

    def _check_shapes(
        self, batched: bool, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> None:  # fmt: skip
        """What torch refuses is not broadcast here."""
        along, across = (-2, 0) if self.batch_first or not batched else (0, 1)
        queries, keys, batch = query.shape[along], key.shape[along], query.shape[across] if batched else 1
        places = ([batch, keys] if self.batch_first else [keys, batch]) if batched else [keys]
        shapes: list[tuple[str, Tensor | None, list[list[int]]]] = [
            ("key", key, [[*places, self.kdim]]),
            ("value", value, [[*places, self.vdim]]),
            ("key_padding_mask", padding, [[batch, keys] if batched else [keys]]),
            ("attn_mask", mask, [[queries, keys], [batch * self.num_heads, queries, keys]]),
        ]
        for name, tensor, allowed in shapes:
            if tensor is not None and list(tensor.shape) not in allowed:
                raise ValueError(
                    f"AnalogMultiheadAttention: {name} has shape {list(tensor.shape)}; beside a query of "
                    f"{list(query.shape)} it must be {' or '.join(map(str, allowed))}"
                )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._products(query, key, value)
        if self.in_proj_bias is None:
            return q, k, v
        a, b, c = self.in_proj_bias.chunk(3)
        return q + a, k + b, v + c

    def _products(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        packed: Any = self._modules["in_proj"]
        size = self.embed_dim
        if packed is None:
            inputs = {"q_proj": query, "k_proj": key, "v_proj": value}
            return tuple(self.get_submodule(name)(x) for name, x in inputs.items())
        if query is key and key is value:
            return packed(query).chunk(3, dim=-1)
        weights = packed.read()  # one read of the devices, whatever is driven through them
        q = packed(query, weights, slice(size))
        if key is value:
            return q, *packed(key, weights, slice(size, 3 * size)).chunk(2, dim=-1)
        return q, packed(key, weights, slice(size, 2 * size)), packed(value, weights, slice(2 * size, 3 * size))

    def _heads(self, batched: bool, *projected: Tensor) -> tuple[Tensor, ...]:
        """Each as ``[batch, heads, length, size of a head]``."""
        split = (x.unflatten(-1, (self.num_heads, self.head_dim)) for x in projected)
        if not batched:
            return tuple(x.transpose(0, 1).unsqueeze(0) for x in split)
        return tuple(x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3) for x in split)

    def _joined(self, y: Tensor, batched: bool) -> Tensor:
        """The way back, as ``[batch, length, embed_dim]`` or as the input was."""
        if not batched:
            return y.squeeze(0).transpose(0, 1).flatten(1)
        return (y.transpose(1, 2) if self.batch_first else y.permute(2, 0, 1, 3)).flatten(2)

    def _mask(self, q: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
        """Both masks as one to add to scores, ``[batch or 1, heads or 1, queries or 1, keys]``."""
        other = F._none_or_dtype(attn_mask)
        padding = F._canonical_mask(key_padding_mask, "key_padding_mask", other, "attn_mask", q.dtype)
        mask = F._canonical_mask(attn_mask, "attn_mask", None, "", q.dtype, check_other=False)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        if padding is None:
            return mask
        padding = padding[:, None, None]
        return padding if mask is None else mask + padding

    def _extended(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with those that the options add; every query sees them."""
        more = []
        if self.bias_k is not None and self.bias_v is not None:
            more.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            zero = k.new_zeros(1, 1, self.embed_dim)
            more.append((zero, zero))
        for key, value in more:
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

    def extra_repr(self) -> str:
        """The counterpart's options."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
