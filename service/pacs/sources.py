"""Which archives are watched: a TOML file with a table for each, or a single Orthanc from the settings."""

import ssl
import tomllib
from pathlib import Path
from typing import Annotated, Self

import httpx
from pydantic import Field, ValidationError, model_validator

from service.errors import TriggerscopeError
from service.pacs.rules import Name, Table

TIMEOUT_SECONDS = 60.0


class SourcesError(TriggerscopeError):
    """The list of watched sources cannot be read, or names none."""

    code = "unusable_sources"


class SourceNotUnderstood(TriggerscopeError):
    """The archive does not answer as DICOMweb or Orthanc does, or not completely."""

    code = "source_not_understood"


class Source(Table):
    """An archive's address, and how we show who we are: a user's password, or a token."""

    name: Name
    url: Annotated[str, Field(pattern=r"^https?://")]
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    seconds: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.token_file and self.username:
            raise ValueError("give either username and password_file, or token_file")
        return self


class OrthancSource(Source):
    """Read by /changes."""


class DicomwebSource(Source):
    """Read by QIDO-RS and WADO-RS. overlap_days: how far before the last complete pass each pass looks."""

    modalities: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")], ...], Field(min_length=1)] = (
        "DX",
        "CR",
    )
    overlap_days: Annotated[int, Field(ge=1, le=3650)] = 2


class Sources(Table):
    orthanc: tuple[OrthancSource, ...] = ()
    dicomweb: tuple[DicomwebSource, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [source.name for source in (*self.orthanc, *self.dicomweb)]
        if len(names) != len(set(names)):
            raise ValueError("two sources have the same name")
        return self


def load_sources(path: Path) -> Sources:
    """Raises SourcesError."""
    try:
        return Sources.model_validate(tomllib.loads(path.read_text()))
    except OSError:
        raise SourcesError("the file of watched sources cannot be read") from None
    except tomllib.TOMLDecodeError as error:
        raise SourcesError(f"the file of watched sources is not TOML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'file'}: {f['msg']}" for f in error.errors())
        raise SourcesError(faults) from None


def open_client(source: Source) -> httpx.Client:
    """Follows no redirect and no proxy from the environment. Raises SourcesError."""
    try:
        password = source.password_file.read_text().strip() if source.password_file else ""
        headers = {"Authorization": f"Bearer {source.token_file.read_text().strip()}"} if source.token_file else None
        verify = ssl.create_default_context(cafile=source.ca_file) if source.ca_file else True
    except OSError:
        raise SourcesError(f"source {source.name}: a file that it names cannot be read") from None
    auth = httpx.BasicAuth(source.username, password) if source.username else None
    return httpx.Client(
        base_url=source.url, auth=auth, headers=headers, verify=verify, timeout=TIMEOUT_SECONDS, trust_env=False
    )
