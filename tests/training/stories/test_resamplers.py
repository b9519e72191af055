"""Cards can name whose resampler it is: each one against the library itself."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from service.audit.preprocessing import Preprocessing, model_input

FLOAT_TOLERANCE = 3e-5  # of the range; measured at most 1.4e-5
LEVELS = 1  # of 255, where a pipeline is in 8 bits
SHAPES = [(1024, 1024), (1955, 1841), (320, 262), (448, 448), (200, 500)]  # the last one enlarges one side
OPENCV = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TORCH = [("nearest", False), ("nearest-exact", False)]
TORCH += [(resampler, antialias) for resampler in ("bilinear", "bicubic") for antialias in (False, True)]


@pytest.fixture(params=SHAPES, ids=str)
def film(request):
    """Noise, the hardest of films, far enough from black and white that no cubic filter leaves the range."""
    noise = np.random.default_rng(7).integers(51, 205, request.param)
    return (noise / 255).astype(np.float32)


def eight_bit(film):
    return np.rint(film * 255).astype(np.uint8)


def largest(one, other):
    return np.abs(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)).max()


@pytest.mark.parametrize("resampler", OPENCV)
def test_opencv(film, resampler):
    described = {"resampler": resampler, "antialias": resampler == "area", "library": "opencv"}
    theirs = cv2.resize(film, (224, 224), interpolation=OPENCV[resampler])
    assert largest(model_input(film, Preprocessing(**described))[0], theirs) <= FLOAT_TOLERANCE
    theirs = cv2.resize(eight_bit(film), (224, 224), interpolation=OPENCV[resampler])
    assert largest(model_input(film, Preprocessing(**described, dtype="uint8"))[0] * 255, theirs) <= LEVELS + 1e-3


@pytest.mark.parametrize(("resampler", "antialias"), TORCH)
def test_torch(film, resampler, antialias):
    described = {"resampler": resampler, "antialias": antialias, "library": "torch"}
    mode = InterpolationMode(resampler)
    theirs = functional.resize(torch.from_numpy(film)[None], [224, 224], mode, antialias=antialias)
    assert largest(model_input(film, Preprocessing(**described)), theirs) <= FLOAT_TOLERANCE
    theirs = functional.resize(torch.from_numpy(eight_bit(film))[None], [224, 224], mode, antialias=antialias)
    levels = 2 if resampler == "bicubic" else LEVELS
    assert largest(model_input(film, Preprocessing(**described, dtype="uint8")) * 255, theirs) <= levels + 1e-3


@pytest.mark.parametrize("resampler", PILLOW)
def test_pillow_in_eight_bits(film, resampler):
    described = Preprocessing(resampler=resampler, antialias=resampler != "nearest", dtype="uint8")
    theirs = Image.fromarray(eight_bit(film)).resize((224, 224), PILLOW[resampler])
    assert largest(model_input(film, described)[0] * 255, np.asarray(theirs)) <= 1e-3


@pytest.mark.parametrize("antialias", [False, True])
def test_the_shorter_side_and_a_centre_crop_as_torchvision_does_it(film, antialias):
    described = Preprocessing(antialias=antialias, library="torch", shorter_side=256)
    resized = functional.resize(torch.from_numpy(film)[None], [256], antialias=antialias)
    theirs = functional.center_crop(resized, [224, 224])
    assert largest(model_input(film, described), theirs) <= FLOAT_TOLERANCE


def test_a_cubic_that_overshoots_is_cut_off_at_black_and_white():
    film = (np.indices((448, 448)).sum(axis=0) // 3 % 2).astype(np.float32)
    theirs = cv2.resize(film, (224, 224), interpolation=cv2.INTER_CUBIC)
    ours = model_input(film, Preprocessing(resampler="bicubic", antialias=False, library="opencv"))[0]
    assert theirs.min() < 0.0
    assert largest(ours, np.clip(theirs, 0.0, 1.0)) <= FLOAT_TOLERANCE
