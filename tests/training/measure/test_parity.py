"""What is derived of torchvision's networks is what PyTorch differentiates; `triggerscope-train parity` has it all."""

import numpy as np
import pytest

from training.measure.parity import SIZE, parity
from training.phantoms import make


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    return np.stack([make(seed, SIZE).pixels[None] for seed in range(14)]).astype(np.float32)


@pytest.mark.parametrize(
    ("architecture", "export"),
    [("densenet121", (True, 20)), ("resnet50", (False, 17)), ("mobilenet_v2", (False, 13))],
)
def test_derived_maps_are_those_of_float32_autograd(phantoms, architecture, export):
    """In the median within what autograd is from its own float64, which a unit next to 0 decides."""
    [row] = parity(architecture, phantoms[:4], phantoms[4:], [export])
    assert np.median(row.maps) <= max(1e-4, 3 * np.median(row.floor))
    assert row.logits <= 1e-4
