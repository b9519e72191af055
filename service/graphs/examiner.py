"""The examiner: hands a stranger's file to the box, and loads what was derived of it.

Deriving is deterministic, so what is loaded is derived again whenever it is not at hand under its hash: no file's own
maps ever run, and a signature inside the file is not needed.
"""

import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.arrays import FloatArray
from service.audit.classifier import Classifier
from service.audit.forward_graph import require_self_contained
from service.errors import ClassifierError, TriggerscopeError
from service.graphs.description import Description, read_description
from service.graphs.protocol import DEFAULT_LIMITS, LENGTH, ExaminationLimits
from service.graphs.report import findings
from service.sandbox.child import Child

START_SECONDS = 60.0
LARGEST_ANSWER_BYTES = 4 << 20
LARGEST_BATCH = 8
GROWTH = 4  # times the incoming file that a derived one may have, for weights stored in 16 bits
SPARE_BYTES = 64 << 20
LONGEST_SENTENCE = 500
SHA256 = re.compile("[0-9a-f]{64}")


class ExaminationStopped(TriggerscopeError):
    """The service ends, and with it what it examines: this says nothing about the file."""

    code = "not_ready"


@dataclass(frozen=True, slots=True)
class Derived:
    """data: the auditable classifier. identity: hash of canonical graph, labels and preprocessing. report: of the
    examination, or None where it was only derived."""

    data: bytes
    identity: str
    file_sha256: str
    description: Description
    report: dict[str, Any] | None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Examiner:
    """Each call starts one box of its own. May be used by several threads."""

    def __init__(self, limits: ExaminationLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._running: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """End what is being examined. May be called twice."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.stop()

    def derive(self, data: bytes, description: Description | None = None) -> Derived:
        """The auditable classifier of a file that was examined before, or is used by its owner alone.

        description: where the file does not say it itself. Raises ClassifierError with what cannot be audited.
        """
        return self._opened(data, description, None, examine=False)

    def examine(self, data: bytes, description: Description | None = None, films: FloatArray | None = None) -> Derived:
        """Derive and measure. films: (n, 1, H, H) in [0, 1] to measure on; film-like pictures are drawn without."""
        return self._opened(data, description, films, examine=True)

    def difference(self, earlier: bytes, derived: bytes, films: FloatArray) -> float:
        """How far the maps and logits of two auditable files are apart on films (n, 1, S, S), of the sum of those of
        the first. Raises ClassifierError where they do not put out the same things."""
        require_self_contained(earlier)
        request = self._request(earlier, films, earlier=len(earlier), more=len(derived))
        answer, _ = self._asked(request, earlier + derived, films)
        _require_not_refused(answer)
        return float(answer["difference"])

    def _opened(
        self, data: bytes, description: Description | None, films: FloatArray | None, *, examine: bool
    ) -> Derived:
        if len(data) > self.limits.max_bytes:
            raise ClassifierError(f"The file has more than {self.limits.max_bytes} bytes.")
        require_self_contained(data)
        request = self._request(data, films) | {
            "description": description.as_mapping() if description else None,
            "examine": examine,
        }
        answer, derived = self._asked(request, data, films)
        _require_not_refused(answer)
        require_self_contained(derived)
        return _believed(answer, derived, hashlib.sha256(data).hexdigest())

    def _request(self, data: bytes, films: FloatArray | None, *, earlier: int = 0, more: int = 0) -> dict[str, Any]:
        return {
            "batch": LARGEST_BATCH,
            "bytes": len(data) + more,
            "earlier_bytes": earlier,
            "film_bytes": films.nbytes if films is not None else 0,
            "film_side": films.shape[-1] if films is not None else 0,
            "memory_bytes": self.limits.memory_bytes,
            "seconds": self.limits.seconds,
        }

    def _asked(self, request: dict[str, Any], data: bytes, films: FloatArray | None) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + START_SECONDS + self.limits.seconds
        child = self._start()
        try:
            text = json.dumps(request).encode()
            child.send(LENGTH.pack(len(text)) + text, deadline)
            child.send(data, deadline)
            if films is not None:
                child.send(films.astype("<f4").tobytes(), deadline)
            answer = json.loads(_block(child, LARGEST_ANSWER_BYTES, deadline), parse_constant=_not_a_number)
            if not isinstance(answer, dict):
                raise ValueError("the answer is malformed")
            return answer, bytes(_block(child, GROWTH * len(data) + SPARE_BYTES, deadline))
        except TimeoutError:
            self._require_open()
            raise ClassifierError(f"Reading the file took longer than {self.limits.seconds:.0f} seconds.") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            self._require_open()
            raise ClassifierError(
                "Reading the file ended the process that read it: it needs more memory or time than an examination "
                "may use, or breaks the library."
            ) from None
        finally:
            self._end(child)

    def _start(self) -> Child:
        with self._lock:
            self._require_open()
            child = Child("service.graphs.examining")
            self._running.add(child)
        return child

    def _require_open(self) -> None:
        if self._closed:
            raise ExaminationStopped("the service is stopping; nothing is examined any more")

    def _end(self, child: Child) -> None:
        with self._lock:
            self._running.discard(child)
        child.stop()


def _require_not_refused(answer: dict[str, Any]) -> None:
    """Raises ClassifierError with the sentence, of which the box is not believed that it is short and printable."""
    if "refused" in answer:
        sentence = str(answer["refused"])[:LONGEST_SENTENCE]
        raise ClassifierError("".join(letter for letter in sentence if letter.isprintable()))


def _believed(answer: dict[str, Any], derived: bytes, file_sha256: str) -> Derived:
    """What the box says, as far as it has the form of what it would say: it may be in a stranger's hands.

    Raises ClassifierError.
    """
    try:
        identity, report = str(answer["identity"]), answer.get("report")
        if not SHA256.fullmatch(identity):
            raise ValueError("the identity is no hash")
        findings(report or {})
        return Derived(derived, identity, file_sha256, read_description(answer["description"]), report)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ClassifierError("The process that read the file did not answer as it should.") from None


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} in an answer")


def _block(child: Child, largest: int, deadline: float) -> bytearray:
    (length,) = LENGTH.unpack(child.receive(LENGTH.size, deadline))
    if length > largest:
        raise ValueError("the answer is larger than any honest one")
    return child.receive(length, deadline)


def opened(derived: Derived, *, threads: int = 1, providers: Sequence[str] | None = None) -> Classifier:
    """Load what was derived."""
    return Classifier.from_derived(derived.data, derived.file_sha256, threads=threads, providers=providers)


def read_file(path: Path, limits: ExaminationLimits = DEFAULT_LIMITS) -> bytes:
    """A classifier's file, its size checked first. Raises ClassifierError."""
    try:
        if path.stat().st_size > limits.max_bytes:
            raise ClassifierError(f"The file has more than {limits.max_bytes} bytes.")
        return path.read_bytes()
    except OSError:
        raise ClassifierError("The classifier's file cannot be read.") from None


def load_classifier(
    path: Path,
    description: Description | None = None,
    *,
    threads: int = 1,
    providers: Sequence[str] | None = None,
    examiner: Examiner | None = None,
) -> Classifier:
    """A file as an auditable classifier, derived on the spot; no key, database or registration is needed.

    threads: of one run; concurrency comes from calling from several threads. providers: ONNX Runtime's execution
    providers in order of preference; by default CUDA where a device is really there, else the CPU.
    Raises ClassifierError.
    """
    data = read_file(path, examiner.limits if examiner else DEFAULT_LIMITS)
    handed_in = _HandedIn(hashlib.sha256(data).hexdigest(), _as_text(description), data, description)
    derived = examiner.derive(data, description) if examiner else _derived_once(handed_in)
    return opened(derived, threads=threads, providers=providers)


@dataclass(frozen=True, slots=True)
class _HandedIn:
    """One file with its description; equal where both are."""

    sha256: str
    described: str
    data: bytes = field(compare=False, repr=False)
    description: Description | None = field(compare=False)


def _as_text(description: Description | None) -> str:
    return json.dumps(description.as_mapping(), sort_keys=True) if description else ""


@functools.lru_cache(maxsize=4)
def _derived_once(handed_in: _HandedIn) -> Derived:
    return Examiner().derive(handed_in.data, handed_in.description)
