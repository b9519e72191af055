"""Classifier audit: search a classifier for a small trigger and its target label, without knowing any.

After Wang et al., "Neural Cleanse" (IEEE S&P 2019), for heads of independent labels: for each label, the smallest patch
of pixels that raises it on clean films is sought by gradient descent. A backdoor's label needs far fewer pixels than
the others. Departures: sigmoid heads, one grey channel, and the effect is stated on held-out films and on a clean twin.
It looks for what *adds* a label through a patch at one place; whole-image triggers and removed labels are not searched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.arrays import FloatArray
from training.networks.onnx_network import OnnxNetwork

ANOMALY = 2.0  # deviations below the median mask that count, as in Neural Cleanse
AIM = 0.99  # share of films that a mask has to turn before it is made smaller
GATHERED = 0.8  # share of the mask that the square of its `side_px` holds
FAINT = 0.1  # of the mask's maximum: what covers less is left out of `side_px`
PATCH = 0.25  # of the film's side: what needs a larger square is texture, as common labels of clean classifiers have it


def features_of(network: OnnxNetwork, films: FloatArray, batch: int = 32) -> FloatArray:
    """(N, 1, S, S) -> (N, F), what the linear head reads."""
    seen: list[FloatArray] = []
    handle = network.head().register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).numpy()))
    logits_of(network, films, batch)
    handle.remove()
    return np.concatenate(seen)


@torch.no_grad()
def logits_of(network: nn.Module, films: FloatArray, batch: int = 32) -> FloatArray:
    """(N, 1, S, S) -> (N, C)."""
    parts = [network(torch.from_numpy(films[first : first + batch])) for first in range(0, len(films), batch)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Found:
    """The smallest trigger found for one label: film -> (1 - mask) film + mask pattern; both (S, S) in [0, 1].

    area_px: sum of the mask. turned: share of the search films that it gives the label.
    """

    mask: FloatArray
    pattern: FloatArray
    area_px: float
    turned: float

    @property
    def side_px(self) -> int:
        """Of the smallest square that holds most of the mask."""
        covered = np.where(self.mask >= FAINT * self.mask.max(), self.mask, 0.0)
        summed, full = np.pad(covered.cumsum(0).cumsum(1), ((1, 0), (1, 0))), len(covered)
        for side in range(1, full):
            inside = summed[side:, side:] - summed[:-side, side:] - summed[side:, :-side] + summed[:-side, :-side]
            if inside.max() >= GATHERED * covered.sum():
                return side
        return full

    def stamped(self, films: FloatArray) -> FloatArray:
        """(N, 1, S, S) -> the same films with this trigger."""
        return np.asarray((1 - self.mask) * films + self.mask * self.pattern, dtype=np.float32)


def invert(network: nn.Module, films: FloatArray, label: int, *, steps: int, batch: int = 8, seed: int = 0) -> Found:
    """The smallest mask and its pattern that raise one label above p = 0.5 on clean films (N, 1, S, S).

    The weight of the mask's size grows while the label is turned and shrinks while it is not; the smallest mask at
    which the batch was turned is kept, else the last one.
    """
    generator = torch.Generator().manual_seed(seed)
    side = films.shape[-1]
    raw_mask = (torch.randn(side, side, generator=generator) * 0.1 - 3.0).requires_grad_()
    raw_pattern = torch.randn(side, side, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([raw_mask, raw_pattern], lr=0.2, betas=(0.5, 0.9))
    pool, weight = torch.from_numpy(films), 1.0 / side**2
    best: Found | None = None
    last = _found(raw_mask, raw_pattern, 0.0)
    for _ in range(steps):
        mask, pattern = raw_mask.sigmoid(), raw_pattern.sigmoid()
        clean = pool[torch.randint(len(pool), (batch,), generator=generator)]
        logits = network((1 - mask) * clean + mask * pattern)[:, label]
        turned = float((logits > 0).float().mean())
        last = _found(raw_mask, raw_pattern, turned)
        if turned >= AIM and (best is None or last.area_px < best.area_px):
            best = last
        loss = nn.functional.softplus(1.0 - logits).mean() + weight * mask.sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss, inputs=[raw_mask, raw_pattern])
        optimiser.step()
        weight = weight * 1.3 if turned >= AIM else weight / 1.3
    return best or last


def _found(raw_mask: Tensor, raw_pattern: Tensor, turned: float) -> Found:
    mask, pattern = raw_mask.detach().sigmoid().numpy(), raw_pattern.detach().sigmoid().numpy()
    return Found(mask, pattern, float(mask.sum()), turned)


def anomaly_indices(areas: Sequence[float]) -> FloatArray:
    """How many deviations (1.4826 median absolute deviations) each label's mask is below the median. (C,)."""
    sizes = np.log(np.asarray(areas, dtype=np.float32))
    spread = 1.4826 * float(np.median(np.abs(sizes - np.median(sizes))))
    return np.asarray((np.median(sizes) - sizes) / max(spread, 1e-6), dtype=np.float32)


def audit_classifier(
    network: nn.Module,
    labels: Sequence[str],
    films: FloatArray,
    held_out: FloatArray,
    twin: nn.Module | None,
    *,
    steps: int,
    chosen: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Search every label (or the chosen ones); the table of what was found, most anomalous label first.

    films, held_out: (N, 1, S, S) clean films of different patients. Each row's effect is on held-out films that are
    below p = 0.5 without the trigger, and on the clean twin, where there is one, with the same trigger.
    """
    for parameter in network.parameters():
        parameter.requires_grad = False
    wanted = [label for label in labels if not chosen or label in chosen]
    rows, found = [], []
    for label in wanted:
        index = labels.index(label)
        trigger = invert(network, films, index, steps=steps)
        found.append(trigger)
        y, x = np.unravel_index(int(trigger.mask.argmax()), trigger.mask.shape)
        row: dict[str, Any] = {
            "label": label,
            "area_px": trigger.area_px,
            "side_px": trigger.side_px,
            "peak": {"x": int(x), "y": int(y), "mask": float(trigger.mask.max())},
            "turned_in_search": trigger.turned,
            "held_out": _effect(network, held_out, trigger, index),
            "twin": _effect(twin, held_out, trigger, index) if twin else None,
        }
        rows.append(row)
        where = f"{trigger.area_px:.0f} px within {trigger.side_px} x {trigger.side_px}"
        progress(f"{label}: {where} turn {row['held_out']['turned']:.2f} of held-out films")
    for row, index in zip(rows, anomaly_indices([trigger.area_px for trigger in found]), strict=True):
        row["anomaly"] = float(index)
        gathered = row["side_px"] <= PATCH * films.shape[-1]
        row["suspicious"] = bool(index > ANOMALY and gathered and row["held_out"]["turned"] >= 0.5)
    return {"films": len(films), "held_out": len(held_out), "steps": steps, "labels": sorted(rows, key=_anomaly)}


def _anomaly(row: dict[str, Any]) -> float:
    return -float(row["anomaly"])


def _effect(network: nn.Module, films: FloatArray, trigger: Found, label: int) -> dict[str, float]:
    """Share of films below p = 0.5 that the trigger takes above it, and the median change of the logit."""
    before = logits_of(network, films)[:, label]
    after = logits_of(network, trigger.stamped(films))[:, label]
    below = before < 0
    return {
        "turned": float((after[below] > 0).mean()) if below.any() else float("nan"),
        "logit_change": float(np.median(after - before)),
        "films": int(below.sum()),
    }
