"""Feeds `resnet.classify`: its arguments are a model and an iterable of batches."""

import torch
from resnet import ResNet, classify
from torch import nn


class Classification(nn.Module):
    """One call classifies all images, `batch_size` at a time; the last batch is smaller."""

    def __init__(self, batch_size: int = 4, depths: tuple[int, ...] = (1, 1), **sizes: int) -> None:
        super().__init__()
        self.model = ResNet(tuple(depths), **sizes)
        self.batch_size = batch_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return classify(self.model, images.split(self.batch_size))
