"""The ops on the CPU, through the C++ kernels; float32 alone, every other dtype goes to the reference."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import memory, pulses, reference
from phasegrad.ops.native import library


def _call(name: str, *arguments: Any) -> None:
    getattr(library, f"pg_{name}")(*arguments, torch.get_num_threads())


def _floats(*tensors: Tensor) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _doubles(values: Sequence[float]) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(values))(*values)


def normal(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    out = torch.empty(tuple(size), dtype=torch.float32)
    _call("normal", out.data_ptr(), out.numel(), int(seed), offset)
    return out


def uniform(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    out = torch.empty(tuple(size), dtype=torch.float32)
    _call("uniform", out.data_ptr(), out.numel(), int(seed), offset)
    return out


def dac(x: Tensor, range: Tensor, half: float, decay: float, keep: float) -> Tensor:
    if not _floats(x, range):
        return reference.dac(x, range, half, decay, keep)
    x, range, out = x.contiguous(), range.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = range.numel()
    inner = x.numel() // rows if rows else 0
    _call("dac", out.data_ptr(), x.data_ptr(), range.data_ptr(), rows, inner, int(rows > 1), half)
    return out


def dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> tuple[Tensor, Tensor]:
    if not _floats(grad, x, range) or range.numel() != 1:
        return reference.dac_backward(grad, x, range, decay, keep)
    grad, x = grad.contiguous(), x.contiguous()
    grad_x, grad_range = torch.empty_like(x), torch.zeros(range.shape, dtype=torch.float64)
    _call(
        "dac_backward", grad_x.data_ptr(), grad_range.data_ptr(), grad.data_ptr(), x.data_ptr(), float(range),
        x.numel(), decay, keep,
    )  # fmt: skip
    return grad_x, grad_range.float()


def adc(
    y: Sequence[Tensor],
    v: Sequence[Tensor],
    scale: Tensor,
    gain: Tensor | None,
    input_range: Tensor,
    bound: Tensor,
    seed: Tensor,
    offset: int,
    output_noise: float,
    read_noise: float,
    mode: int,
    half: float,
) -> tuple[Tensor, Tensor]:
    if not _floats(*y, *v, scale, input_range, bound, *([] if gain is None else [gain])):
        return reference.adc(y, v, scale, gain, input_range, bound, seed, offset, output_noise, read_noise, mode, half)
    y, v = [t.contiguous() for t in y], [t.contiguous() for t in v]
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    out = torch.empty(y[0].shape, dtype=torch.float32)
    code = torch.empty((len(y), *out.shape) if mode else (0,), dtype=torch.int8)
    noise = (output_noise, read_noise, float(bound), mode, half, int(seed))
    _convert(out, code, y, v, columns, 0, noise, offset)
    return out, code


def _convert(
    out: Tensor,
    code: Tensor,
    y: Sequence[Tensor],
    v: Sequence[Tensor],
    columns: tuple[Tensor, Tensor | None, Tensor],
    first: int,
    settings: tuple[Any, ...],
    offset: int,
    units: Sequence[Tensor] = (),
) -> None:
    """Convert tiles ``first``, ``first + 1``, ...; what they give is added to ``out``, or opens it.

    With ``units``, ``[tiles, rows]`` and ``[tiles, channels]``, ``v`` holds integers that count their product.
    """
    scale, gain, input_range = columns
    rows, channels = units or (None, None)
    _call(
        "adc", out.data_ptr(), code[first].data_ptr() if code.dim() > 1 else None, _pointers(y),
        _pointers(v) if v else None, *_optional(rows, channels, first=first), scale[first].data_ptr(),
        None if gain is None else gain[first].data_ptr(),
        input_range.data_ptr(), len(y), out.shape[0], out.shape[1], math.prod(out.shape[2:]),
        int(input_range.numel() > 1), int(first > 0), *settings, offset + first,
    )  # fmt: skip


def adc_backward(grad: Tensor, code: Tensor) -> Tensor:
    if not _floats(grad):
        return reference.adc_backward(grad, code)
    grad, code = grad.contiguous(), code.contiguous()
    out = torch.empty(code.shape, dtype=torch.float32)
    for part, tile in zip(out, code, strict=True):
        _call("adc_backward", part.data_ptr(), grad.data_ptr(), tile.data_ptr(), grad.numel())
    return out


def weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> tuple[Tensor, Tensor]:
    if not _floats(w):
        return reference.weight_scale(w, rows, columns, per_column, clip_sigma, clip_per_channel)
    w = w.contiguous()
    out_features, in_features = w.shape
    scale = torch.empty((-(-in_features // rows), out_features), dtype=torch.float32)
    clip = torch.empty(out_features, dtype=torch.float32)
    _call(
        "weight_scale", scale.data_ptr(), clip.data_ptr(), w.data_ptr(), out_features, in_features, rows, columns,
        int(per_column), clip_sigma, int(clip_per_channel),
    )  # fmt: skip
    return scale, clip


def noisy_weights(
    w: Tensor,
    scale: Tensor,
    clip: Tensor,
    level: Tensor,
    seed: Tensor,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop: float,
) -> Tensor:
    if not _floats(w, scale, clip):
        return reference.noisy_weights(w, scale, clip, level, seed, offset, rows, noise, drop)
    return _perturbed(w.new_empty(w.shape), w, scale, clip, float(level), int(seed), offset, rows, noise, drop)


def _perturbed(
    out: Tensor, w: Tensor, scale: Tensor, clip: Tensor, level: float, seed: int, offset: int, rows: int,
    noise: Sequence[float], drop: float,
) -> Tensor:  # fmt: skip
    w, scale, clip = w.contiguous(), scale.contiguous(), clip.contiguous()
    _call(
        "noisy_weights", out.data_ptr(), w.data_ptr(), scale.data_ptr(), clip.data_ptr(), *w.shape, rows, level,
        *noise, drop, seed, offset,
    )  # fmt: skip
    return out


def noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> Tensor:
    if not _floats(grad, w, clip):
        return reference.noisy_weights_backward(grad, w, clip)
    out = grad.clone(memory_format=torch.contiguous_format)
    _straight_through(out, w.contiguous(), clip.contiguous())
    return out


def _straight_through(grad: Tensor, w: Tensor, clip: Tensor) -> None:
    """Take from a gradient, in place, what would push clipped weights further out."""
    _call("noisy_weights_backward", grad.data_ptr(), w.data_ptr(), clip.data_ptr(), *w.shape)


def _together(tiles: int, whole: int, outputs: int) -> list[slice]:
    """Tiles to be multiplied in one call: many if they are small, then one at a time, which fits the cache.

    The ``whole`` first tiles have all their rows; one that has not is multiplied alone.
    """
    step = max(1, _CACHED // max(outputs, 1))
    starts = [*range(0, whole, step), *range(whole, tiles)]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], tiles], strict=True)]


_CACHED = 1 << 18  # outputs, which are then read from the second-level cache


def _by_tile(matrix: Tensor, tiles: slice, rows: int) -> Tensor:
    """Columns of a matrix as ``[tiles, rows of the matrix, columns of one tile]``."""
    columns = matrix[:, tiles.start * rows : tiles.stop * rows]
    count = tiles.stop - tiles.start
    return columns.unsqueeze(0) if count == 1 else columns.unflatten(1, (count, -1)).transpose(0, 1)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """For small products side by side in one matrix: as a batch of its own they run at once, there one by one."""
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        out.copy_(torch.bmm(a, b))


def tile_linear(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    clip: Tensor | None,
    level: Tensor | None,
    gain: Tensor | None,
    input_range: Tensor,
    bound: Tensor,
    seed: Tensor,
    weight_offset: int,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop: float,
    output_noise: float,
    read_noise: float,
    mode: int,
    half: float,
) -> tuple[Tensor, Tensor, Tensor]:
    settings = (output_noise, read_noise, mode, half)
    if not _floats(x, w, scale, input_range, bound, *(t for t in (clip, gain) if t is not None)):
        arguments = (x, w, scale, clip, level, gain, input_range, bound, seed, weight_offset, offset, rows, noise, drop)
        return reference.tile_linear(*arguments, *settings)
    read = w
    if clip is not None and level is not None:
        strength = float(level)
        room = memory.for_read(w) if strength else w.new_empty(w.shape)  # evaluation keeps nothing
        read = _perturbed(room, w, scale, clip, strength, int(seed), weight_offset, rows, noise, drop)
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    conversion = (output_noise, read_noise, float(bound), mode, half, int(seed))
    tiles, out = len(scale), x.new_empty(x.shape[0], w.shape[0])
    code = x.new_empty((tiles, *out.shape) if mode else (0,), dtype=torch.int8)
    groups = _together(tiles, w.shape[1] // rows, out.numel())
    y = memory.scratch("outputs", torch.float32, groups[0].stop, *out.shape)
    v = memory.scratch("variances", torch.float32, *y.shape) if read_noise > 0 else y[:0]
    variance = _Variance(x, read, rows) if read_noise > 0 else None
    integers = None
    if len(x) >= _MANY and _large(x, w, rows):
        integers = _Integers.of_levels(x, read, rows, columns[2])
    for group in groups:
        count = group.stop - group.start
        inputs, weights = _by_tile(x, group, rows), _by_tile(read, group, rows).transpose(1, 2)
        if integers is None:
            _multiply(inputs, weights, y[:count])
        else:
            integers.multiply(group, y[:count])
        if variance is not None:
            variance.of(group, v[:count])
        units = variance.units if variance is not None else ()
        _convert(out, code, y[:count].unbind(), v[:count].unbind(), columns, group.start, conversion, offset, units)
    return out, code, x.new_empty(0) if clip is None else read


class _Variance:
    """What read noise makes of a product: ``sum_j |w_j| x_j^2`` of each tile.

    Of small matrices exactly; of large ones from sizes in 7 bits, rounded up as often as their fractions say. That is
    0.2 % off for inputs of a thousand lines, in the standard deviation of a noise, and takes an eighth of the time.
    """

    def __init__(self, x: Tensor, w: Tensor, rows: int) -> None:
        self.x, self.w, self.rows = x, w, rows
        tiles = -(-x.shape[1] // rows)
        self.units: tuple[Tensor, ...] = ()
        self.coarse = _large(x, w, rows)
        if self.coarse:
            self.units = tuple(m.new_empty(tiles, len(m)) for m in (x, w))
            named = {"sizes of inputs": x, "sizes of weights": w}
            self.sizes = [memory.scratch(name, torch.int8, *m.shape) for name, m in named.items()]
            for i, m in enumerate((x.contiguous(), w.contiguous())):
                place = (self.sizes[i].data_ptr(), self.units[i].data_ptr(), m.data_ptr())
                _call("round_sizes", *place, *m.shape, rows, int(i == 0))

    def of(self, tiles: slice, out: Tensor) -> None:
        """The variances of some tiles, ``[tiles, rows, out]``, or the integers that count ``units``."""
        if not self.coarse:
            inputs, weights = (_by_tile(m, tiles, self.rows) for m in (self.x, self.w))
            _multiply(inputs.square(), weights.abs().transpose(1, 2), out)
            return
        for tile, part in zip(range(tiles.start, tiles.stop), out, strict=True):
            x, w = (m[:, tile * self.rows : (tile + 1) * self.rows] for m in self.sizes)
            torch._int_mm(x, w.t(), out=part.view(torch.int32))


class _Integers:
    """The product of each tile where inputs lie on the levels of an 8-bit converter: three of bytes, added up.

    Weights have 24 bits of their column's largest in a tile. Every sum of integers is exact, in any order.
    """

    def __init__(self, levels: Tensor, digits: Tensor, units: Tensor, input_range: Tensor, rows: int) -> None:
        self.levels, self.digits, self.units, self.input_range, self.rows = levels, digits, units, input_range, rows
        self.products = memory.scratch("products", torch.int32, 3, len(levels), digits.shape[1])

    @classmethod
    def of_levels(cls, x: Tensor, w: Tensor, rows: int, input_range: Tensor) -> _Integers | None:
        """``None`` where an input is no level, or something is not finite."""
        x, w, refused, per_row = x.contiguous(), w.contiguous(), ctypes.c_int32(), int(input_range.numel() > 1)
        levels = memory.scratch("levels", torch.int8, *x.shape)
        digits = memory.scratch("digits", torch.int8, 3, *w.shape)
        units = w.new_empty(-(-w.shape[1] // rows), len(w))
        place = (levels.data_ptr(), ctypes.byref(refused), x.data_ptr(), input_range.data_ptr())
        _call("levels", *place, *x.shape, per_row)
        if not refused.value:
            place = (digits.data_ptr(), units.data_ptr(), ctypes.byref(refused), w.data_ptr())
            _call("digits", *place, *w.shape, rows)
        return None if refused.value else cls(levels, digits, units, input_range, rows)

    def multiply(self, tiles: slice, out: Tensor) -> None:
        """The products of some tiles, ``[tiles, rows, out]``."""
        for tile, part in zip(range(tiles.start, tiles.stop), out, strict=True):
            lines = slice(tile * self.rows, (tile + 1) * self.rows)
            for digit, product in zip(self.digits, self.products, strict=True):
                torch._int_mm(self.levels[:, lines], digit[:, lines].t(), out=product)
            place = (part.data_ptr(), self.products.data_ptr(), self.units[tile].data_ptr())
            per_row = int(self.input_range.numel() > 1)
            _call("join_digits", *place, self.input_range.data_ptr(), *part.shape, per_row)


def _large(x: Tensor, w: Tensor, rows: int) -> bool:
    """Whether a product is so large that integers pay, where the processor multiplies bytes."""
    return _BYTES and len(x) * w.numel() >= _LARGE and rows <= _SUMMED


_BYTES = torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()
_LARGE = 1 << 24  # multiplications
_MANY = 256  # inputs, for which weights are worth cutting into bytes
_SUMMED = 1 << 17  # products of bytes that a 32-bit sum holds


def tile_linear_backward(
    grad: Tensor,
    code: Tensor,
    x: Tensor,
    read: Tensor,
    w: Tensor | None,
    clip: Tensor | None,
    gain: Tensor | None,
    rows: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    if not _floats(grad, x, read, *(t for t in (w, clip, gain) if t is not None)):
        return reference.tile_linear_backward(grad, code, x, read, w, clip, gain, rows, wanted)
    grad, code = grad.contiguous(), code.contiguous()
    grad_x = x.new_empty(x.shape if wanted[0] else (0,))
    grad_w = read.new_empty(read.shape if wanted[1] else (0,))
    tiles, whole = -(-read.shape[1] // rows), read.shape[1] // rows
    alike = not len(code) and gain is None  # every tile's outputs have the same gradient
    groups = [slice(0, 1)] if alike else _together(tiles, whole, grad.numel())
    rows = read.shape[1] if alike else rows
    g = grad.unsqueeze(0) if alike else grad.new_empty(groups[0].stop, *grad.shape)
    for group in groups:
        part = g[: group.stop - group.start]
        if not alike:
            _unclipped(part, grad, code[group], None if gain is None else gain[group])
        if wanted[0]:
            _multiply_into(_by_tile(grad_x, group, rows), part, _by_tile(read, group, rows))
        if wanted[1]:
            _multiply(part.transpose(1, 2), _by_tile(x, group, rows), _by_tile(grad_w, group, rows))
    if wanted[1] and w is not None and clip is not None:
        _straight_through(grad_w, w.contiguous(), clip.contiguous())
    return grad_x, grad_w


def _unclipped(out: Tensor, grad: Tensor, code: Tensor, gain: Tensor | None) -> None:
    """The gradient of each tile's outputs."""
    for i, part in enumerate(out):
        if len(code):
            _call("adc_backward", part.data_ptr(), grad.data_ptr(), code[i].data_ptr(), grad.numel())
        if gain is not None:
            torch.mul(part if len(code) else grad, gain[i], out=part)


