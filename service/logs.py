"""Structured logs as JSON lines. An exception is logged by type and place: its text may quote what was received."""

import logging
import sys
import traceback
import warnings
from types import TracebackType

import structlog
from structlog.typing import EventDict, WrappedLogger

QUIET = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,  # quotes addresses, which name studies, and headers, as httpcore does
    "httpcore": logging.WARNING,
    "highdicom": logging.WARNING,  # names the instances that it copies from
    "pydicom": logging.CRITICAL,  # quotes values that it finds odd
    "pynetdicom": logging.CRITICAL,  # prints what is asked for and what peers send
}
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(level: str) -> None:
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        exception_without_text,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)
    warnings.simplefilter("ignore", UserWarning)  # pydicom warns of odd values with the values


def exception_without_text(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    info = entry.pop("exc_info", None)
    found = sys.exc_info() if info is True else info
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        entry["error"] = type(error).__name__
        entry["at"] = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames[-6:]]
    return entry
