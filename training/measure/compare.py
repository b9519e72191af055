"""`triggerscope-train compare`: every detector on the same films, with the thresholds that calibration films give.

For one classifier, its policy and one run's trigger. For the clean twin pass the backdoored run, as with `evaluate`.
Thresholds come from calibration films, what detectors fit comes from tuning films, figures from the split under test.
Intervals are patient bootstraps of the films under test; the thresholds stay fixed in them, and the band says what few
calibration films add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.arrays import FloatArray
from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.counterfactual import filled_in
from service.audit.pipeline import SCORES_VERSION
from service.audit.preprocessing import Region
from service.audit.ranking import rank_at, reached_band
from training.attack.config import Run
from training.attack.data import Film, in_split, label_matrix, model_inputs, patients
from training.attack.poisoning import attackable
from training.attack.train import triggered_inputs
from training.attack.triggers import film_stream, places
from training.measure.detectors import FAMILIES, Context, fit, scores, versions_of
from training.measure.detectors.columns import Column, explain_forwards, read_set
from training.measure.detectors.fusion import RULES, fused
from training.measure.evaluate import all_logits, attack_table, overlap, share, victim_table
from training.metrics import auroc, bootstrap, bootstrap_mean, conformal_p_values, roc, tie_share

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

SHIPPED = "shipped"
RATES = (0.01, 0.05)
NOMINAL = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the calibration curve
RESTORED_FILMS = 100  # on which regions are taken out, at two forwards a detector
VISIBLE = 2 / 255  # least change of a pixel that counts as the trigger's


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many films are read. limit: of each set, None for all. costly: of each set, by costly detectors."""

    limit: int | None = None
    costly: int = 100
    seed: int = 0

    def order(self, count: int) -> NDArray[np.int64]:
        """A seeded draw of a set's films without replacement; costly detectors take its beginning."""
        return np.random.default_rng([self.seed, count]).permutation(count)[: self.limit]


@dataclass(frozen=True, slots=True)
class FilmSet:
    """Films of one kind as model inputs (N, 1, S, S), and one column of readings a detector."""

    films: tuple[Film, ...]
    inputs: FloatArray
    columns: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What is known of triggered films. clean: (N, 1, S, S) the same without the trigger. truth: where its patches lie,
    none for whole-image triggers. worked: (N,) whether the target is crossed."""

    clean: FloatArray
    truth: tuple[tuple[Region, ...], ...]
    logits: FloatArray
    worked: Flags
    target: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """One detector's scores on each set; triggered is empty without an attack."""

    calibration: Scores
    test: Scores
    triggered: Scores
    other_site: Scores


def compare(
    run: Run,
    films: Sequence[Film],
    classifier: Classifier,
    policy: Policy,
    *,
    split: str,
    sampling: Sampling,
    cache: Path,
    families: Sequence[str] = tuple(FAMILIES),
    other_site: Sequence[Film] = (),
    threads: int = 1,
) -> tuple[dict[str, Any], dict[str, FilmSet], Attacked | None]:
    """All figures as they are written to JSON, and the films and readings that they come from."""
    policy.check(classifier.card)
    preprocessing = classifier.card.preprocessing
    chosen = {name: in_split(films, name) for name in ("tuning", "calibration", split)} | {"site": list(other_site)}
    inputs = {name: model_inputs(found, preprocessing) for name, found in chosen.items()}
    context = Context.of(policy, inputs["tuning"], sampling.seed)

    def read(name: str, found: Sequence[Film], made: FloatArray) -> FilmSet:
        order = sampling.order(len(found))
        columns = read_set(
            made[order],
            classifier,
            context,
            cache,
            families=families,
            costly=sampling.costly,
            words=name,
            threads=threads,
        )
        return FilmSet(tuple(found[int(i)] for i in order), made[order], columns)

    sets = {name: read(name, chosen[name], inputs[name]) for name in chosen}
    attacked = None
    if run.trigger and run.poisoning:
        victims, stamped, attacked = _attack(run, chosen[split], inputs[split], classifier, sampling)
        sets["triggered"] = read("triggered", victims, stamped)
    test, cost = sets[split], explain_forwards(inputs[split][0], classifier, context)
    result = {
        "kind": "comparison",
        "scores_version": SCORES_VERSION,
        "detectors_version": versions_of(families),
        "run": {"name": run.name, "sha256": run.sha256, "seed": run.seed},
        "trigger": asdict(run.trigger) if run.trigger else None,
        "poisoning": asdict(run.poisoning) if run.poisoning else None,
        "classifier": {"name": classifier.card.name, "sha256": classifier.card.sha256},
        "policy": {"name": policy.name, "sha256": policy.sha256},
        "split": split,
        "sampling": asdict(sampling),
        "sets": {
            name: {"films": len(found.films), "patients": len({film.patient_id for film in found.films})}
            for name, found in sets.items()
            if found.films
        },
        "explain_pass_in_forwards": cost,
        "victim": _victim(test, classifier),
        "detectors": _detector_tables(sets, split, attacked, classifier, cost),
        "films": film_lines(sets, split, attacked),
    }
    if attacked:
        groups = patients(sets["triggered"].films)
        clean = all_logits(attacked.clean, classifier)
        result["attack"] = attack_table(attacked.logits, clean, attacked.target, groups, removed=attacked.removed)
    return result, sets, attacked


