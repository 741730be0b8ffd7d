"""Image classification over a folder-sized stream of batches, with a residual network of one's own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from cuda_graphs import graphed


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a projected shortcut where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.reduce, self.norm_reduce = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm_conv = nn.BatchNorm2d(width)
        self.expand, self.norm_expand = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm_reduce(self.reduce(x)))
        y = F.relu(self.norm_conv(self.conv(y)))
        return F.relu(self.norm_expand(self.expand(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """`depths=(3, 4, 6, 3), width=64` is ResNet-50."""

    def __init__(self, depths: tuple[int, ...] = (1, 1), width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                blocks.append(Bottleneck(channels, width << stage, 2 if stage and not i else 1))
                channels = 4 * (width << stage)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: float (batch, 3, height, width). Returns logits (batch, classes)."""
        x = F.max_pool2d(self.stem(images), 3, 2, padding=1)
        return self.head(self.blocks(x).mean((2, 3)))


def classify(model: ResNet, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """The most likely class of every image, int64 (images,)."""
    model.eval()
    classes = []
    with torch.inference_mode():
        graphed_model = graphed(model, pad="B ...")
        for images in batches:
            logits = graphed_model(images)
            classes.append(logits.argmax(-1))
    return torch.cat(classes)


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ResNet().to(device)
    images = torch.randn(20, 3, 32, 32, device=device)
    print("classes:", classify(model, images.split(8)).tolist())


if __name__ == "__main__":
    main()
