"""Every op in plain torch: the definition that kernels are tested against, for any device and floating-point dtype.

Arguments and results are described where the ops are declared, in ``phasegrad.ops.schema``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import philox
from phasegrad.ops.cells import noisy_cells as noisy_cells
from phasegrad.ops.cells import rectified_cells as rectified_cells
from phasegrad.ops.cells import row_products as row_products
from phasegrad.ops.cells import sum_of_devices
from phasegrad.ops.pulses import pulse_counts as pulse_counts
from phasegrad.ops.pulses import pulsed_update as pulsed_update
from phasegrad.ops.trains import pulse_trains as pulse_trains
from phasegrad.ops.weighted_sum import leak as leak
from phasegrad.ops.weighted_sum import weighted_sum as weighted_sum
from phasegrad.ops.wires import wired_conductance as wired_conductance
from phasegrad.ops.wires import wired_conductance_backward as wired_conductance_backward

NO_CONVERTER, MID_TREAD, MID_RISE, COUNTER, END_POINT = 0, 1, 2, 3, 4


def normal(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    """Standard normals."""
    return philox.normal(int(seed), offset, math.prod(size), seed.device).view(tuple(size))


def uniform(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    """Uniforms in [0, 1)."""
    return philox.uniform(int(seed), offset, math.prod(size), seed.device).view(tuple(size))


def _normal_like(x: Tensor, seed: Tensor, offset: int) -> Tensor:
    return normal(seed, offset, x.shape).to(x.dtype)


def _per_row(range: Tensor, x: Tensor) -> Tensor:
    """The input range, shaped so that it broadcasts over ``x``: one for all rows, or one per row."""
    return range.reshape(-1, *[1] * (x.dim() - 1)) if range.numel() != 1 else range.reshape(())


def memory_order(x: Tensor) -> torch.memory_format:
    """The memory format of a converted tensor: channels last if the input has it, otherwise contiguous."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    order = orders.get(x.dim(), torch.contiguous_format)
    return torch.contiguous_format if x.is_contiguous() or not x.is_contiguous(memory_format=order) else order


def dac(x: Tensor, range: Tensor, max_code: float, decay: float, keep: float) -> Tensor:
    """Digital-to-analog conversion."""
    r = _per_row(range, x).to(x.dtype)
    largest = torch.finfo(r.dtype).max  # a range whose inverse overflows still maps zero to zero
    up = torch.where(r == 0, torch.zeros_like(r), (max_code / r).clamp(-largest, largest))
    level = torch.round(torch.clamp(x * up, -max_code, max_code))
    return torch.where(torch.isfinite(x), level * (r / max_code), x).contiguous(memory_format=memory_order(x))


def dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> tuple[Tensor, Tensor]:
    """Straight-through gradient inside the range; outside, the gradient goes to the range."""
    r = _per_row(range, x).to(x.dtype)
    inside = x.abs() <= r.abs()
    beyond = torch.where(inside, torch.zeros_like(x), torch.where(x.isnan(), x, torch.sign(x)))
    beyond = torch.where(r < 0, -beyond, beyond)  # a range learned below zero counts by its magnitude
    taken = (grad * beyond).flatten(1).sum(1) if range.numel() != 1 else (grad * beyond).sum()
    settled = inside.sum() >= keep * max(x.numel(), 1)
    pull = torch.where(settled, decay * range, torch.zeros_like(range))
    grad_range = (taken.reshape(range.shape) + pull).to(range.dtype)
    passed = torch.where(inside, grad, torch.zeros_like(grad))
    return passed.contiguous(memory_format=memory_order(x)), grad_range


def _along_channels(scale: Tensor, y: Tensor) -> Tensor:
    return scale.to(y.dtype).reshape(-1, *[1] * (y.dim() - 2))


def quantise(v: Tensor, mode: int, max_code: float) -> Tensor:
    """The levels of inputs in [-max_code, max_code], both in steps."""
    if mode == MID_TREAD:
        return torch.round(v)
    if mode == MID_RISE:
        return torch.clamp(torch.floor(v), -max_code, max_code - 1.0) + 0.5
    if mode == END_POINT:  # both ends are half-integers
        return torch.clamp(torch.floor(v) + 0.5, -max_code, max_code)
    return torch.clamp(torch.trunc(v), 1.0 - max_code, max_code - 1.0)


