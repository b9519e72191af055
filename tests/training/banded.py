"""The tiny network trained for some steps to tell bright bands apart, so that no statistic is at its start value."""

import torch
from torch import Tensor, nn

from training.networks.tiny import LABELS, SIZE, TinyClassifier


def trained_tiny(seed: int = 0, steps: int = 30) -> TinyClassifier:
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
