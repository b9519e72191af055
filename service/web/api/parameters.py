"""Parameters that several routes take."""

from typing import Annotated

from fastapi import Path

from service.names import NAME_PATTERN

LABEL_LENGTH = 64
AuditId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
