"""How fast one API key may ask: a token bucket for each, in the memory of one process."""

import threading
import time
from collections.abc import Callable

from service.errors import TriggerscopeError


class RateLimited(TriggerscopeError):
    """The key asked more often than it may; `retry_after_seconds` says when it may again."""

    code = "rate_limited"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("too many requests with this key")
        self.retry_after_seconds = retry_after_seconds


class Buckets:
    """`burst` requests at once, and `per_second` in the long run. Authenticated callers only, so they are few."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._filled: dict[str, tuple[float, float]] = {}  # tokens left, and when that was
        self._lock = threading.Lock()

    def take(self, actor: str) -> None:
        """Raises RateLimited where the bucket is empty."""
        with self._lock:
            now = self._clock()
            tokens, at = self._filled.get(actor, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._per_second)
            if tokens < 1:
                raise RateLimited((1 - tokens) / self._per_second)
            self._filled[actor] = (tokens - 1, now)