def _convert(y: Tensor, full: Tensor, mode: int, max_code: float) -> tuple[Tensor, Tensor]:
    level = quantise(torch.clamp(y * (max_code / full), -max_code, max_code), mode, max_code)
    # A column without weights or inputs has no full scale and is not converted; a NaN range results in NaN.
    passes = ~torch.isfinite(y) | (full <= 0)
    code = torch.where(passes, 0, (y > full).to(torch.int8) - (y < -full).to(torch.int8)).to(torch.int8)
    return torch.where(passes, y, level * (full / max_code) + 0.0 * full), code


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
    max_code: float,
) -> tuple[Tensor, Tensor]:
    """Noise, analog-to-digital conversion of every tile's output, digital sum over tiles."""
    total, codes = torch.zeros_like(y[0]), []
    for tile, product in enumerate(y):
        s = _along_channels(scale[tile], product)
        unit = s * _per_row(input_range, product).to(product.dtype)
        variance = (output_noise * unit) ** 2
        if v:
            variance = variance + read_noise**2 * s * v[tile].to(product.dtype)
        if v or output_noise > 0:
            product = product + torch.sqrt(variance) * _normal_like(product, seed, offset + tile)
        if mode != NO_CONVERTER:
            full = (bound.to(product.dtype) * unit).abs().expand_as(product)  # learned below zero: by its magnitude
            product, code = _convert(product, full, mode, max_code)
            codes.append(code)
        if gain is not None:
            product = product * _along_channels(gain[tile], product)
        total = total + product
    return total.contiguous(), torch.stack(codes) if codes else torch.empty(0, dtype=torch.int8, device=total.device)


def adc_backward(grad: Tensor, code: Tensor) -> Tensor:
    """The gradient of each tile's output: zero where its converter clipped."""
    return torch.where(code == 0, grad, torch.zeros_like(grad))


def weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> tuple[Tensor, Tensor]:
    """The largest weight of every tile's column (or tile), and the magnitude at which weights are clipped.

    Weights are clipped at ``clip_sigma`` root mean squares of the nonzero weights of the layer (or channel).
    """
    out_features = w.shape[0]
    clip = torch.full((out_features,), math.inf, dtype=w.dtype, device=w.device)
    if clip_sigma > 0:
        squares = _mean_square(w, 1) if clip_per_channel else _mean_square(w.flatten(), 0).expand(out_features)
        clip = (clip_sigma * squares.sqrt()).contiguous()
    scale = torch.stack([part.abs().amax(1) for part in w.split(rows, dim=1)])
    scale = torch.minimum(scale, clip)
    if not per_column:
        blocks = [block.amax(1, keepdim=True).expand_as(block) for block in scale.split(columns, dim=1)]
        scale = torch.cat(blocks, dim=1)
    return scale, clip


def _mean_square(w: Tensor, dim: int) -> Tensor:
    """The mean square of nonzero weights; the correction is exactly 1 where no weight is 0."""
    exact = torch.promote_types(w.dtype, torch.float32)
    correction = w.shape[dim] / (w != 0).sum(dim).clamp(min=1).to(exact)
    return (w.square().mean(dim).to(exact) * correction).to(w.dtype)


def noisy_weights(
    w: Tensor,
    scale: Tensor,
    clip: Tensor,
    level: Tensor,
    seed: Tensor,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
) -> Tensor:
    """Weights clipped, with noise added, some dropped.

    ``noise`` is the standard deviation over the scale as a function of ``g = |w| / scale``: coefficients of ``g^0``,
    ``g^1`` and ``g^2``. Or it is a parabola for each of several intervals: 1 if ``g`` has the sign of the weight, else
    0; where each interval but the first starts; then three coefficients for each interval.
    """
    bound = clip.to(w.dtype).unsqueeze(1)
    clipped = torch.where(torch.isfinite(w), torch.clamp(w, -bound, bound), w)
    s = scale.repeat_interleave(rows, dim=0)[: w.shape[1]].t()
    over_s = torch.where(s > 0, 1.0 / s, torch.zeros_like(s))
    by_sign, starts, parabolas = _parabolas(noise)
    size = clipped if by_sign else clipped.abs()
    c0, c1, c2 = parabolas[0] if not starts else torch.tensor(parabolas[0], dtype=s.dtype, device=s.device)
    for start, parabola in zip(starts, parabolas[1:], strict=True):
        beyond = size >= start * s
        c0, c1, c2 = (torch.where(beyond, new, old) for new, old in zip(parabola, (c0, c1, c2), strict=True))
    sd = torch.clamp(level * (c0 * s + size * (c1 + c2 * over_s * size)), min=0.0).to(w.dtype)
    noisy = clipped
    if bool(level != 0) and any(c != 0 for parabola in parabolas for c in parabola):
        noisy = clipped + sd * _normal_like(w, seed, offset)
    if drop_connect > 0:
        gate = uniform(seed, offset + 1, w.shape).to(w.device)
        noisy = torch.where(gate < drop_connect, torch.zeros_like(noisy), noisy)
    return noisy.contiguous()


