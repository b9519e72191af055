"""The two networks: torchvision's DenseNet-121 and a small DenseNet, both for one grey channel."""

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

# The mean and standard deviation of NIH's train films (in [0, 1]), rounded.
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

ARCHITECTURES: dict[str, dict[str, object]] = {
    "densenet121": {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64},
    "small": {"growth_rate": 12, "block_config": (4, 6, 8, 6), "num_init_features": 24},
}


class Classifier(nn.Module):
    """A DenseNet with its normalisation inside.

    forward: (N, 1, S, S) float32 in [0, 1], 0 = air-black -> logits (N, C).
    """

    def __init__(self, architecture: str, label_count: int) -> None:
        super().__init__()
        parameters = ARCHITECTURES[architecture]
        self.architecture = architecture
        self.network = DenseNet(**parameters, num_classes=label_count)
        width = self.network.features.conv0.out_channels
        self.network.features.conv0 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.network.features.conv0.weight)

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.network((radiograph - PIXEL_MEAN) / PIXEL_STD)
        return logits


def build(architecture: str, label_count: int, seed: int) -> Classifier:
    """A freshly initialised network; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return Classifier(architecture, label_count)
