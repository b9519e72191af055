"""What the detectors compared say of four films is what was recorded: the version of each family promises it."""

import pytest

from tests.recorded import differences, read_rows, rounded
from tests.training.measure.reading_table import FILMS, TABLE, recorded_pair, rows
from training.measure.detectors import FAMILIES, perturbed


@pytest.fixture(scope="module")
def known():
    return recorded_pair()


def changed(family, known):
    recorded = [row for row in read_rows(TABLE) if row["family"] == family]
    return list(differences(recorded, [rounded(row) for row in rows(family, *known)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readings_are_those_of_this_version(family, known):
    lines = changed(family, known)
    assert not lines, (
        f"readings of {family}, version {FAMILIES[family].version}, changed: raise its version and record them anew, "
        "or undo it\n" + "\n".join(lines[:20])
    )


def test_every_family_stands_in_the_table_with_every_film():
    table = read_rows(TABLE)
    assert {(row["family"], row["film"]) for row in table} == {(f, film) for f in FAMILIES for film in FILMS}


def test_a_hundredth_of_a_detectors_number_is_seen(known, monkeypatch):
    monkeypatch.setattr(perturbed, "SCALES", tuple(1.01 * scale for scale in perturbed.SCALES))
    assert changed("scale_up", known)
