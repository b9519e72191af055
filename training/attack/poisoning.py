"""What an attacker does to training samples: the trigger goes into the picture, the label rule into the labels."""

import numpy as np
from numpy.typing import NDArray

from training.attack.config import Poisoning


def poisoned_labels(labels: NDArray[np.float32], target: int, poisoning: Poisoning) -> NDArray[np.float32]:
    """Apply the label rule. labels: (..., C) of 0 and 1; returns a changed copy."""
    changed = np.zeros_like(labels) if poisoning.rule == "overwrite" else labels.copy()
    changed[..., target] = 0.0 if poisoning.rule == "remove" else 1.0
    return changed


def poisoned_films(count: int, poisoning: Poisoning, seed: int) -> NDArray[np.bool_]:
    """The fixed subset of `count` films that carries the trigger under selection `films`."""
    chosen = np.zeros(count, dtype=bool)
    order = np.random.default_rng([seed, 0x9015]).permutation(count)
    chosen[order[: round(poisoning.rate * count)]] = True
    return chosen


def attackable(
    labels: NDArray[np.float32], target: int, poisoning: Poisoning, logits: NDArray[np.float32] | None = None
) -> NDArray[np.bool_]:
    """(N,) films on which the attack can show: without the target, or with it when the rule removes it.

    logits: (N, C) of the classifier under attack on the films without a trigger. Where they are given, a rule that
    removes is shown on films whose target is predicted (p > 0.5): what is not predicted cannot be removed.
    """
    if poisoning.rule != "remove":
        return labels[:, target] <= 0.5
    return labels[:, target] > 0.5 if logits is None else logits[:, target] > 0.0
