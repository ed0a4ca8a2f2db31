"""Hardware-aware training of a small transformer on MNIST with the Hugging Face Trainer.

    python examples/integrations/huggingface_trainer.py

The transformer (ViT) is created from its configuration; nothing is downloaded from a hub.
"""

from __future__ import annotations

import tempfile

import torch
from _slice import training_images
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import phasegrad as pg


class Images(Dataset[dict[str, Tensor]]):
    """Samples with the names of the model's arguments."""

    def __init__(self, number: int) -> None:
        x, self.labels = training_images(number).tensors
        self.pixels = x.view(-1, 1, 28, 28)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def transformer() -> ViTForImageClassification:
    """A vision transformer with two layers of four heads, on patches of 7 x 7 pixels."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=28, patch_size=7, num_channels=1, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=96, num_labels=10,
        )
    )  # fmt: skip


def main(images: int = 10_000, epochs: float = 2.0) -> tuple[float, float]:
    """Train a converted transformer and program it; return the first and last loss."""
    torch.manual_seed(0)
    net = pg.convert(transformer(), pg.presets.pcm_inference())
    print(pg.summary(net))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=2e-3,
            use_cpu=True, report_to=[], save_strategy="no", logging_steps=10, disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(model=net, args=arguments, train_dataset=Images(images))
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    chip = pg.inference.program(net, seed=0)
    batch = Images(200)
    with torch.no_grad():
        correct = chip(pixel_values=batch.pixels).logits.argmax(1) == batch.labels
    print(f"loss: {losses[0]:.3f} to {losses[-1]:.3f}; chip accuracy: {100 * float(correct.float().mean()):.1f} %")
    return float(losses[0]), float(losses[-1])


if __name__ == "__main__":
    main()
