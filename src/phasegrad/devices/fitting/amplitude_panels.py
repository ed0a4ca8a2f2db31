"""What is drawn of pulses by amplitude: conductance against current, of all devices and of devices that are aligned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.amplitude_model import AmplitudeModel
from phasegrad.devices.fitting.result import Panel

_SIMULATED = 1000
_LABELS = ("current (µA)", "conductance (µS)")


def amplitude_panels(model: AmplitudeModel, theta: Tensor) -> tuple[Panel, ...]:
    """Measured conductances next to the fitted curve, with and without the offset and strength of each device."""
    data, at = model.data, _currents(model)
    micro = 1e6 * data.unit
    seen = ~data.reads.isnan()
    middle, band = _curve(model, theta, at), _band(model, theta, at)
    x = (at * micro).numpy()
    all_devices = Panel(
        "melt and quench", *_LABELS, (data.current[seen] * micro).numpy(), data.reads[seen].numpy(), x, middle, band
    )
    offset, strength = model.own[:, :1], model.own[:, 1:]
    largest, reset = theta[0].exp(), theta[1]
    aligned = reset + (data.reads - reset) * (largest - reset) / (largest * strength.exp() - reset)
    own = Panel(
        "devices aligned", *_LABELS, ((data.current - offset)[seen] * micro).numpy(),
        aligned[seen].numpy(), x, middle,
    )  # fmt: skip
    return all_devices, own


def _currents(model: AmplitudeModel) -> Tensor:
    current = model.data.current[~model.data.current.isnan()]
    return torch.linspace(float(current.min()), float(current.max()), 121, dtype=torch.float64)


def _curve(model: AmplitudeModel, theta: Tensor, at: Tensor) -> np.ndarray:
    """The curve of the median device [µS]."""
    return model.predict(theta[None], at.new_zeros(1, 1, 2), at[None])[0][0, 0].numpy()


def _band(model: AmplitudeModel, theta: Tensor, at: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Range of 90 % of the conductances [µS] of new devices."""
    generator = torch.Generator().manual_seed(0)
    own = model.spreads(theta) * torch.randn(_SIMULATED, 2, generator=generator, dtype=torch.float64)
    mean, variance = model.predict(theta[None], own[None], at[None])
    noise = torch.randn(_SIMULATED, len(at), generator=generator, dtype=torch.float64)
    drawn = (mean[0] + variance[0].sqrt() * noise).clamp(min=0.0)
    return torch.quantile(drawn, 0.05, dim=0).numpy(), torch.quantile(drawn, 0.95, dim=0).numpy()
