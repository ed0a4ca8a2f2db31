"""One pass through an installed phasegrad, run by ``.ci/packages`` outside of the checkout.

    python -I tests/smoke.py BACKEND

``BACKEND`` is ``native`` or ``reference``: what the installation must compute with. Needs phasegrad and its
requirements only.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import phasegrad as pg


def check_backend(expected: str) -> None:
    cpu = pg.backends()["cpu"]
    if expected not in cpu:
        raise SystemExit(f"the installation computes with {cpu!r}; expected {expected!r}")


def fresh_model() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A small classifier, with inputs and targets that it can learn."""
    torch.manual_seed(0)
    x = torch.randn(200, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)), x, y


def check_inference() -> pg.inference.Report:
    """Convert, calibrate, program, age, and evaluate over time."""
    model, x, y = fresh_model()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    net = pg.convert(model, pg.presets.pcm_inference())
    pg.hwa.calibrate(net, [(x, y)], batches=1)
    old = pg.inference.age(pg.inference.program(net, seed=0), seconds=86_400.0)
    if not torch.isfinite(old(x)).all():
        raise SystemExit("a chip of one day returned values that are not finite")
    report = pg.inference.accuracy_over_time(
        net, lambda chip: (chip(x).argmax(1) == y).float().mean().item(), (1.0, 86_400.0), chips=2
    )
    # Four classes: chance is 0.25, and the float model fits its training data.
    if report.mean().min() < 0.7:
        raise SystemExit(f"accuracy over time is {report.mean()}; expected at least 0.7")
    return report


def check_training() -> None:
    """A few steps in the memory lower the loss."""
    model, x, y = fresh_model()
    net = pg.convert(model, pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if not losses[-1] < 0.9 * losses[0]:
        raise SystemExit(f"the loss in the memory went from {losses[0]} to {losses[-1]}")


def check_pictures(report: pg.inference.Report) -> str:
    """With matplotlib a file, without it an error that names the extra."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "report.png"
        if importlib.util.find_spec("matplotlib") is not None:
            report.plot(picture)
            return f"a picture of {picture.stat().st_size} bytes"
        try:
            report.plot(picture)
        except ImportError as error:
            if "phasegrad[plot]" not in str(error):
                raise
            return "no pictures without matplotlib"
    raise SystemExit("a picture was drawn without matplotlib")


def main(backend: str) -> None:
    check_backend(backend)
    check_training()
    pictures = check_pictures(check_inference())
    print(f"phasegrad {pg.__version__} from {Path(pg.__file__).parent}: {pg.backends()['cpu']}, {pictures}")


if __name__ == "__main__":
    main(sys.argv[1])