def _parabolas(noise: Sequence[float]) -> tuple[bool, Sequence[float], list[Sequence[float]]]:
    """Whether noise depends on the sign of a weight, where its parabolas start, and their coefficients."""
    if len(noise) == 3:
        return False, (), [noise]
    pieces = len(noise) // 4
    return noise[0] != 0.0, noise[1:pieces], [noise[i : i + 3] for i in range(pieces, len(noise), 3)]


def noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> Tensor:
    """Straight-through gradient, except where a step down the gradient would push a clipped weight further out."""
    bound = clip.unsqueeze(1)
    outward = ((w > bound) & (grad < 0)) | ((w < -bound) & (grad > 0))
    return torch.where(outward, torch.zeros_like(grad), grad)


def tile_linear(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    clip: Tensor | None,
    level: Tensor | None,
    gain: Tensor | None,
    input_range: Tensor,
    dac_max_code: float,
    decay: float,
    keep: float,
    bound: Tensor,
    seed: Tensor,
    weight_offset: int,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
    output_noise: float,
    read_noise: float,
    mode: int,
    adc_max_code: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The product of each row-tile of a matrix: inputs through ``dac``, outputs through ``adc``.

    With ``dac_max_code = 0`` the inputs are already converted. The matrix is read by ``noisy_weights``; without
    ``clip`` and ``level`` it is read unchanged, and the third result, otherwise the matrix as read, is empty. Where
    inputs have 16 bits and the matrix is float32, the operands of the product are rounded to 16 bits, and nothing else.
    """
    if dac_max_code > 0:
        x = dac(x, input_range, dac_max_code, decay, keep)
    read = w
    if clip is not None and level is not None:
        read = noisy_weights(w, scale, clip, level, seed, weight_offset, rows, noise, drop_connect)
    dtype, read = x.dtype, read.to(x.dtype)
    operands = (m.to(w.dtype).split(rows, dim=1) for m in (x, read))
    tiles = list(zip(*operands, strict=True))
    y = [torch.mm(a, b.t()) for a, b in tiles]
    v = [torch.mm(a.square(), b.abs().t()) for a, b in tiles] if read_noise > 0 else []
    out, code = adc(y, v, scale, gain, input_range, bound, seed, offset, output_noise, read_noise, mode, adc_max_code)
    return out.to(dtype), code, x.new_empty(0) if clip is None else read


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
    """Gradients of input and matrix, each tile's from the outputs that its ADC did not clip.

    ``w`` and ``clip`` are given if the matrix was read by ``noisy_weights``, whose gradient rule then applies. A
    gradient that is not requested is empty.
    """
    grad_x, grad_w = [], []
    exact = (read if w is None else w).dtype  # of sums
    operands = (m.to(x.dtype).to(exact).split(rows, dim=1) for m in (x, read))
    dtype, grad = x.dtype, grad.to(exact)
    for tile, (a, b) in enumerate(zip(*operands, strict=True)):
        g = adc_backward(grad, code[tile]) if len(code) else grad
        g = g if gain is None else g * gain[tile].to(g.dtype)
        grad_x.append(torch.mm(g, b) if wanted[0] else a.new_empty(0))
        grad_w.append(torch.mm(g.t(), a) if wanted[1] else a.new_empty(0))
    whole_x, whole_w = torch.cat(grad_x, dim=-1).to(dtype), torch.cat(grad_w, dim=-1)
    if wanted[1] and w is not None and clip is not None:
        whole_w = noisy_weights_backward(whole_w, w, clip)
    return whole_x, whole_w


def _branch(g: Tensor, ln_g: Tensor, p: Sequence[float]) -> Tensor:
    a, b, exponential, c1, c2, c3, low, high = p
    value = a * ln_g + b if a != 0 else torch.full_like(g, b)
    value = torch.exp(value) if exponential else value
    return torch.clamp(value + g * (c1 + g * (c2 + g * c3)), low, high)


def _interpolate(g: Tensor, xs: Sequence[float], ys: Sequence[float]) -> Tensor:
    x = torch.tensor(xs, dtype=torch.float64, device=g.device)
    y = torch.tensor(ys, dtype=torch.float64, device=g.device)
    if len(xs) == 1:
        return torch.where(g.isnan(), g, torch.full_like(g, ys[0]))
    at = g.double().clamp(xs[0], xs[-1])
    right = torch.searchsorted(x, at, right=True).clamp(1, len(xs) - 1)
    left = right - 1
    f = (at - x[left]) / (x[right] - x[left])
    return (y[left] + f * (y[right] - y[left])).to(g.dtype)


def law(g: Tensor, encoded: Sequence[float]) -> Tensor:
    """A scalar law of the normalised conductance, encoded as flat numbers.

    ``0, threshold``, then for ``g < threshold`` and for the rest ``a, b, exponential, c1, c2, c3, low, high``:
    ``clip((exp(a ln g + b) if exponential else a ln g + b) + c1 g + c2 g^2 + c3 g^3, low, high)``;
    or ``1, n, g_0 ... g_n-1, value_0 ... value_n-1``: linear between the points and constant beyond them.
    """
    if encoded[0] == 1:
        n = int(encoded[1])
        return _interpolate(g, encoded[2 : 2 + n], encoded[2 + n : 2 + 2 * n])
    ln_g = torch.log(torch.clamp(g, min=torch.finfo(torch.float32).tiny))
    return torch.where(g < encoded[1], _branch(g, ln_g, encoded[2:10]), _branch(g, ln_g, encoded[10:18]))


def pcm_program(
    target: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    programming_sd: Sequence[float],
    nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Conductance and drift exponent of devices programmed to a target."""
    g = target / g_max
    sd = torch.full_like(g, programming_sd[-1])
    for coefficient in reversed(programming_sd[:-1]):
        sd = sd * g + coefficient
    conductance = torch.clamp(target + sd.clamp(min=0.0) * _normal_like(target, seed, offset), min=0.0)
    nu = torch.abs(law(g, nu_mean) + law(g, nu_sd) * _normal_like(target, seed, offset + 1))
    return conductance.contiguous(), nu.contiguous()


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
    """Drifted conductance, with the noise of one read unless ``noise`` is empty."""
    drifted, sd = pcm_moments(conductance, nu, age, g_max, t0, t_read, noise)
    if not noise:
        return drifted
    return torch.clamp(drifted + sd * _normal_like(conductance, seed, offset), min=0.0).contiguous()


def pcm_moments(
    conductance: Tensor, nu: Tensor, age: Tensor, g_max: float, t0: float, t_read: float, noise: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Drifted conductance, and the standard deviation of the noise of a read before it is clipped at 0."""
    since = (age if age.numel() != 1 else age.reshape(())).double() + t0
    drifted = conductance * torch.exp(-nu * torch.log(since / t0).to(nu.dtype)).to(conductance.dtype)
    if not noise:
        return drifted.contiguous(), torch.zeros_like(drifted, memory_format=torch.contiguous_format)
    bandwidth = torch.sqrt(torch.log((since + t_read) / (2.0 * t_read))).to(drifted.dtype)
    sd = drifted * law(conductance / g_max, noise).to(drifted.dtype) * bandwidth
    return drifted.contiguous(), sd.contiguous()


def pcm_cells(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
    factors: Sequence[float],
    scale: Tensor | None,
    rows: int,
) -> Tensor:
    """The weights of cells of PCM devices, as one read sees them: ``pcm_read``, then ``sum_of_devices``."""
    devices = pcm_read(conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    return sum_of_devices(devices, factors, scale, rows).contiguous()
