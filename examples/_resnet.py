"""Digital residual networks of the CIFAR-10 example, with normalisation and augmentation of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEAN, _SD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut without weights.

    Args:
        inputs: input channels.
        outputs: output channels; the shortcut is padded with zeros.
        stride: stride of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            before = self.added // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.added - before))
        return F.relu(y + x)


class ResNet(nn.Module):
    """A residual network for 32 x 32 images (He et al. 2016, section 4.2).

    Args:
        depth: number of layers with weights, ``6 n + 2``: 20, 32, 44, 56, 110.
        width: channels of the first stage; the others have two and four times as many.

    Raises:
        ValueError: ``depth`` is not ``6 n + 2``.
    """

    def __init__(self, depth: int = 20, width: int = 16) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"ResNet: depth = {depth}; it must be 6 n + 2, such as 20 or 32")
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        layers, inputs = [], width
        for stage in range(3):
            for i in range(blocks):
                outputs = width << stage
                layers.append(Block(inputs, outputs, 2 if stage and not i else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Channels last halves the time of the convolutions on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[n, 10]`` of normalised images ``[n, 3, 32, 32]``."""
        x = self.blocks(F.relu(self.bn(self.conv(images))))
        return self.fc(x.mean((2, 3)))


def normalise(images: Tensor) -> Tensor:
    """Convert images in 0..255 to float images with zero mean and unit variance per channel over CIFAR-10."""
    mean, sd = (images.new_tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (_MEAN, _SD))
    return ((images.float() / 255 - mean) / sd).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, largest: int = 4) -> Tensor:
    """Shift each image randomly by up to ``largest`` pixels, padded with zeros, and mirror half of the images."""
    n, (height, width) = len(images), images.shape[-2:]
    windows = F.pad(images, (largest,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * largest + 1, (2, n))
    moved = windows[torch.arange(n), :, down, right]
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, moved.flip(-1), moved)


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Fraction of images ``[n, 3, 32, 32]`` in 0..255 that a network, in its present mode, classifies correctly."""
    guesses = [net(normalise(part)).argmax(1) for part in images.split(batch)]
    return torch.cat(guesses).eq(labels).double().mean().item()
