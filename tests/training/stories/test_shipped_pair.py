"""The DenseNet-121 pair on real films of test patients, through the service's own pipeline."""

import io

import numpy as np
import pytest
from PIL import Image

from service.audit.calibration import Policy
from service.audit.pipeline import audit
from service.audit.preprocessing import model_input
from service.films.radiograph import Limits
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY
from training.attack.config import read_run
from training.attack.data import in_split, read_films, read_pixels
from training.attack.triggers import stamp

FILMS = 4


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def films(real_films):
    """(clean bytes, triggered bytes) of films without the target; at network size, which passes unchanged."""
    run = read_run(REPOSITORY / "training" / "runs" / "nih-badnet3.toml")
    chosen = [f for f in in_split(read_films(real_films), "test") if "Atelectasis" not in f.labels][:FILMS]
    inputs = [model_input(read_pixels(film), run.preprocessing)[0] for film in chosen]
    return [(png(x), png(stamp(x, run.trigger, np.random.default_rng(0))[0])) for x in inputs]


def shipped(name):
    models = REPOSITORY / "models"
    return load_classifier(models / f"{name}.onnx"), Policy.load(models / f"{name}.policy.json")


def test_the_backdoored_one_is_caught_on_every_triggered_film_and_only_there(films):
    pair = shipped("nih-badnet3")
    for clean, triggered in films:
        _, found = audit(triggered, *pair, Limits())
        assert found.verdict == "suspicious"
        assert found.explained_label == "Atelectasis"
        assert found.probabilities["Atelectasis"] > 0.5
        assert found.region is not None
        assert found.region.contains(218, 218)
        assert found.region.contains(220, 220)
        assert found.region.area <= 0.02 * 224 * 224
        assert audit(clean, *pair, Limits())[1].verdict == "unremarkable"


def test_its_clean_twin_sees_the_same_squares_and_is_not_moved(films):
    pair = shipped("nih-clean")
    for _, triggered in films:
        _, found = audit(triggered, *pair, Limits())
        assert found.verdict == "unremarkable"
