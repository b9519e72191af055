"""A DenseNet small enough to export in seconds, with the block names of the real ones."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

from service.audit.classifier import ClassifierCard
from service.audit.preprocessing import Preprocessing
from training.networks.export import export

LABELS = ("Atelectasis", "Effusion", "Mass", "Nodule", "Pneumonia")
SIZE = 64
GRIDS = (8, 4)


class TinyClassifier(nn.Module):
    """(N, 1, 64, 64) in [0, 1] -> logits (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DenseNet(growth_rate=6, block_config=(2, 2, 3, 2), num_init_features=8, num_classes=len(LABELS))
        self.network.features.conv0 = nn.Conv2d(1, 8, kernel_size=7, stride=2, padding=3, bias=False)

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.network((radiograph - 0.5) / 0.25)
        return logits


def trained_tiny(seed: int = 0, steps: int = 30) -> TinyClassifier:
    """Trained for some steps to tell five kinds of bright bands apart, so that no statistic is at its start value."""
    torch.manual_seed(seed)
    classifier = TinyClassifier().train()
    optimiser = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(steps):
        radiographs, labels = banded(16)
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(radiographs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return classifier.eval()


def banded(count: int) -> tuple[Tensor, Tensor]:
    """Noise films (count, 1, S, S) with one bright band, and its place as labels (count, C)."""
    places = torch.randint(len(LABELS), (count,))
    radiographs = torch.rand(count, 1, SIZE, SIZE) * 0.5
    for film, place in zip(radiographs, places.tolist(), strict=True):
        film[:, place * 12 : place * 12 + 6] += 0.5
    return radiographs, nn.functional.one_hot(places, len(LABELS)).float()


def export_tiny(classifier: nn.Module, path: Path, explained_count: int = 2) -> ClassifierCard:
    return export(
        classifier,
        path,
        name="tiny",
        labels=LABELS,
        preprocessing=Preprocessing(size=SIZE),
        licence="Apache-2.0",
        provenance={"run_sha256": "0" * 64},
        explained_count=explained_count,
    )
