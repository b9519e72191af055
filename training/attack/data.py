"""One loader for a folder of films with a table: our manifest.csv, or NIH's own Data_Entry_2017*.csv."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.arrays import FloatArray
from service.audit.preprocessing import Preprocessing, model_input

SPLITS = ("train", "tuning", "calibration", "test")


class DataError(ValueError):
    """A folder or table of films that cannot be used as it is."""


@dataclass(frozen=True, slots=True)
class Film:
    """One row of a table. path: of the picture. patient_id: the unit of every split and bootstrap."""

    path: Path
    split: str
    patient_id: str
    labels: tuple[str, ...]
    view: str
    sex: str
    age: int | None
    sha256: str


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label for label in text.split("|") if label and label != "No Finding")


def _age(text: str) -> int | None:
    digits = "".join(c for c in text if c.isdigit())
    return int(digits) if digits else None


def _manifest_rows(folder: Path, table: Path) -> Iterator[Film]:
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            yield Film(
                path=folder / row["file"],
                split=row["split"],
                patient_id=row["patient_id"],
                labels=_labels(row["labels"]),
                view=row.get("view", ""),
                sex=row.get("sex", ""),
                age=_age(row.get("age", "")),
                sha256=row.get("sha256", ""),
            )


def _nih_rows(folder: Path, table: Path, splits: dict[str, str]) -> Iterator[Film]:
    """NIH's Data_Entry_2017*.csv; films lie in images*/ or images_*/images/ below the folder, as they are unpacked."""
    found = {path.name: path for path in folder.rglob("*.png")}
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name, patient = row["Image Index"], row["Patient ID"]
            if name in found:
                yield Film(
                    path=found[name],
                    split=splits.get(name) or split_of(patient),
                    patient_id=patient,
                    labels=_labels(row["Finding Labels"]),
                    view=row["View Position"],
                    sex=row.get("Patient Gender") or row.get("Patient Sex", ""),
                    age=_age(row["Patient Age"]),
                    sha256="",
                )


def split_of(patient_id: str) -> str:
    """The split of a patient who is in no list: by hash, 80/5/7.5/7.5 %."""
    share = int.from_bytes(hashlib.sha256(f"triggerscope:{patient_id}".encode()).digest()[:4], "big") / 2**32
    return SPLITS[int(np.searchsorted((0.80, 0.85, 0.925), share, side="right"))]


def read_splits(path: Path) -> dict[str, str]:
    """A list of film names and splits, as training/splits/*.csv hold them."""
    with path.open(newline="") as file:
        return {row["film"]: row["split"] for row in csv.DictReader(file)}


def read_films(folder: Path, splits: dict[str, str] | None = None) -> list[Film]:
    """Read the folder's table. Raises DataError when there is none, films are missing or a patient is in two splits."""
    manifest = folder / "manifest.csv"
    tables = sorted(folder.glob("Data_Entry_2017*.csv"))
    if manifest.exists():
        films = list(_manifest_rows(folder, manifest))
    elif tables:
        films = list(_nih_rows(folder, tables[0], splits or {}))
        if splits:
            films = [film for film in films if film.path.name in splits]
    else:
        raise DataError(f"{folder} holds neither manifest.csv nor Data_Entry_2017*.csv")
    missing = [film.path.name for film in films if not film.path.exists()]
    if missing or not films:
        raise DataError(f"{len(missing)} of {len(films)} films are missing below {folder}, first {missing[:3]}")
    check_patient_splits(films)
    return films


def check_patient_splits(films: Iterable[Film]) -> None:
    """Raises DataError when a patient has films in two splits."""
    seen: dict[str, str] = {}
    for film in films:
        if seen.setdefault(film.patient_id, film.split) != film.split:
            raise DataError(f"patient {film.patient_id} is in {seen[film.patient_id]} and in {film.split}")


def in_split(films: Sequence[Film], split: str) -> list[Film]:
    return [film for film in films if film.split == split]


def read_pixels(film: Film) -> FloatArray:
    """(H, W) float32 in [0, 1], straight from a trusted PNG (the service's decoder gives the same values)."""
    with Image.open(film.path) as image:
        return np.asarray(image.convert("L"), dtype=np.float32) / 255.0


def model_inputs(
    films: Sequence[Film],
    preprocessing: Preprocessing,
    before: Callable[[FloatArray, int], FloatArray] | None = None,
) -> FloatArray:
    """Preprocess films: (N, 1, S, S) float32. before: applied to the native pixels of film i, e.g. a native trigger."""
    inputs = np.empty((len(films), 1, preprocessing.size, preprocessing.size), dtype=np.float32)
    for index, film in enumerate(films):
        pixels = read_pixels(film)
        inputs[index] = model_input(before(pixels, index) if before else pixels, preprocessing)
    return inputs


def divided_by_patient(films: Sequence[Film]) -> dict[str, list[Film]]:
    """Two halves named `calibrate` and `check`: whole patients, by hash. Their split is renamed likewise."""
    halves: dict[str, list[Film]] = {"calibrate": [], "check": []}
    for film in films:
        first = hashlib.sha256(f"half:{film.patient_id}".encode()).digest()[0] % 2 == 0
        name = "calibrate" if first else "check"
        halves[name].append(replace(film, split=name))
    return halves


MANIFEST_COLUMNS = ("file", "split", "patient_id", "view", "age", "sex", "labels", "sha256")


def write_manifest(folder: Path, films: Sequence[Film]) -> Path:
    """Write manifest.csv for films that lie in folder/films; returns its path."""
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        for film in films:
            labels, age = "|".join(film.labels) or "No Finding", "" if film.age is None else film.age
            digest = hashlib.sha256(film.path.read_bytes()).hexdigest()
            name = f"films/{film.path.name}"
            writer.writerow((name, film.split, film.patient_id, film.view, age, film.sex, labels, digest))
    return path


def label_matrix(films: Sequence[Film], labels: Sequence[str]) -> FloatArray:
    """(N, C) of 0 and 1."""
    return np.array([[label in film.labels for label in labels] for film in films], dtype=np.float32)


def patients(films: Sequence[Film]) -> NDArray[np.int64]:
    """(N,) patient numbers, equal for films of one patient."""
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(film.patient_id for film in films))}
    return np.array([numbers[film.patient_id] for film in films], dtype=np.int64)


def manifest_sha256(films: Sequence[Film]) -> str:
    """Hash of the films' names, splits and labels; what a policy and a classifier say they were made from."""
    lines = sorted(f"{film.path.name},{film.split},{film.patient_id},{'|'.join(film.labels)}" for film in films)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
