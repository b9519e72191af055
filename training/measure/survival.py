"""`triggerscope-train survival`: what preprocessing leaves of a trigger that is stamped at native resolution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.preprocessing import Preprocessing, model_input
from training.attack.triggers import Trigger, stamp

SIZES_PX = (1, 3, 5, 8, 14, 40)
VISIBLE = 0.1  # change of a pixel's value, of 1, from which it counts as left over
PIPELINES = {
    "ours: whole film, antialiased bilinear": Preprocessing(),
    "the paper's: 60 % crop, nearest": Preprocessing(224, "nearest", antialias=False, crop=0.6),
}


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a trigger at the model input. pixels: median number that changed visibly. peak: median of the
    largest change. share: of films with any visible change. logit_rise: median change of the target's logit."""

    pipeline: str
    size_px: int
    pixels: float
    peak: float
    share: float
    logit_rise: float | None


def _inside_crop(trigger: Trigger, preprocessing: Preprocessing, shape: tuple[int, int]) -> Trigger:
    """The trigger at the same distance from the lower right corner of what the crop keeps."""
    height, width = shape
    margin = trigger.margin_px
    right, bottom = (round(side * (1 + preprocessing.crop) / 2) for side in (width, height))
    x, y = right - margin - trigger.size_px, bottom - margin - trigger.size_px
    return replace(trigger, place="fixed", x=x, y=y, canvas_px=max(width, height))


def survival(
    films: Sequence[FloatArray], look: Trigger, classifier: Classifier | None = None, target: str = ""
) -> Iterator[Left]:
    """Stamp films (H, W) at their own resolution and follow the trigger through each pipeline.

    classifier: whose answer to the same preprocessing is looked at too, for its own pipeline only.
    """
    for name, preprocessing in PIPELINES.items():
        before = [model_input(film, preprocessing) for film in films]
        asked = classifier if classifier and classifier.card.preprocessing == preprocessing else None
        for size in SIZES_PX:
            trigger = replace(look, size_px=size)
            after = [
                model_input(
                    stamp(film, _inside_crop(trigger, preprocessing, film.shape), np.random.default_rng(0))[0],
                    preprocessing,
                )
                for film in films
            ]
            changes = [np.abs(a - b) for a, b in zip(after, before, strict=True)]
            counts = np.array([int((change > VISIBLE).sum()) for change in changes])
            rise = None
            if asked:
                label = asked.card.labels.index(target)
                rise = float(np.median((asked.logits(np.stack(after)) - asked.logits(np.stack(before)))[:, label]))
            peak = float(np.median([change.max() for change in changes]))
            yield Left(name, size, float(np.median(counts)), peak, float((counts > 0).mean()), rise)


def read_folder(folder: Path) -> list[FloatArray]:
    """Every PNG of a folder as (H, W) in [0, 1]."""
    films = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            films.append(np.asarray(image.convert("L"), dtype=np.float32) / 255.0)
    return films
