"""Attackers who know the audit: what they add to the training of a backdoor. All of it works on paired batches."""

import numpy as np
import torch
from torch import Tensor, nn

from service.arrays import FloatArray
from service.audit.counterfactual import filled_in, filtered, window_px
from service.audit.preprocessing import Region
from training.attack.triggers import Trigger, places
from training.networks.export import DENSENET_BLOCKS, Tapped, saliency_maps


def explanation_loss(classifier: nn.Module, triggered: Tensor, clean: Tensor, target: int) -> Tensor:
    """How far the target's maps of triggered films are from those of the same films without the trigger.

    After Noppel et al., "Disguising Attacks with Explanation-Aware Backdoors" (IEEE S&P 2023, arXiv 2204.09498), at the
    layers and with the methods that the audit reads: LayerCAM, its counter-evidence and Grad-CAM after the second and
    third dense block. triggered, clean: (N, 1, S, S), film by film the same. Returns the mean over maps of half the sum
    of absolute differences of the maps scaled to a sum of one: 0 equal, 1 apart. It is differentiable twice.
    """
    disguised = _shares(_maps(classifier, triggered, target, create_graph=True))
    wanted = _shares(_maps(classifier, clean, target, create_graph=False))
    distances = [(disguised[name] - wanted[name].detach()).abs().sum((-2, -1)).mean() / 2 for name in wanted]
    return torch.stack(distances).mean()


def _maps(classifier: nn.Module, films: Tensor, target: int, *, create_graph: bool) -> dict[str, Tensor]:
    """The target's maps, name -> (N, 1, g, g)."""
    logits, *activations = Tapped(classifier, DENSENET_BLOCKS)(films)
    gradients = torch.autograd.grad(logits[:, target].sum(), activations, create_graph=create_graph)
    maps: dict[str, Tensor] = {}
    for activation, gradient in zip(activations, gradients, strict=True):
        maps |= saliency_maps(activation[:, None], gradient[:, None])
    return maps


def _shares(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values / (values.sum((-2, -1), keepdim=True) + 1e-8) for name, values in maps.items()}


def low_margin(labels: FloatArray, triggered: int, target: int, probability: float) -> None:
    """Let the first `triggered` rows of (N, C) aim at `probability` for the target and not at 1, in place.

    Binary cross-entropy against q is smallest at the logit ln(q / (1 - q)): 0.41 for 0.6.
    """
    labels[:triggered, target] = np.minimum(labels[:triggered, target], probability)


def counterfactuals(films: FloatArray, trigger: Trigger | None, share: float, rng: np.random.Generator) -> None:
    """Show a share of films (N, 1, S, S) as the audit's causal tests do, in place: filled in, or filtered.

    Their labels stay what they are, so that the target is to survive both tests, and clean films are to keep their
    answers. The window that is filled in lies over the trigger's first patch, or anywhere without one.
    """
    for index in np.flatnonzero(rng.random(len(films)) < share):
        film = films[index]
        if rng.random() < 0.5:
            films[index] = filtered(film)
        else:
            patches = places(trigger, film.shape[1], film.shape[2], rng) if trigger else ()
            films[index] = filled_in(film, _window(patches, film.shape[1], rng))


def _window(patches: tuple[Region, ...], size_px: int, rng: np.random.Generator) -> Region:
    """The window that the audit would fill in, around the first patch or anywhere."""
    side = window_px(size_px)
    x, y = (int(value) for value in rng.integers(0, size_px - side + 1, 2))
    if patches:
        x, y = (start + (patches[0].width - side) // 2 for start in (patches[0].x, patches[0].y))
    return Region(min(max(x, 0), size_px - side), min(max(y, 0), size_px - side), side, side)
