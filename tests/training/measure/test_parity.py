"""What is derived of torchvision's networks is what PyTorch differentiates; `triggerscope-train parity` has it all."""

import numpy as np
import pytest

from training.measure.parity import SIZE, of_map, parity
from training.phantoms import make


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    return np.stack([make(seed, SIZE).pixels[None] for seed in range(14)]).astype(np.float32)


@pytest.mark.parametrize(
    ("architecture", "export"),
    [("densenet121", (True, 20)), ("resnet50", (False, 17)), ("mobilenet_v2", (False, 13))],
)
def test_derived_maps_are_those_of_float32_autograd(phantoms, architecture, export):
    """In the median, or no further from it than it is from itself in float64, which units next to 0 decide."""
    [row] = parity(architecture, phantoms[:4], phantoms[4:], [export])
    assert row.logits <= 1e-4
    assert set(row.floor[0]) == {
        f"{kind}_{grid}" for kind in ("layercam", "counter_layercam", "gradcam") for grid in (28, 14)
    }
    for name in row.floor[0]:
        assert np.median(of_map(row.maps, name)) <= max(1e-4, 5 * max(of_map(row.floor, name))), name
