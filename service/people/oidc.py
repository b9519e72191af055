"""Single sign-on by OpenID Connect: authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0, 3.1).

The identity provider only says who somebody is and which role the claim maps to; the session is ours, as for a local
account. Accounts are found by (issuer, subject) and never by a name that the provider could choose.
"""

import math
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from service.addresses import is_safe
from service.errors import TriggerscopeError
from service.people.accounts import Vouched
from service.people.roles import ROLES

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_SECONDS = 60
METADATA_SECONDS = 3600.0
TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 5.0
LONGEST_SUBJECT = 255  # ASCII characters, OpenID Connect Core 1.0, section 2


class SignOnFailed(TriggerscopeError):
    """The provider's answer is not one to our question, or does not prove who came."""

    code = "sign_on_failed"


class ProviderUnavailable(TriggerscopeError):
    """The provider does not answer, or not as OpenID Connect Discovery 1.0 asks."""

    code = "identity_provider_unavailable"


@dataclass(frozen=True, slots=True)
class Client:
    """What we are to the provider. roles: value of the claim -> our role; secret: empty for a public client."""

    issuer: str
    client_id: str
    secret: str
    redirect_uri: str
    scopes: str
    role_claim: str
    roles: Mapping[str, str]
    name_claim: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one browser is sent off with. The state comes back by way of the browser, the nonce in the ID token."""

    state: str
    nonce: str
    code_verifier: str


def new_attempt() -> Attempt:
    return Attempt(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))


class Provider:
    """Metadata and keys are kept for an hour; an unknown key id asks for the keys anew, for providers rotate them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0
        self._failed_at = -math.inf

    def authorization_address(self, attempt: Attempt) -> str:
        """Where the browser goes. Raises ProviderUnavailable."""
        address: str = prepare_grant_uri(
            self._endpoint("authorization_endpoint"),
            self.client.client_id,
            "code",
            redirect_uri=self.client.redirect_uri,
            scope=self.client.scopes,
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.code_verifier),
            code_challenge_method="S256",
        )
        return address

    def logout_address(self) -> str | None:
        """Where the browser may end its login at the provider (RP-Initiated Logout 1.0), if that is offered."""
        try:
            end = self._read_metadata().get("end_session_endpoint")
        except ProviderUnavailable:
            return None
        back = self.client.redirect_uri.removesuffix("/login/sso/return") + "/login"
        query = httpx.QueryParams(client_id=self.client.client_id, post_logout_redirect_uri=back)
        return f"{end}{'&' if '?' in end else '?'}{query}" if isinstance(end, str) else None

    def redeem(self, code: str, code_verifier: str, nonce: str) -> Vouched:
        """Exchange a code for an ID token and believe it only when it is sound. Raises SignOnFailed."""
        given = self._post_code(code, code_verifier).get("id_token")
        if not isinstance(given, str):
            raise SignOnFailed("the identity provider sent no ID token")
        return self._vouched(self._claims(given, nonce))

    def _post_code(self, code: str, code_verifier: str) -> dict[str, Any]:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.client.redirect_uri,
            "code_verifier": code_verifier,
        }
        auth = None
        if self.client.secret:
            auth = httpx.BasicAuth(_quoted(self.client.client_id), _quoted(self.client.secret))
        else:
            fields["client_id"] = self.client.client_id
        try:
            answer = httpx.post(self._endpoint("token_endpoint"), data=fields, auth=auth, timeout=TIMEOUT_SECONDS)
            found = answer.json() if answer.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            raise ProviderUnavailable("the identity provider did not answer") from None
        if not isinstance(found, dict) or not found:
            raise SignOnFailed("the identity provider did not take the code")
        return found

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """Signature, issuer, audience, authorised party, time and nonce (OpenID Connect Core 1.0, 3.1.3.7)."""
        checks = JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.client.issuer},
            aud={"essential": True, "value": self.client.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = self._decoded(token)
            checks.validate(claims)
        except (JoseError, ValueError):
            raise SignOnFailed("the identity provider's token is not valid") from None
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != self.client.client_id:
            raise SignOnFailed("the identity provider's token is for somebody else")
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(token, self._read_keys(), algorithms=ALGORITHMS).claims
        except InvalidKeyIdError:
            return jwt.decode(token, self._read_keys(anew=True), algorithms=ALGORITHMS).claims

    def _vouched(self, claims: Mapping[str, Any]) -> Vouched:
        subject = claims["sub"]
        if not (isinstance(subject, str) and 0 < len(subject) <= LONGEST_SUBJECT):
            raise SignOnFailed("the identity provider's token names nobody")
        values = _claim(claims, self.client.role_claim)
        given = values if isinstance(values, list) else [values]
        held = [role for value, role in self.client.roles.items() if value in given]
        role = max(held, key=list(ROLES).index, default=None)
        return Vouched(self.client.issuer, subject, str(claims.get(self.client.name_claim, "")), role)

    def _endpoint(self, name: str) -> str:
        address = self._read_metadata().get(name)
        if not isinstance(address, str) or not is_safe(address):
            raise ProviderUnavailable(f"the identity provider names no usable {name}")
        return address

    def _read_metadata(self) -> dict[str, Any]:
        with self._lock:
            if not self._metadata or time.monotonic() - self._read_at > METADATA_SECONDS:
                found = self._get(f"{self.client.issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != self.client.issuer:
                    raise ProviderUnavailable("the identity provider calls itself by another name than oidc_issuer")
                self._metadata, self._keys, self._read_at = found, None, time.monotonic()
            return self._metadata

    def _read_keys(self, *, anew: bool = False) -> KeySet:
        address = self._endpoint("jwks_uri")
        with self._lock:
            if self._keys is None or anew:
                found = self._get(address)
                try:
                    usable = [key for key in found["keys"] if key.get("use", "sig") == "sig" and key["kty"] != "oct"]
                    self._keys = KeySet.import_key_set({"keys": usable})
                except (JoseError, KeyError, TypeError, ValueError, AttributeError):
                    raise ProviderUnavailable("the identity provider's keys cannot be read") from None
            return self._keys

    def _get(self, address: str) -> dict[str, Any]:
        """For some seconds after a failure nobody else is kept waiting for the same."""
        if time.monotonic() - self._failed_at < RETRY_SECONDS:
            raise ProviderUnavailable("the identity provider was away a moment ago; try again")
        try:
            answer = httpx.get(address, timeout=TIMEOUT_SECONDS)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            self._failed_at = time.monotonic()
            raise ProviderUnavailable("the identity provider did not answer") from None
        if not isinstance(found, dict):
            raise ProviderUnavailable("the identity provider's answer cannot be read")
        return found


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path with dots such as `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _quoted(text: str) -> str:
    """As RFC 6749, section 2.3.1, wants name and secret inside Basic."""
    return str(httpx.QueryParams({"": text})).removeprefix("=")