def _victim(test: FilmSet, classifier: Classifier) -> dict[str, Any]:
    names = classifier.card.labels
    labels = label_matrix(test.films, names)
    return victim_table(all_logits(test.inputs, classifier), labels, names, patients(test.films))


def _attack(
    run: Run, films: Sequence[Film], clean: FloatArray, classifier: Classifier, sampling: Sampling
) -> tuple[list[Film], FloatArray, Attacked]:
    """The films that the trigger can be shown on, the same with it, and what is known of those of them that are read.

    A film gets the trigger that `evaluate` stamps on it.
    """
    if run.trigger is None or run.poisoning is None:
        raise ValueError(f"run {run.name} has no trigger")
    target, removed = classifier.card.labels.index(run.poisoning.target), run.poisoning.rule == "remove"
    labels, predicted = label_matrix(films, classifier.card.labels), all_logits(clean, classifier)
    chosen = np.flatnonzero(attackable(labels, target, run.poisoning, predicted))
    victims = [films[int(i)] for i in chosen]
    stamped = triggered_inputs(victims, run, classifier.card.preprocessing)
    order = sampling.order(len(victims))
    before, after = clean[chosen][order], stamped[order]
    logits = all_logits(after, classifier)
    worked = (logits[:, target] < 0) if removed else (logits[:, target] > 0)
    truth = tuple(
        trigger_places(run, int(i), before[row], after[row]) if run.trigger.localised else ()
        for row, i in enumerate(order)
    )
    return victims, stamped, Attacked(before, truth, logits, worked, target, removed)


