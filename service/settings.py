"""Every setting of the service, read from TRIGGERSCOPE_* environment variables. Documented in docs/settings.md."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.addresses import is_loopback, is_safe
from service.graphs.protocol import DEFAULT_LIMITS
from service.offline.environment import Environment
from service.pacs.identity import VIEWER_FIELDS
from service.people.roles import parse_roles

LIMITS, EXAMINATION = Environment.limits, DEFAULT_LIMITS


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TRIGGERSCOPE_", frozen=True, protected_namespaces=())

    data_dir: Path = Path("var")
    models_dir: Path = Environment.models_dir
    database_url: str = ""
    auto_upgrade: bool = False

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allow_anonymous: bool = False
    max_requests: int = Field(default=256, ge=1)
    key_requests_per_second: float = Field(default=50.0, gt=0)
    key_burst: int = Field(default=200, ge=1)
    max_uploads: int = Field(default=32, ge=1)
    upload_seconds: float = Field(default=60.0, gt=0)
    shutdown_seconds: int = Field(default=30, ge=1)

    default_classifier: str = Environment.default_classifier
    max_bytes: int = Field(default=LIMITS.max_bytes, ge=1)
    max_pixels: int = Field(default=LIMITS.max_pixels, ge=1)
    decode_memory_bytes: int = Field(default=LIMITS.decode_memory_bytes, ge=64 * 1024**2)
    decode_seconds: float = Field(default=LIMITS.decode_seconds, gt=0)
    decoders: int = Field(default=2, ge=1)
    max_classifier_bytes: int = Field(default=EXAMINATION.max_bytes, ge=1)
    examination_memory_bytes: int = Field(default=EXAMINATION.memory_bytes, ge=512 * 1024**2)
    examination_seconds: float = Field(default=EXAMINATION.seconds, gt=0)

    wait_seconds: float = Field(default=30.0, ge=0, le=300)
    max_queue_depth: int = Field(default=1000, ge=1)
    probability_tolerance: float = Field(default=0.01, gt=0, lt=1)

    embedded_worker: bool = True
    workers: int = Field(default=2, ge=1)
    lease_seconds: float = Field(default=30.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    poll_seconds: float = Field(default=0.5, gt=0)

    review_readers: int = Field(default=1, ge=1, le=2)
    session_hours: float = Field(default=12.0, gt=0)
    local_accounts: bool = True
    public_url: str = ""
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret_file: Path | None = None
    oidc_scopes: str = "openid profile"
    oidc_name_claim: str = "preferred_username"
    oidc_role_claim: str = "roles"
    oidc_roles: str = ""
    viewer_url: str = ""

    rules_file: Path | None = None
    dimse_host: str = "127.0.0.1"
    dimse_port: int = Field(default=11112, ge=0, le=65535)
    dimse_ae_title: str = Field(default="TRIGGERSCOPE", min_length=1, max_length=16)
    dimse_peers: str = "*@127.0.0.0/8, *@::1"
    dimse_max_associations: int = Field(default=32, ge=1)
    dimse_tls_certificate: Path | None = None
    dimse_tls_key: Path | None = None
    dimse_tls_client_ca: Path | None = None
    orthanc_url: str = ""
    orthanc_username: str = ""
    orthanc_password_file: Path | None = None
    sources_file: Path | None = None
    watch_seconds: float = Field(default=2.0, gt=0)
    hook_secret_file: Path | None = None

    original_retention_hours: float = Field(default=24.0, gt=0)
    sweep_seconds: float = Field(default=300.0, gt=0)
    forward_file: Path | None = None
    forward_syslog: str = ""
    forward_syslog_ca: Path | None = None
    forward_events: bool = False
    forward_seconds: float = Field(default=10.0, gt=0)
    checkpoint_hours: float = Field(default=24.0, gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _anonymous_only_on_loopback(self) -> Self:
        if self.allow_anonymous and not is_loopback(self.host):
            raise ValueError("allow_anonymous needs host to be a loopback address")
        return self

    @model_validator(mode="after")
    def _sign_on_is_complete(self) -> Self:
        if self.oidc_issuer and not (self.oidc_client_id and self.oidc_roles and self.public_url):
            raise ValueError("oidc_issuer needs oidc_client_id, oidc_roles and public_url")
        if not all(is_safe(address) for address in (self.oidc_issuer, self.public_url) if address):
            raise ValueError("oidc_issuer and public_url are https addresses, or on loopback")
        if "openid" not in self.oidc_scopes.split():
            raise ValueError("oidc_scopes holds openid")
        if not (self.local_accounts or self.oidc_issuer):
            raise ValueError("without local_accounts oidc_issuer is needed, or nobody could log in")
        parse_roles(self.oidc_roles)
        return self

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        if (self.dimse_tls_certificate is None) != (self.dimse_tls_key is None):
            raise ValueError("dimse_tls_certificate and dimse_tls_key belong together")
        if self.dimse_tls_client_ca and not self.dimse_tls_certificate:
            raise ValueError("dimse_tls_client_ca needs dimse_tls_certificate")
        return self

    @model_validator(mode="after")
    def _viewer_is_a_web_address(self) -> Self:
        if not self.viewer_url:
            return self
        if not self.viewer_url.startswith(("https://", "http://")):
            raise ValueError("viewer_url has to start with https:// or http://")
        if set(re.findall(r"{(.*?)}", self.viewer_url)) - set(VIEWER_FIELDS):
            raise ValueError(f"viewer_url knows the fields {', '.join(VIEWER_FIELDS)}")
        return self

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'triggerscope.sqlite3').resolve()}"
