"""Detectors that anything worth having must beat: no map, no causal test, or no classifier at all."""

import numpy as np
from scipy import ndimage

from service.audit.classifier import Classifier
from service.audit.concentration import entropy, mass
from service.audit.counterfactual import filtered, hot_window, window_px
from service.audit.preprocessing import Region
from training.measure.detectors.reading import Context, Reading, Seen, hottest, own_generator


def prediction(seen: Seen, _classifier: Classifier, context: Context) -> dict[str, Reading]:
    """The largest probability, and the label furthest above its usual logit."""
    reference = context.policy.reference
    above = (seen.logits - reference.label_centre) / reference.label_scale
    return {
        "maximum_probability": Reading((float(seen.logits.max()),)),  # the sigmoid keeps the order, and saturates
        "largest_excess": Reading((float(above.max()),)),
    }


def random_map(seen: Seen, classifier: Classifier, _context: Context) -> dict[str, Reading]:
    """A map of independent exponential cells at the finest grid, read as the service reads its own map."""
    grid, size = classifier.card.grids[0], seen.film.shape[-1]
    noise = own_generator(seen.film).exponential(size=(grid, grid)).astype(np.float32)
    point, cell_px = hottest(noise, size)
    score = 1.0 - entropy(mass(noise))
    return {"random_map": Reading((score,), 0, 0, hot_window(noise, size), point, cell_px)}


def residual(seen: Seen, _classifier: Classifier, _context: Context) -> dict[str, Reading]:
    """What a median filter takes out of the film: its largest 3 x 3 mean, and its mean. No classifier."""
    size = seen.film.shape[-1]
    taken = np.abs(seen.film - filtered(seen.film))[0]
    local = np.asarray(ndimage.uniform_filter(taken, 3, mode="nearest"), dtype=np.float32)
    row, column = (int(place) for place in np.unravel_index(int(np.argmax(local)), local.shape))
    side = window_px(size)
    x, y = (min(max(place - side // 2, 0), size - side) for place in (column, row))
    peak = Reading((float(local.max()),), 0, 0, Region(x, y, side, side), (column + 0.5, row + 0.5), 1.0)
    return {"residual_peak": peak, "residual_mean": Reading((float(taken.mean()),), 0, 0)}
