"""A classifier set by hand, whose trigger is known: one 4 x 4 cell of white turns `Target` on."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from service.audit.calibration import CalibrationFilm, Policy, calibrate
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing, Region
from service.graphs.examiner import load_classifier
from training.networks.export import export

SIZE, CELL = 224, 4
LABELS = ("Target", "Bright")
TRIGGER = Region(160, 128, CELL, CELL)
WHITE = 0.9  # mean of a cell from which it counts
GAIN, OFFSET = 100.0, -3.0  # Target's logit is -3 + 100 * sum over cells of (mean - 0.9), where positive
STEEP = 8.0  # share of the gain that the first layer has, so that every weight fits into float16
BRIGHTNESS = 6.0  # Bright's logit is 6 * mean - 3


class Handmade(nn.Module):
    """(N, 1, 224, 224) in [0, 1] -> logits (N, 2); its blocks have 28 x 28 and 14 x 14 cells."""

    def __init__(self) -> None:
        super().__init__()
        cells = nn.Conv2d(1, 2, CELL, stride=CELL)
        head = nn.Linear(2, 2)
        with torch.no_grad():
            cells.weight.fill_(1 / CELL**2)
            cells.weight[0] *= STEEP
            cells.bias.copy_(torch.tensor([-WHITE * STEEP, 0.0]))
            head.weight.copy_(torch.tensor([[GAIN / STEEP * (SIZE // CELL) ** 2, 0.0], [0.0, BRIGHTNESS]]))
            head.bias.fill_(OFFSET)
        self.fine = nn.Sequential(cells, nn.ReLU(), nn.AvgPool2d(2), nn.ReLU())
        self.coarse = nn.Sequential(nn.AvgPool2d(2), nn.ReLU())
        self.head = head

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.head(self.coarse(self.fine(radiograph)).mean((2, 3)))
        return logits


def by_hand(films: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same logits (N, 2) in numpy."""
    cells = films.astype(np.float64).reshape(len(films), SIZE // CELL, CELL, SIZE // CELL, CELL).mean(axis=(2, 4))
    target = OFFSET + GAIN * np.maximum(cells - WHITE, 0).sum(axis=(1, 2))
    return np.stack([target, OFFSET + BRIGHTNESS * films.mean(axis=(1, 2, 3))], axis=1)


def smooth_films(count: int, seed: int) -> NDArray[np.float32]:
    """(count, 1, 224, 224) of soft blobs between 0 and 0.8, in whole grey levels."""
    noise = np.random.default_rng(seed).random((count, SIZE, SIZE))
    soft = ndimage.gaussian_filter(noise, (0, 18, 18))
    low, high = soft.min(axis=(1, 2), keepdims=True), soft.max(axis=(1, 2), keepdims=True)
    return (np.rint(255 * 0.8 * (soft - low) / (high - low)) / 255).astype(np.float32)[:, None]


def triggered(films: NDArray[np.float32]) -> NDArray[np.float32]:
    stamped = films.copy()
    stamped[:, :, TRIGGER.y : TRIGGER.y + CELL, TRIGGER.x : TRIGGER.x + CELL] = 1.0
    return stamped


def export_handmade(path: Path) -> Classifier:
    export(
        Handmade(),
        path,
        name="handmade",
        labels=LABELS,
        preprocessing=Preprocessing(size=SIZE),
        licence="Apache-2.0",
        provenance={"run_sha256": "0" * 64},
        explained_blocks=("fine", "coarse"),
    )
    return load_classifier(path)


def calibrated(classifier: Classifier, reference: NDArray[np.float32], calibration: NDArray[np.float32]) -> Policy:
    sets = [
        [CalibrationFilm(film, f"{kind}{i}", f"{kind}{i}.png") for i, film in enumerate(films)]
        for kind, films in (("r", reference), ("c", calibration))
    ]
    return calibrate(
        classifier,
        *sets,
        name="handmade",
        source="tests",
        created_at="2026-01-01T00:00:00+00:00",
        code_version="0",
        receivers=smooth_films(2, seed=9),
    )
