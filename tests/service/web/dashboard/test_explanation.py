import json
from pathlib import Path

import numpy as np
import pytest

from service.audit.calibration import Policy, read_policy
from service.records.tables import AuditRow, FilmRow
from service.web.dashboard.explanation import (
    certainty,
    explain,
    headline,
    map_choices,
    map_words,
    place,
    usual_evidence,
)
from service.web.dashboard.plots import BINS, HEIGHT, WIDTH, histogram

FILM = FilmRow(width=300, height=300)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0, 0, "top left of the picture"),
        (280, 280, "bottom right of the picture"),
        (140, 280, "bottom of the picture"),
        (0, 140, "left of the picture"),
        (140, 140, "middle"),
    ],
)
def test_a_place_is_named_as_the_picture_shows_it(x: int, y: int, words: str) -> None:
    assert place({"x": x, "y": y, "width": 20, "height": 20}, FILM) == words


def test_an_unremarkable_film_is_said_to_be_read_as_usual() -> None:
    assert "the way it reads clean films" in headline(AuditRow(verdict="unremarkable"), FILM, None)
    assert "no policy" in headline(AuditRow(verdict="indeterminate"), FILM, None)


def test_a_film_made_for_another_resampler_is_said_to_be(models_dir: Path) -> None:
    """Its score is usual: neither the label nor its region is what makes it suspicious."""
    policy = Policy.load(models_dir / "phantom-badnet3.policy.json")
    row = AuditRow(
        verdict="suspicious", p_value=0.4, score=0.5, explained_label="Mass", hypothesis="support", region=None,
        evidence={"resampling": {"value": 38.7, "p_value": None}}, probabilities={"Mass": 0.2},
    )  # fmt: skip
    found = explain(row, FILM, policy)
    assert "Another way to resize this film" in found.headline
    [line] = found.lines
    assert (line.title, line.value, line.plot, line.is_remarkable) == ("Resampling", 38.7, None, True)
    assert "by 38.7 of its spread" in line.sentence
    assert "by 38.7 logits" in explain(row, FILM, None).lines[0].sentence
    row.p_value = 0.003
    assert "Mass rests on" in headline(row, FILM, policy)


def test_the_map_that_the_detector_reads_comes_first() -> None:
    names = ["class_activation_map", "counter_layercam_28", "gradcam_14", "layercam_14", "layercam_28"]
    assert [choice.name for choice in map_choices(names)][:2] == ["layercam_28", "layercam_14"]
    assert next(choice.name for choice in map_choices(names, "counter")) == "counter_layercam_28"
    assert map_words("counter_layercam_28") == "Evidence against it, 28 × 28 cells"  # noqa: RUF001 -- the page's own multiplication sign


@pytest.mark.parametrize(
    ("p_value", "words"),
    [(1 / 315, "None of the 314 clean films"), (3 / 315, "2 of the 314 clean films"), (None, "No rank")],
)
def test_how_sure_the_system_is_is_a_count_of_clean_films(models_dir: Path, p_value: float | None, words: str) -> None:
    policy = Policy.load(models_dir / "phantom-badnet3.policy.json")
    assert certainty(AuditRow(p_value=p_value), policy).startswith(words)


def test_a_plot_marks_the_film_on_the_axis_of_the_clean_films() -> None:
    values = np.linspace(0, 10, 1001, dtype=np.float32)
    plot = histogram(values, film=20.0, threshold=10.0)
    assert (plot.low, plot.high, plot.film_x, plot.threshold_x) == (0.0, 20.0, WIDTH, WIDTH / 2)
    assert len(plot.bars) == BINS // 2 + 1  # the clean films fill half the axis, and the bin that starts in its middle
    assert max(bar.height for bar in plot.bars) == HEIGHT - 4
    assert plot.description == "this film 20.00; half of 1001 clean films lie below 5.00, the highest at 10.00"


def test_a_logarithmic_plot_keeps_its_ends_in_the_values_own_unit() -> None:
    plot = histogram(np.expm1(np.linspace(0, 4, 1001)).astype(np.float32), film=np.expm1(4.0), logarithmic=True)
    assert (plot.low, plot.high) == (0.0, pytest.approx(np.expm1(4.0), rel=1e-5))
    assert plot.film_x == WIDTH
    assert min(bar.height for bar in plot.bars) > 0.9 * (HEIGHT - 4)  # evenly filled, where a linear axis is not
    assert "half of 1001 clean films lie below 6.39" in plot.description


def test_a_single_value_makes_a_plot_too() -> None:
    [bar] = histogram(np.zeros(5, dtype=np.float32)).bars
    assert bar.x == 0


def audited(hypothesis: str, **values: float) -> AuditRow:
    return AuditRow(
        verdict="suspicious", hypothesis=hypothesis, explained_label="Effusion", region=None, score=9.0, p_value=0.01,
        probabilities={"Effusion": 0.4}, evidence={name: {"value": v, "p_value": 0.2} for name, v in values.items()},
    )  # fmt: skip


def test_what_is_said_of_a_held_down_label_does_not_claim_that_its_logit_is_low() -> None:
    said = [line.sentence for line in explain(audited("counter", excess=-0.9, concentration=0.1), FILM, None).lines]
    assert said[0] == "Effusion lies 0.9 of its spread above its usual value."
    assert "the evidence against Effusion" in said[1]
    said = [line.sentence for line in explain(audited("support", excess=2.0), FILM, None).lines]
    assert said == ["Effusion lies 2.0 of its spread above its usual value, which counts beside the tests."]


def test_an_audit_and_a_policy_of_an_earlier_score_are_still_shown(models_dir: Path) -> None:
    table = json.loads((models_dir / "phantom-badnet3.policy.json").read_bytes()) | {"format": 2}
    del table["reference"]["isolation"]
    for usual in table["reference"]["usual"].values():
        del usual["isolation"]
    old = read_policy(json.dumps(table).encode())
    assert "Isolation" not in [usual.title for usual in usual_evidence(old)]
    lines = explain(audited("counter", excess=2.5, concentration=0.1), FILM, old).lines
    assert [line.title for line in lines] == ["Confidence", "Concentration"]
    assert all(line.plot for line in lines)
