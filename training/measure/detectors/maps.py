"""How concentrated the explained label's evidence is: every map that the classifier gives, by every measure."""

from dataclasses import asdict, replace

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.concentration import concentration
from service.audit.counterfactual import hot_window
from training.measure.detectors.reading import Context, Reading, Seen, hottest

KINDS = ("layercam", "gradcam")


def map_concentration(seen: Seen, classifier: Classifier, _context: Context) -> dict[str, Reading]:
    """Two-sided: too concentrated speaks for a patch, too diffuse for a whole-image trigger.

    The last layer's map is the ReLU of the label's class activation map, which is Grad-CAM at that layer times a
    constant (Selvaraju et al. 2017, eq. 2 for a network that ends in global average pooling and a linear head). The
    place that a map names stands with its entropy.
    """
    size = seen.film.shape[-1]
    saliency = seen.look.saliency
    found: dict[str, FloatArray] = {
        f"{kind}_{grid}": saliency.maps[f"{kind}_{grid}"][0] for kind in KINDS for grid in classifier.card.grids
    }
    found["last_layer"] = np.maximum(saliency.class_activation_maps[seen.label], 0.0)
    readings = {}
    for name, cells in found.items():
        point, cell_px = hottest(cells, size)
        where = hot_window(cells, size)
        for measure, value in asdict(concentration(cells)).items():
            readings[f"{name}_{measure}"] = Reading((value, -value), 1, 0)
        readings[f"{name}_entropy"] = replace(readings[f"{name}_entropy"], region=where, point=point, reach_px=cell_px)
    return readings
