"""Films that come by REST: decoded before they are acknowledged, so that whoever sends one learns what is wrong."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.desk import comparison
from service.films.radiograph import Radiograph
from service.queue.intake import Accepted, Also, FilmFacts, Intake, Submission, nothing
from service.records.session import Unit


@dataclass(frozen=True, slots=True)
class Decoded:
    radiograph: Radiograph
    decode_ms: float


def decode_timed(decode: Callable[[bytes], Radiograph], data: bytes) -> Decoded:
    started = time.perf_counter()
    radiograph = decode(data)
    return Decoded(radiograph, 1000.0 * (time.perf_counter() - started))


class DecodedFilms:
    """The films decoded last, so that an embedded worker need not decode them again."""

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._films: OrderedDict[str, Decoded] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, decoded: Decoded) -> None:
        with self._lock:
            self._films[decoded.radiograph.sha256] = decoded
            while sum(film.radiograph.pixels.nbytes for film in self._films.values()) > self._max_bytes:
                self._films.popitem(last=False)

    def take(self, sha256: str) -> Decoded | None:
        with self._lock:
            return self._films.pop(sha256, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """decoded: shared with an embedded worker. tolerance: between the deployed classifier's probabilities and ours."""

    intake: Intake
    decode: Callable[[bytes], Radiograph]
    decoded: DecodedFilms
    tolerance: float

    def submit(self, submission: Submission, also: Also = nothing) -> Accepted:
        """As `Intake.accept`; raises ChoiceForbidden, and RadiographError for a film that cannot be decoded."""

        def facts() -> FilmFacts:
            found = decode_timed(self.decode, submission.data)
            self.decoded.put(found)
            film = found.radiograph
            return FilmFacts(film.width, film.height, dict(film.attributes), film.pixels_sha256)

        def compare(unit: Unit, accepted: Accepted) -> None:
            if submission.deployed:
                comparison.keep(unit, accepted.job_id, submission.deployed, submission.actor, self.tolerance)
            also(unit, accepted)

        return self.intake.accept(submission, submission.chosen, facts, compare)
