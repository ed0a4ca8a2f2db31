"""Hardware-aware training with Lightning: python examples/integrations/lightning_mnist.py."""

from __future__ import annotations

import lightning
import torch
import torch.nn.functional as F
from _slice import a_year_later, network, training_images
from torch import Tensor
from torch.utils.data import DataLoader

import phasegrad as pg


class Analog(lightning.LightningModule):
    """A Lightning module with an analog net, whose layers add their noise themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Compute the loss of a batch."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Create the optimizer: any of torch, or ``pg.optim.AnalogSGD`` for in-memory training."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(images: int = 10_000, epochs: int = 2) -> float:
    """Train and program the net; return its test accuracy after a year."""
    lightning.seed_everything(0, verbose=False)
    loader = DataLoader(training_images(images), 64, shuffle=True)
    module = Analog()
    pg.hwa.calibrate(module.net, loader, batches=20)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    accuracy = a_year_later(module.net)
    print(f"test accuracy of a chip after a year: {100 * accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
