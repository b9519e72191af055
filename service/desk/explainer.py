"""On demand, for people: maps of any label of an audited film, and the film as the causal tests change it.

Made from the 8 bits of each pixel that are kept, with the very classifier of the audit; never while auditing.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.audit import overlay
from service.audit.calibration import Policy
from service.audit.counterfactual import filled_in, filtered, hot_window, without_patterns
from service.audit.evidence import SIGNS, Hypothesis
from service.audit.preprocessing import model_input
from service.errors import TriggerscopeError
from service.records.stored_evidence import StoredEvidence
from service.records.tables import AuditRow
from service.registry.registry import Registry

Maps = dict[str, NDArray[np.float32]]
ChangeName = Literal["none", "fill_in", "filter", "pattern"]
MAPS_KEPT, FILMS_KEPT = 64, 16  # some 30 kB and 200 kB each
WAIT_SECONDS = 10.0
PLACES = 16  # for pictures that are made or wait for it: two pages ask for six each at once
DECISIVE_MAPS: dict[Hypothesis, str] = {"support": "layercam", "counter": "counter_layercam"}


class ExplainerBusy(TriggerscopeError):
    """Other people's films are being explained."""

    code = "too_busy"


@dataclass(frozen=True, slots=True)
class _Film:
    """A film as one classifier sees it. pixels_file: the recorded hash of its pixels. row: an audit of it."""

    pixels_sha256: str
    pixels_file: str | None
    classifier_sha256: str
    row: AuditRow = field(compare=False)

    @classmethod
    def of(cls, row: AuditRow) -> "_Film":
        pixels_file = row.files["pixels"]["sha256"] if row.files else None
        return cls(row.pixels_sha256, pixels_file, row.classifier_sha256, row)


class Explainer:
    """One film at a time, so that looking at films does not slow auditing down; what was made last is kept."""

    def __init__(self, evidence: StoredEvidence, registry: Registry, wait_seconds: float = WAIT_SECONDS) -> None:
        self._evidence, self._registry, self._wait_seconds = evidence, registry, wait_seconds
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(PLACES)
        self._film = lru_cache(FILMS_KEPT)(self._model_input)
        self._maps = lru_cache(MAPS_KEPT)(self._explain)

    def maps(self, row: AuditRow, label: str) -> Maps:
        """The maps of one label, each on its own grid: the stored ones of the explained label, else made now.

        Raises EvidenceChanged, NotStored, ExplainerBusy.
        """
        if label == row.explained_label:
            return self._evidence.maps(row)
        with self._own_turn():
            self._evidence.require_record(row)
            return self._maps(_Film.of(row), label)

    def changed_film(self, row: AuditRow, change: ChangeName, *, close_up: bool) -> bytes:
        """The classifier's input as one causal test changes it, its hottest window outlined, as PNG.

        close_up: the window and its surroundings alone, enlarged. Raises EvidenceChanged, NotStored, ExplainerBusy.
        """
        maps = self._evidence.maps(row)
        with self._own_turn():
            film = self._film(_Film.of(row))
        grid = self._registry.classifier(row.classifier_sha256).card.grids[0]
        decisive = DECISIVE_MAPS[hypothesis_of(row, self._registry.policy(row.policy_sha256))]
        region = hot_window(maps[f"{decisive}_{grid}"], film.shape[-1])
        if change == "fill_in":
            film = filled_in(film, region)
        elif change == "filter":
            film = filtered(film)
        elif change == "pattern":
            film = without_patterns(film)
        return overlay.close_up(film[0], region) if close_up else overlay.render(film[0], None, region, None)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Waits for it in one of few places: who waits holds a thread of the server's."""
        if not self._places.acquire(blocking=False):
            raise ExplainerBusy("other films are being explained; try again in a moment")
        try:
            if not self._turn.acquire(timeout=self._wait_seconds):
                raise ExplainerBusy("other films are being explained; try again in a moment")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()

    def _explain(self, film: _Film, label: str) -> Maps:
        classifier = self._registry.classifier(film.classifier_sha256)
        chosen = classifier.card.labels.index(label)
        _, saliency = classifier.explain_label(self._film(film), chosen)
        maps = {name: grids[0] for name, grids in saliency.maps.items()}
        return maps | {"class_activation_map": saliency.class_activation_maps[chosen]}

    def _model_input(self, film: _Film) -> NDArray[np.float32]:
        pixels = self._evidence.pixels(film.row).astype(np.float32) / np.float32(255.0)
        return model_input(pixels, self._registry.classifier(film.classifier_sha256).card.preprocessing)


def hypothesis_of(row: AuditRow, policy: Policy | None) -> Hypothesis:
    """`support` or `counter`; of an old audit, which does not say, the one under whose clean values its ranks hold."""
    if row.hypothesis is not None:
        return "counter" if row.hypothesis == "counter" else "support"
    if policy is None:
        return "support"
    usual = policy.reference.usual

    def agrees(hypothesis: Hypothesis) -> bool:
        return all(
            found["p_value"] is None or math.isclose(usual[hypothesis, name].p_value(found["value"]), found["p_value"])
            for name, found in row.evidence.items()
            if (hypothesis, name) in usual
        )

    return next((hypothesis for hypothesis in SIGNS if agrees(hypothesis)), "support")