def pcm_program(
    target: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    spread: Sequence[float],
    nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> tuple[Tensor, Tensor]:
    if not _floats(target):
        return reference.pcm_program(target, seed, offset, g_max, spread, nu_mean, nu_sd)
    target = target.contiguous()
    conductance, nu = torch.empty_like(target), torch.empty_like(target)
    _call(
        "pcm_program", conductance.data_ptr(), nu.data_ptr(), target.data_ptr(), target.numel(), g_max,
        _doubles(spread), len(spread) - 1, _doubles(nu_mean), _doubles(nu_sd), int(seed), offset,
    )  # fmt: skip
    return conductance, nu


def pcm_read(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
) -> Tensor:
    if not _floats(conductance, nu) or age.dtype != torch.float64:
        return reference.pcm_read(conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    per_device = age.numel() != 1
    age = (age.expand(conductance.shape) if per_device else age).contiguous()
    conductance, nu = conductance.contiguous(), nu.contiguous()
    out = torch.empty_like(conductance)
    _call(
        "pcm_read", out.data_ptr(), conductance.data_ptr(), nu.data_ptr(), age.data_ptr(), out.numel(),
        int(per_device), g_max, t0, t_read, _doubles(noise) if noise else None, int(seed), offset,
    )  # fmt: skip
    return out


def pulse_trains(
    x: Tensor,
    d: Tensor,
    lr: float,
    granularity: float,
    length: int,
    adaptive: bool,
    managed: bool,
    kind: int,
    seed: Tensor,
    offset: int,
) -> tuple[Tensor, Tensor]:
    rule = (lr, granularity, length, adaptive, managed, kind)
    if not _floats(x, d):
        return reference.pulse_trains(x, d, *rule, seed, offset)
    pulses.check_finite(x, d)
    return _trains(x.contiguous(), d.contiguous(), rule, int(seed), offset)


def _trains(x: Tensor, d: Tensor, rule: tuple[Any, ...], seed: int, offset: int) -> tuple[Tensor, Tensor]:
    words_x, words_d = (torch.empty(v.shape, dtype=torch.int32) for v in (x, d))
    _call(
        "pulse_trains", words_x.data_ptr(), words_d.data_ptr(), x.data_ptr(), d.data_ptr(), len(x), x.shape[1],
        d.shape[1], *rule, seed, offset,
    )  # fmt: skip
    return words_x, words_d


def pulsed_update(
    conductance: Tensor,
    history: Tensor | None,
    pulsed_at: Tensor | None,
    weight: Tensor | None,
    others: Tensor | None,
    readout: Sequence[float],
    parameters: Tensor,
    x: Tensor,
    d: Tensor,
    lr: float,
    granularity: float,
    length: int,
    adaptive: bool,
    managed: bool,
    kind: int,
    now: float,
    planes: Sequence[int],
    family: int,
    coefficients: Tensor,
    seed: Tensor,
    offset: int,
) -> None:
    rule = (lr, granularity, length, adaptive, managed, kind)
    state = (conductance, history, pulsed_at)
    if not _floats(conductance, x, d):
        devices = (*state, weight, others, readout, parameters)
        reference.pulsed_update(*devices, x, d, *rule, now, planes, family, coefficients, seed, offset)
        return
    pulses.check_tables(family, coefficients)
    parameters, coefficients = parameters.contiguous(), coefficients.contiguous()
    x, d, refused = x.contiguous(), d.contiguous(), ctypes.c_int32()
    _call(
        "pulsed_update", *_optional(*state), parameters.data_ptr(), x.data_ptr(), d.data_ptr(), ctypes.byref(refused),
        len(x), *conductance.shape[1:], *rule, len(conductance), parameters[0].numel() == 1, now, *planes, family,
        coefficients.data_ptr(), *_readout(weight, others, readout), int(seed), offset,
    )  # fmt: skip
    if refused.value:
        pulses.check_finite(x, d)


def pulse_counts(
    conductance: Tensor,
    history: Tensor | None,
    pulsed_at: Tensor | None,
    weight: Tensor | None,
    others: Tensor | None,
    readout: Sequence[float],
    parameters: Tensor,
    counts: Tensor,
    now: float,
    planes: Sequence[int],
    family: int,
    coefficients: Tensor,
    seed: Tensor,
    offset: int,
) -> None:
    pulses.check_tables(family, coefficients)
    parameters, coefficients, counts = parameters.contiguous(), coefficients.contiguous(), counts.contiguous()
    _call(
        "pulse_counts", *_optional(conductance, history, pulsed_at), parameters.data_ptr(), counts.data_ptr(),
        *conductance.shape[1:], len(conductance), parameters[0].numel() == 1, now, *planes, family,
        coefficients.data_ptr(), *_readout(weight, others, readout), int(seed), offset,
    )  # fmt: skip


def read_out(
    conductance: Tensor, others: Tensor | None, readout: Sequence[float], sd: Sequence[float], seed: Tensor, offset: int
) -> Tensor:
    conductance, others = conductance.contiguous(), None if others is None else others.contiguous()
    out = torch.empty(conductance.shape[1:], dtype=torch.float32)
    _call(
        "read_out", out.data_ptr(), conductance.data_ptr(), len(conductance),
        *_optional(others), 0 if others is None else len(others), out.numel(), _floats_of(readout),
        _floats_of((*sd, 0.0, 0.0)) if sd else None, int(seed), offset,
    )  # fmt: skip
    return out


def leak(
    conductance: Tensor, level: float, lost: float, weight: Tensor | None, others: Tensor | None,
    readout: Sequence[float],
) -> None:  # fmt: skip
    _call(
        "leak", conductance.data_ptr(), len(conductance), conductance[0].numel(), level, lost,
        *_readout(weight, None if others is None else others.contiguous(), readout),
    )  # fmt: skip


def _floats_of(values: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(values))(*values)


def _optional(*tensors: Tensor | None, first: int | None = None) -> list[int | None]:
    return [None if t is None else (t if first is None else t[first]).data_ptr() for t in tensors]


def _readout(weight: Tensor | None, others: Tensor | None, readout: Sequence[float]) -> tuple[Any, ...]:
    return (*_optional(weight, others), 0 if others is None else len(others), _floats_of(readout))


KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        normal,
        uniform,
        dac,
        dac_backward,
        leak,
        adc,
        adc_backward,
        tile_linear,
        tile_linear_backward,
        weight_scale,
        noisy_weights,
        noisy_weights_backward,
        pcm_program,
        pcm_read,
        pulse_counts,
        pulse_trains,
        pulsed_update,
        read_out,
    )
}
