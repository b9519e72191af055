"""What the service and the box that examines agree on: versions, limits, the form of messages. No ONNX here."""

import struct
from dataclasses import dataclass

DERIVATION = 1  # raised when the maps of the same file come out otherwise
EXAMINER = 1  # raised when an examination finds otherwise
EXAMINER_VERSION = f"{DERIVATION}.{EXAMINER}"  # beside what was registered: by another one it is examined again
LENGTH = struct.Struct("<Q")  # before each block of bytes


@dataclass(frozen=True, slots=True)
class ExaminationLimits:
    """Of one file. max_bytes: of the file itself; memory_bytes: of the process, above what it has mapped at its start;
    seconds: of the whole examination."""

    max_bytes: int = 512 << 20
    memory_bytes: int = 6 << 30
    seconds: float = 300.0


DEFAULT_LIMITS = ExaminationLimits()