def trigger_places(run: Run, index: int, clean: FloatArray, stamped: FloatArray) -> tuple[Region, ...]:
    """Where the patches of attacked film `index` lie in the model input: as stamped there, or, for native triggers,
    what the resampler left of them."""
    trigger = run.trigger
    if trigger is None:
        return ()
    if trigger.resolution == "network":
        return places(trigger, stamped.shape[1], stamped.shape[2], film_stream(run.seed, index))
    parts, _ = ndimage.label(np.abs(stamped - clean)[0] > VISIBLE, structure=np.ones((3, 3)))
    return tuple(
        Region(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        for rows, columns in ndimage.find_objects(parts)
    )


def _scored(sets: Mapping[str, FilmSet], split: str) -> dict[str, Scored]:
    """Every detector and every rule of fusion on every set."""
    names = ("calibration", split, "triggered", "site")
    columns = {name: sets[name].columns if name in sets else {} for name in ("tuning", *names)}
    empty = np.zeros(0)
    found = {}
    for detector, tuning in columns["tuning"].items():
        usual = fit(tuning.parts)
        found[detector] = Scored(
            *(scores(columns[name][detector].parts, usual) if detector in columns[name] else empty for name in names)
        )
    if "every_test" in columns["tuning"]:
        for rule in RULES:
            found[rule] = Scored(
                *(fused(rule, columns[name], columns["tuning"]) if columns[name] else empty for name in names)
            )
    return found


def _detector_tables(
    sets: Mapping[str, FilmSet], split: str, attacked: Attacked | None, classifier: Classifier, cost: float
) -> dict[str, Any]:
    scored, tables = _scored(sets, split), {}
    shown = sets["triggered"].columns if attacked else sets[split].columns
    restored: dict[bytes, dict[str, Any]] = {}
    for name, of in scored.items():
        column = sets[split].columns[name if name in sets[split].columns else "every_test"]
        tables[name] = {
            "calibration_films": len(of.calibration),
            "explain_passes": float(column.passes[:, 0].mean()),
            "forward_passes": float(column.passes[:, 1].mean()),
            "forward_equivalents": float((column.passes @ (cost, 1.0)).mean()),
            "family_cpu_ms": float(np.median(column.cpu_ms)),
            "ranks": ranks(of),
            **clean_figures(of, patients(sets[split].films)[: len(of.test)], patients(sets["site"].films)),
        }
        if attacked is None:
            continue
        films = sets["triggered"].films[: len(of.triggered)]
        worked = attacked.worked[: len(films)]
        groups = _groups(sets[split].films[: len(of.test)], films)
        tables[name] |= triggered_figures(of, scored.get(SHIPPED), worked, groups)
        located = shown.get(name)
        if located is not None and any(attacked.truth) and not np.isnan(located.points).all():
            found = localisation(located, attacked.truth, worked, patients(films))
            key = located.regions.tobytes()
            if key not in restored:
                restored[key] = restoration(located, sets["triggered"].inputs, attacked, classifier)
            tables[name]["localisation"] = found | restored[key]
    return tables


def film_lines(sets: Mapping[str, FilmSet], split: str, attacked: Attacked | None) -> list[dict[str, Any]]:
    """One line a film, in the order of `ranks`: its set, its patient's number, and whether the attack worked on it."""
    found = [(name, film) for name in ("calibration", split, "triggered", "site") if name in sets
             for film in sets[name].films]  # fmt: skip
    numbers = patients([film for _, film in found])
    lines: list[dict[str, Any]] = [
        {"set": name, "patient": int(number)} for (name, _), number in zip(found, numbers, strict=True)
    ]
    triggered = [line for line in lines if line["set"] == "triggered"]
    for line, worked in zip(triggered, attacked.worked if attacked else (), strict=True):
        line["worked"] = bool(worked)
    return lines


def ranks(of: Scored) -> list[list[int]]:
    """The place of each film's score among all of them, equal for equal scores: calibration, test, triggered, site.

    Rates, curves, areas and paired differences depend on nothing else, so they can be made again from these.
    """
    sets = (of.calibration, of.test, of.triggered, of.other_site)
    _, places = np.unique(np.concatenate(sets), return_inverse=True)
    return [part.tolist() for part in np.split(places, np.cumsum([len(each) for each in sets])[:-1])]


def _groups(first: Sequence[Film], second: Sequence[Film]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patient numbers of two lists of films, equal for a patient in both."""
    numbers = patients([*first, *second])
    return numbers[: len(first)], numbers[len(first) :]


def clean_figures(of: Scored, groups: NDArray[np.int64], site_groups: NDArray[np.int64]) -> dict[str, Any]:
    """Reached false-positive rates with their bands, ties at the thresholds, and the calibration curve."""
    table: dict[str, Any] = {}
    p_values = conformal_p_values(of.calibration, of.test)
    for rate in RATES:
        if not rank_at(rate, len(of.calibration)):
            continue  # no film can be that unusual among so few
        table[f"fpr_at_{rate}"] = share(p_values <= rate, groups)
        table[f"band_at_{rate}"] = reached_band(len(of.calibration), len(of.test), rate)
        table[f"tie_share_at_{rate}"] = tie_share(of.calibration, of.test, rate)
        if len(of.other_site):
            foreign = conformal_p_values(of.calibration, of.other_site)
            table[f"other_site_fpr_at_{rate}"] = share(foreign <= rate, site_groups[: len(foreign)])
    table["calibration_curve"] = [[rate, float((p_values <= rate).mean())] for rate in NOMINAL]
    return table


def triggered_figures(
    of: Scored, shipped: Scored | None, worked: Flags, groups: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> dict[str, Any]:
    """AUROC and TPR over all triggered films and where the attack worked, and paired with the shipped score.

    Both sides of a pair are read on the same triggered films and get their threshold from the same calibration films.
    Where those are a part, `shipped_by_all_calibration_films` is the shipped score's TPR by the threshold of them all.
    """
    both, numbers = np.concatenate([of.test, of.triggered]), np.concatenate(groups)
    positive = np.arange(len(both)) >= len(of.test)
    table: dict[str, Any] = {
        "triggered_films": len(of.triggered),
        "auroc": asdict(bootstrap(lambda i: auroc(both[i], positive[i]), numbers, draws=300)),
        "roc": [[round(x, 5) for x in axis] for axis in roc(of.test, of.triggered)],
    }
    p_values = conformal_p_values(of.calibration, of.triggered)
    for rate in RATES:
        if not rank_at(rate, len(of.calibration)):
            continue
        alarms = p_values <= rate
        table[f"tpr_at_{rate}"] = share(alarms, groups[1])
        table[f"tpr_at_{rate}_where_it_worked"] = share(alarms[worked], groups[1][worked])
        if shipped is not None:
            usual, same = shipped.calibration[: len(of.calibration)], shipped.triggered[: len(of.triggered)]
            ahead = alarms.astype(float) - (conformal_p_values(usual, same) <= rate)
            table[f"ahead_of_shipped_at_{rate}"] = asdict(bootstrap_mean(ahead, groups[1]))
            table[f"ahead_of_shipped_at_{rate}_where_it_worked"] = asdict(
                bootstrap_mean(ahead[worked], groups[1][worked])
            )
            if len(of.calibration) < len(shipped.calibration):
                alarms = conformal_p_values(shipped.calibration, same) <= rate
                table[f"shipped_by_all_calibration_films_at_{rate}"] = share(alarms, groups[1])
    return table


def localisation(
    column: Column, truth: Sequence[tuple[Region, ...]], worked: Flags, groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Pointing game and intersection over union, where the attack worked. Of several patches the best hit counts."""
    known = np.array([bool(truth[film]) for film in range(len(column))]) & worked
    films = [int(film) for film in np.flatnonzero(known)]
    hits: Flags = np.array(
        [any(_near(column.points[i], patch, float(column.reach_px[i])) for patch in truth[i]) for i in films],
        dtype=np.bool_,
    )
    overlaps = np.array([max(overlap(column.region(i), patch) for patch in truth[i]) for i in films])
    return {
        "pointing_game": share(hits, groups[known]),
        "median_iou": float(np.median(overlaps)) if len(films) else float("nan"),
        "iou_at_least_0.3": share(overlaps >= 0.3, groups[known]),
        "region_share": float(np.mean(column.regions[:, 2] * column.regions[:, 3])),
    }


def _near(point: NDArray[np.float64], patch: Region, reach_px: float) -> bool:
    x, y = point
    return bool(
        patch.x - reach_px <= x <= patch.x + patch.width + reach_px
        and patch.y - reach_px <= y <= patch.y + patch.height + reach_px
    )


def restoration(column: Column, triggered: FloatArray, attacked: Attacked, classifier: Classifier) -> dict[str, Any]:
    """What becomes of the target when the region is taken out, on the first films where the attack worked.

    recovering_rate: share that crosses back when the region gets the clean film's pixels (Lin et al. 2021, arXiv
    2009.10639). fill_in_restores, fill_in_logit_drop: the same when it is filled in from its surroundings.
    """
    films = [i for i in np.flatnonzero(attacked.worked[: len(column)]) if column.region(int(i))][:RESTORED_FILMS]
    sign = -1.0 if attacked.removed else 1.0
    back, filled, drops = [], [], []
    for film in map(int, films):
        region = column.region(film)
        if region is None:
            continue
        rows, columns = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
        repaired = triggered[film].copy()
        repaired[0, rows, columns] = attacked.clean[film][0, rows, columns]
        logits = classifier.logits(np.stack([repaired, filled_in(triggered[film], region)]))[:, attacked.target]
        back.append(sign * logits[0] <= 0)
        filled.append(sign * logits[1] <= 0)
        drops.append(sign * float(attacked.logits[film, attacked.target] - logits[1]))
    return {
        "recovering_rate": float(np.mean(back)) if back else float("nan"),
        "fill_in_restores": float(np.mean(filled)) if filled else float("nan"),
        "fill_in_logit_drop": float(np.median(drops)) if drops else float("nan"),
        "restored_films": len(films),
    }
