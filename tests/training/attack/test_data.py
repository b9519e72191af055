import hashlib

import numpy as np
import pytest

from service.audit.preprocessing import Preprocessing, model_input
from service.films.radiograph import Limits, decode
from training.__main__ import main
from training.attack.data import (
    DataError,
    check_patient_splits,
    in_split,
    label_matrix,
    manifest_sha256,
    model_inputs,
    patients,
    read_films,
    read_pixels,
    read_splits,
    split_of,
)
from training.commands.films import SPLIT_LISTS
from training.phantoms import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_folder(folder, 24, first_seed=5, size=96)
    return folder


def as_downloaded(folder, destination):
    """The same films laid out as NIH's download: Data_Entry_2017*.csv and images_001/images/."""
    images = destination / "images_001" / "images"
    images.mkdir(parents=True)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,X\n"
    rows = []
    for film in read_films(folder):
        (images / film.path.name).write_bytes(film.path.read_bytes())
        labels = "|".join(film.labels) or "No Finding"
        rows.append(f"{film.path.name},{labels},0,{film.patient_id},{film.age},{film.sex},{film.view},\n")
    (destination / "Data_Entry_2017_v2020.csv").write_text(header + "".join(rows))
    return destination


def test_a_folder_with_a_manifest(folder):
    films = read_films(folder)
    assert len(films) == 24
    assert {film.split for film in films} <= {"train", "tuning", "calibration", "test"}
    assert sum(len(in_split(films, split)) for split in ("train", "tuning", "calibration", "test")) == 24


def test_nihs_own_table_gives_the_same_films(folder, tmp_path):
    ours = {film.path.name: film for film in read_films(folder)}
    splits = {name: film.split for name, film in ours.items()}
    theirs = read_films(as_downloaded(folder, tmp_path), splits)
    assert [(f.patient_id, f.labels, f.view, f.sex, f.age, f.split) for f in theirs] == [
        (f.patient_id, f.labels, f.view, f.sex, f.age, f.split) for f in (ours[film.path.name] for film in theirs)
    ]
    assert manifest_sha256(theirs) == manifest_sha256(list(ours.values()))


def test_a_patient_in_two_splits_is_refused(folder):
    films = read_films(folder)
    other = next(f for f in films if f.patient_id != films[0].patient_id and f.split != films[0].split)
    mixed = [*films, type(other)(other.path, other.split, films[0].patient_id, (), "", "", None, "")]
    with pytest.raises(DataError, match=films[0].patient_id):
        check_patient_splits(mixed)


def test_missing_films_and_missing_tables_are_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"manifest\.csv"):
        read_films(tmp_path)
    (tmp_path / "manifest.csv").write_text((folder / "manifest.csv").read_text())
    with pytest.raises(DataError, match="24 of 24"):
        read_films(tmp_path)


def test_training_and_service_see_the_same_pixels(folder):
    film = read_films(folder)[0]
    served = decode(film.path.read_bytes(), Limits())
    assert np.array_equal(read_pixels(film), served.pixels)
    preprocessing = Preprocessing(size=64)
    assert np.array_equal(model_inputs([film], preprocessing)[0], model_input(served.pixels, preprocessing))


def test_labels_and_patients(folder):
    films = read_films(folder)
    matrix = label_matrix(films, ("Effusion", "Mass"))
    assert matrix.tolist() == [["Effusion" in film.labels, "Mass" in film.labels] for film in films]
    numbers = patients(films)
    assert len(set(numbers.tolist())) == len({film.patient_id for film in films})


def test_a_listed_subset_is_rebuilt_from_a_download(tmp_path, folder, monkeypatch):
    download = as_downloaded(folder, tmp_path / "download")
    lists = tmp_path / "splits"
    lists.mkdir()
    wanted = read_films(folder)[:5]
    rows = "".join(f"{film.path.name},{film.patient_id},{film.split}\n" for film in wanted)
    (lists / "five.csv").write_text("film,patient_id,split\n" + rows)
    monkeypatch.setattr("training.commands.films.SPLIT_LISTS", lists)
    assert main(["subset", "--films", str(download), "--subset", "five", "--out", str(tmp_path / "five")]) == 0
    rebuilt = read_films(tmp_path / "five")
    assert manifest_sha256(rebuilt) == manifest_sha256(wanted)


def test_splits_of_unlisted_patients_are_stable_and_near_their_shares():
    found = [split_of(str(number)) for number in range(4000)]
    assert found[:3] == [split_of(str(number)) for number in range(3)]
    assert 0.78 < found.count("train") / 4000 < 0.82
    assert 0.06 < found.count("test") / 4000 < 0.09


def test_the_committed_list_is_what_the_figures_were_made_from(real_films):
    films, listed = read_films(real_films), read_splits(SPLIT_LISTS / "nih.csv")
    assert {film.path.name: film.split for film in films} == listed
    counts = {split: len(in_split(films, split)) for split in ("train", "tuning", "calibration", "test")}
    assert counts == {"train": 1029, "tuning": 217, "calibration": 397, "test": 409}


def test_a_real_film_is_decoded_as_training_reads_it(real_films):
    film = in_split(read_films(real_films), "tuning")[0]
    assert hashlib.sha256(film.path.read_bytes()).hexdigest() == film.sha256
    assert np.array_equal(read_pixels(film), decode(film.path.read_bytes(), Limits()).pixels)
