"""Registration as an examination: what is kept of a file, its signed report, and what is derived of it, by hash."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import CPU, Classifier, ClassifierCard, sigmoid
from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError
from service.graphs.description import Description, description_of
from service.graphs.examiner import Derived, Examiner, opened, read_file
from service.graphs.protocol import EXAMINER_VERSION
from service.graphs.shipped import shipped
from service.names import NAME
from service.records.chain import canonical
from service.records.session import utc_now
from service.records.storage import write_durably
from service.records.tables import ClassifierRow

SAME_ANSWERS = 2e-2  # of 1 + the largest logit; a device that rounds to 10 bits shows some 1e-3
SAME_MAPS = 1e-3  # of their sum
LONGEST_SENTENCE = 500
PENDING = "Another version of the service examined it; it is being examined again."


@dataclass(frozen=True, slots=True)
class Examined:
    """A new row, not yet in the database, and what the log says of it."""

    row: ClassifierRow
    recorded: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a registered file under a newer examiner. values: of its row. other_maps: why its policy is
    void; refusal: why it cannot be audited any more."""

    values: dict[str, Any]
    recorded: dict[str, Any]
    other_maps: str | None = None
    refusal: str | None = None


class Examinations:
    """The examiner, and the folder of what was handed in and derived.

    sign: the installation's signature of a report.
    """

    def __init__(
        self,
        store: Path,
        examiner: Examiner,
        sign: Callable[[bytes], str] | None = None,
    ) -> None:
        self.store, self._examiner, self._sign = store, examiner, sign

    def close(self) -> None:
        self._examiner.close()

    def examine(self, data: bytes, description: Description | None, beside: Mapping[str, ClassifierRow]) -> Examined:
        """Examine what was handed in, and keep it and what was derived. beside: the version in force of each name.

        Raises ClassifierError with what cannot be audited.
        """
        derived = self._examined(data, description)
        card = opened(derived).card
        if not re.fullmatch(NAME, card.name):
            raise ClassifierError("name: letters, digits, dots, dashes and underscores, at most 64, are needed.")
        report = self._report(derived, card, beside.get(card.name))
        self._keep(derived, data, description)
        row = ClassifierRow(
            sha256=derived.identity,
            name=card.name,
            card=asdict(card),
            added_at=utc_now(),
            **self._values(derived, report),
        )
        recorded = {"name": card.name, "file_sha256": derived.file_sha256, "derived_sha256": derived.sha256}
        return Examined(row, recorded | {"report_sha256": sha256_of(canonical(report))})

    def examine_again(self, row: ClassifierRow, receivers: FloatArray | None) -> Judged:
        """Derive a registered file anew and compare with what ran until now. receivers: of its policy in force."""
        try:
            data = self._file(row)
            derived = self._examined(data, self._description(row.sha256))
            earlier = self._earlier(row, data)
            other = self._other_maps(earlier, derived, receivers)
            self._keep(derived, data, None, name=row.sha256)
        except ClassifierError as error:
            return Judged({}, {}, refusal=error.detail[:LONGEST_SENTENCE])
        report = self._report(derived, opened(derived).card, None)
        recorded = {"name": row.name, "examiner": EXAMINER_VERSION, "derived_sha256": derived.sha256}
        recorded["report_sha256"] = sha256_of(canonical(report))
        return Judged(self._values(derived, report), recorded, other_maps=other)

    def load(self, row: ClassifierRow) -> Classifier:
        """What was derived of a registered file, derived again where it is not at hand under its hash."""
        data = self._file(row)
        kept = self._derived_path(row.derived_sha256) if row.derived_sha256 else None
        if kept is not None and kept.exists():
            found = kept.read_bytes()
            if sha256_of(found) == row.derived_sha256:
                return _registered(found, row)
        derived = self._examiner.derive(data, self._description(row.sha256))
        if row.identity and derived.identity != row.identity:
            raise ClassifierError("The kept file is not the one that was registered.")
        write_durably(self._derived_path(derived.sha256), derived.data)
        return _registered(derived.data, row)

    def read(self, path: Path) -> bytes:
        """A file, its size checked first. Raises ClassifierError."""
        return read_file(path, self._examiner.limits)

    def has_file(self, sha256: str) -> bool:
        return self._path(sha256).exists()

    def is_quick(self, file_sha256: str) -> bool:
        """Whether a file needs no examination, because it ships and was examined when it was made."""
        return file_sha256 in shipped()

    def restore(self, row: ClassifierRow, data: bytes) -> None:
        """Keep a file of a registered identity instead of the one that is kept."""
        write_durably(self._path(row.sha256), data)

    def _examined(self, data: bytes, description: Description | None) -> Derived:
        known = shipped().get(sha256_of(data)) if description is None else None
        if known:
            derived = self._examiner.derive(data)
            if derived.identity == known["identity"]:
                return replace(derived, report=known["report"])
        return self._examiner.examine(data, description)

    def _report(self, derived: Derived, card: ClassifierCard, before: ClassifierRow | None) -> dict[str, Any]:
        return {
            **(derived.report or {}),
            "name": card.name,
            "identity": derived.identity,
            "file_sha256": derived.file_sha256,
            "derived_sha256": derived.sha256,
            "description": derived.description.as_mapping(),
            "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "changes": changes(derived, before) if before and before.sha256 != derived.identity else None,
        }

    def _values(self, derived: Derived, report: dict[str, Any]) -> dict[str, Any]:
        return {
            "identity": derived.identity,
            "file_sha256": derived.file_sha256,
            "derived_sha256": derived.sha256,
            "examiner": EXAMINER_VERSION,
            "report": report,
            "report_signature": self._sign(canonical(report)) if self._sign else None,
            "refusal": None,
        }

    def _other_maps(self, earlier: bytes | None, derived: Derived, receivers: FloatArray | None) -> str | None:
        if earlier is None or receivers is None:
            return None
        if sha256_of(earlier) == derived.sha256:
            return None
        try:
            difference = self._examiner.difference(earlier, derived.data, receivers)
        except ClassifierError as error:
            return error.detail
        if difference <= SAME_MAPS:
            return None
        return f"The maps that are derived now differ by {difference:.1e} of their sum from those that ran before."

    def _earlier(self, row: ClassifierRow, data: bytes) -> bytes | None:
        """What ran until now: what was derived before, or, from before there was an examiner, the file itself."""
        if row.derived_sha256 is None:
            return data
        path = self._derived_path(row.derived_sha256)
        return path.read_bytes() if path.exists() else None

    def _file(self, row: ClassifierRow) -> bytes:
        try:
            data = self._path(row.sha256).read_bytes()
        except OSError:
            raise ClassifierError("The kept file cannot be read.") from None
        if sha256_of(data) != (row.file_sha256 or row.sha256):
            raise ClassifierError("The kept file is not the one that was registered.")
        return data

    def _keep(self, derived: Derived, data: bytes, description: Description | None, name: str = "") -> None:
        own = name or derived.identity
        if description is not None:
            text = json.dumps(description.as_mapping(), indent=1, sort_keys=True)
            write_durably(self._description_path(own), text.encode())
        if not self._path(own).exists():
            write_durably(self._path(own), data)
        if not self._derived_path(derived.sha256).exists():
            write_durably(self._derived_path(derived.sha256), derived.data)

    def _description(self, sha256: str) -> Description | None:
        path = self._description_path(sha256)
        return description_of(path.read_text()) if path.exists() else None

    def _path(self, sha256: str) -> Path:
        return self.store / f"{sha256}.onnx"

    def _description_path(self, sha256: str) -> Path:
        return self.store / f"{sha256}.json"

    def _derived_path(self, sha256: str) -> Path:
        return self.store / "derived" / f"{sha256}.onnx"


