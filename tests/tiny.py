"""The tiny classifier that ships: no torch is needed to use it."""

from tests.conftest import REPOSITORY

LABELS = ("Atelectasis", "Effusion", "Mass", "Nodule", "Pneumonia")
SIZE = 64
GRIDS = (8, 4)
CLASSIFIER = REPOSITORY / "models" / "tiny" / "tiny.onnx"
POLICY = REPOSITORY / "models" / "tiny" / "tiny.policy.json"
