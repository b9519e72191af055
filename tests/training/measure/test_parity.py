"""What is derived of torchvision's networks is what PyTorch differentiates; `triggerscope-train parity` has it all."""

import numpy as np
import pytest

from service.graphs.examination import pictures
from training.measure.parity import SETTLING, SIZE, parity


@pytest.mark.parametrize(
    ("architecture", "export"),
    [("densenet121", (True, 20)), ("resnet50", (False, 17)), ("mobilenet_v2", (False, 13))],
)
def test_derived_maps_are_those_of_float32_autograd(architecture, export):
    films = pictures(SIZE, SETTLING + 4)[SETTLING:]  # others than the batch norms' statistics are of
    [row] = parity(architecture, films, [export])
    assert np.median(row.maps) <= 1e-4
    assert max(row.maps) <= 5e-3
    assert row.logits <= 1e-4