def waits_because(row: ClassifierRow) -> str | None:
    """Why films of a registered version wait, in a sentence; None where they do not."""
    return row.refusal or (PENDING if row.examiner != EXAMINER_VERSION else None)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def changes(derived: Derived, before: ClassifierRow) -> dict[str, Any]:
    """What a new version changes against the one in force: labels, preprocessing, head and answers."""
    told = before.report or {}
    described, earlier = derived.description.as_mapping(), dict(told.get("description", before.card))
    earlier["preprocessing"] = asdict(Preprocessing(**earlier["preprocessing"]))  # what is not said has its default
    named = {name: [earlier.get(name), described[name]] for name in ("labels", "preprocessing", "head")}
    found: dict[str, Any] = {"against": before.sha256}
    found |= {name: values for name, values in named.items() if values[0] != values[1]}
    answers = [np.asarray(report["answers"]) for report in (derived.report or {}, told) if report.get("answers")]
    if len(answers) == 2 and answers[0].shape == answers[1].shape:
        apart = np.abs(sigmoid(answers[0]) - sigmoid(answers[1]))
        found["largest_probability_change"] = round(float(apart.max()), 4)
    return found


def _registered(derived: bytes, row: ClassifierRow) -> Classifier:
    """Loaded under the hash that it is registered by, which for old rows is that of their file.

    On a device its answers are held beside those of the processor, which is what was examined. Raises ClassifierError.
    """
    loaded = Classifier.from_derived(derived, row.file_sha256 or row.sha256)
    if loaded.providers[0] != CPU:
        beside = Classifier.from_derived(derived, row.file_sha256 or row.sha256, providers=[CPU])
        require_same_answers(loaded, beside)
    loaded.card = replace(loaded.card, sha256=row.sha256)
    return loaded


def require_same_answers(loaded: Classifier, beside: Classifier) -> None:
    """Raises ClassifierError where two classifiers answer otherwise, by more than a device rounds."""
    side = loaded.card.preprocessing.size
    films = np.random.default_rng(0).random((2, 1, side, side), dtype=np.float32)
    answers, wanted = loaded.logits(films), beside.logits(films)
    apart = float(np.abs(answers - wanted).max() / (1 + np.abs(wanted).max()))
    if not apart <= SAME_ANSWERS:  # not: NaN is refused too
        raise ClassifierError(f"{loaded.providers[0]} gives other logits than the processor (off by {apart:.0e}).")
