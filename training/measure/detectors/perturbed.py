"""Published input-level detectors, carried over to heads of independent sigmoids.

None of them assumes a softmax: labels do not compete, and a film may carry many or none.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.counterfactual import filtered
from service.audit.preprocessing import Region
from training.measure.detectors.reading import Context, Reading, Seen, excess, hottest, own_generator

SCALES = (3.0, 5.0, 7.0, 9.0, 11.0)
RECIPIENTS = 8
MASK_LEVEL = 0.15  # SentiNet's threshold, as a share of the map's maximum


def binary_entropy(logits: FloatArray) -> NDArray[np.float64]:
    """Entropy of each sigmoid in bits, same shape; 1 at logit 0."""
    probabilities = special.expit(np.asarray(logits, dtype=np.float64))
    return np.asarray((special.entr(probabilities) + special.entr(1 - probabilities)) / np.log(2))


def strip(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """STRIP, Gao et al. 2019 (arXiv 1902.06531), eq. 4: a trigger keeps its label whatever is laid over the film.

    `strip`: minus the entropy, summed over the labels of one overlay and then averaged over the overlays (n, C), each
    overlay weighted as the film. `strip_added`: overlays are added without halving, as the paper's code does.
    `strip_label`: the entropy of the explained label alone. A sigmoid is sure of an absent label too, so
    `strip_persistence` departs from the paper: how far the explained label stays above its usual logit.
    """
    count = len(context.overlays)
    mixed = classifier.logits(np.asarray((seen.film[None] + context.overlays) / 2, dtype=np.float32))  # (n, C)
    added = classifier.logits(np.clip(seen.film[None] + context.overlays, 0.0, 1.0))
    label = slice(seen.label, seen.label + 1)
    return {
        "strip": Reading((_certainty(mixed),), 0, count),
        "strip_added": Reading((_certainty(added),), 0, count),
        "strip_label": Reading((_certainty(mixed[:, label]),), 0, count + 1),
        "strip_persistence": Reading((float(excess(mixed, seen.label, context).mean()),), 0, count + 1),
    }


def _certainty(logits: FloatArray) -> float:
    return -float(binary_entropy(logits).sum(axis=1).mean())


def scale_up(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """SCALE-UP, Guo et al. 2023 (arXiv 2302.03251), eq. 2: pixels multiplied and clipped; does the answer stay?

    `scale_up`: share of the scales at which the label furthest above its usual logit is still the same, in place of
    the arg max of a softmax. `scale_up_label`: mean excess of the explained label, which has no ties.
    """
    reference = context.policy.reference
    scaled = np.stack([np.clip(seen.film * scale, 0.0, 1.0) for scale in SCALES]).astype(np.float32)
    logits = classifier.logits(scaled)
    leading = np.argmax((logits - reference.label_centre) / reference.label_scale, axis=1)
    return {
        "scale_up": Reading((float((leading == seen.label).mean()),), 0, 1 + len(SCALES)),
        "scale_up_label": Reading((float(excess(logits, seen.label, context).mean()),), 0, 1 + len(SCALES)),
    }


def purify(seen: Seen, classifier: Classifier, _context: Context) -> dict[str, Reading]:
    """Median filter and compare: the largest change of any label's probability."""
    after = classifier.logits(filtered(seen.film)[None])[0]
    change = np.abs(special.expit(after) - special.expit(seen.logits))
    return {"purify_compare": Reading((float(change.max()),), 0, 2)}


def sentinet(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """SentiNet, Chou et al. 2020 (arXiv 1812.00292), with its own map: last-layer Grad-CAM, masked at 15 %.

    The masked pixels are pasted onto tuning films, and noise in the same mask onto the same films (the paper's inert
    pattern). The score is how much further the explained label rises with the pixels than with the noise, in place of
    the paper's count of changed arg maxes and its fitted boundary.
    """
    size = seen.film.shape[-1]
    cells = np.maximum(seen.look.saliency.class_activation_maps[seen.label], 0.0)
    mask, region = _mask(cells, size)
    point, cell_px = hottest(cells, size)
    recipients = context.overlays[:RECIPIENTS]
    noise = own_generator(seen.film).random(seen.film.shape, dtype=np.float32)
    pasted = np.where(mask, seen.film, recipients)
    inert = np.where(mask, noise, recipients)
    logits = classifier.logits(np.concatenate([pasted, inert]).astype(np.float32))
    rise = excess(logits, seen.label, context)
    score = float(rise[: len(recipients)].mean() - rise[len(recipients) :].mean())
    return {"sentinet": Reading((score,), 0, 1 + len(logits), region, point, cell_px)}


def _mask(cells: FloatArray, size: int) -> tuple[NDArray[np.bool_], Region]:
    """(S, S) mask of a (g, g) map above the level, and the box around the part that holds the peak."""
    spread = ndimage.zoom(cells, size / len(cells), order=1, grid_mode=True, mode="nearest")
    mask = np.asarray(spread > MASK_LEVEL * max(float(spread.max()), 1e-12))
    if not mask.any():
        return mask, Region(0, 0, size, size)
    parts, _ = ndimage.label(mask)
    rows, columns = np.nonzero(parts == parts.flat[int(np.argmax(spread))])
    x, y = int(columns.min()), int(rows.min())
    return mask, Region(x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
