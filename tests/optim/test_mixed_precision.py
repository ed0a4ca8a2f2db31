"""Mixed-precision training: accumulation in chi, counted pulses, checkpoints."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from tests.optim.test_analog_sgd import backward, batch, fine, net, run, same, state

import phasegrad as pg


def test_the_sum_of_pulses_and_chi_is_the_accumulated_gradient() -> None:
    module, digital, lr = net(fine(steps=2000)), net(), 0.01  # steps of 0.001
    optimizer = pg.optim.MixedPrecision(module.parameters(), lr=lr)
    start = module[0].weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        backward(module)
        optimizer.step()
    chi = optimizer.state[module[0].weight]["chi"]
    assert chi.abs().max() < 0.001
    # Steps are constant and noiseless, so the pulses and chi add up to the sum of the gradients.
    sent = module[0].weight.detach() - start
    steps = (sent / 0.001).round()
    torch.testing.assert_close(sent, steps * 0.001, rtol=1e-3, atol=1e-6)
    assert steps.abs().max() > 0
    backward(digital)
    first = -lr * digital[0].weight.grad
    assert ((sent - chi) - 3 * first).abs().max() < 0.2 * first.abs().max()  # the gradient changes little in 3 steps


def test_training_on_pcm_lowers_the_loss() -> None:
    module = net(pg.presets.pcm_pair_training())
    optimizer = pg.optim.MixedPrecision(module.parameters(), lr=0.2)
    x, _ = batch(64)
    y = x[:, :4].argmax(1)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_chi_is_checkpointed() -> None:
    module = net(fine(steps=2000))
    optimizer = pg.optim.MixedPrecision(module.parameters(), lr=0.01)
    run(module, optimizer, range(2))
    file = io.BytesIO()
    torch.save((module.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    run(module, optimizer, range(2, 4))
    file.seek(0)
    resumed = net(fine(steps=2000), seed=8)
    again = pg.optim.MixedPrecision(resumed.parameters(), lr=0.5)
    weights, rest, random = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state_dict(rest)
    torch.set_rng_state(random)
    run(resumed, again, range(2, 4))
    assert same(state(module), state(resumed))
    assert torch.equal(again.state[resumed[0].weight]["chi"], optimizer.state[module[0].weight]["chi"])


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_invalid_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon ="):
        pg.optim.MixedPrecision(net(fine()).parameters(), lr=0.1, epsilon=epsilon)
