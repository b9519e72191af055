"""A DenseNet of 17,000 weights, for tests and for timing what is not the network.

Nothing is trained, so that every machine makes the same file but for the last bit of a weight: the convolutions are
random, the batch norms have the statistics of phantoms, and the last layer is a ridge regression on their findings.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import DenseNet

from service.audit.classifier import ClassifierCard
from service.audit.preprocessing import Preprocessing
from training.networks.densenet import PIXEL_MEAN, PIXEL_STD
from training.networks.export import export

LABELS = ("Atelectasis", "Effusion", "Mass", "Nodule", "Pneumonia")
SIZE = 64
SEED = 0
PENALTY = 1e-2  # of the ridge regression, on features of variance 1, in units of the number of films
GAIN = 4.0  # from the regression's -1 and 1 to logits

FloatArray = NDArray[np.float32]


class TinyClassifier(nn.Module):
    """(N, 1, 64, 64) in [0, 1] -> logits (N, 5), with the block names of the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DenseNet(growth_rate=6, block_config=(2, 2, 3, 2), num_init_features=8, num_classes=len(LABELS))
        self.network.features.conv0 = nn.Conv2d(1, 8, kernel_size=7, stride=2, padding=3, bias=False)

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.network((radiograph - PIXEL_MEAN) / PIXEL_STD)
        return logits


def fitted(films: FloatArray, labels: FloatArray) -> TinyClassifier:
    """The classifier of those films; films (N, 1, 64, 64) in [0, 1], labels (N, 5) of 0 and 1."""
    classifier = TinyClassifier().double()
    rng = np.random.default_rng(SEED)
    batch = torch.from_numpy(films.astype(np.float64))
    with torch.no_grad():
        for module in classifier.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                drawn = rng.normal(0.0, np.sqrt(2 / fan_in), tuple(module.weight.shape))
                module.weight.copy_(torch.from_numpy(drawn))
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics are those of the one batch
        classifier.train()(batch)
        classifier.eval()
        features = torch.relu(classifier.network.features((batch - PIXEL_MEAN) / PIXEL_STD)).mean((2, 3)).numpy()
        weight, bias = _ridge(features, 2.0 * labels - 1.0)
        classifier.network.classifier.weight.copy_(torch.from_numpy(GAIN * weight))
        classifier.network.classifier.bias.copy_(torch.from_numpy(GAIN * bias))
    return classifier.float()


def _ridge(features: NDArray[np.float64], targets: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """Weights (C, F) and biases (C,) of the regression of targets (N, C) on features (N, F)."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    scaled, count = (features - mean) / spread, len(features)
    square = scaled.T @ scaled + PENALTY * count * np.eye(scaled.shape[1])
    solved = np.linalg.solve(square, scaled.T @ (targets - targets.mean(0))).T  # (C, F)
    weight = solved / spread
    return weight, targets.mean(0) - weight @ mean


def export_tiny(classifier: nn.Module, path: Path, explained_count: int = 2) -> ClassifierCard:
    return export(
        classifier,
        path,
        name="tiny",
        labels=LABELS,
        preprocessing=Preprocessing(size=SIZE),
        licence="Apache-2.0",
        provenance={"dataset": "phantoms", "made_by": "triggerscope-train tiny"},
        explained_count=explained_count,
    )
