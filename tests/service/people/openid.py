"""A small OpenID provider with a real HTTP server: discovery, codes bound to PKCE, signed ID tokens, key rotation.

It is strict where the standards are (RFC 6749, RFC 7636, OpenID Connect Core 1.0), and can be told to lie.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

CLIENT_ID, SECRET = "triggerscope", "a secret: with %signs"
Claims = dict[str, Any]
Sign = Callable[[Claims, "OpenIdProvider"], str]


def sign(claims: Claims, provider: "OpenIdProvider") -> str:
    """As it should be: by the newest key."""
    key = provider.keys[-1]
    algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
    return jwt.encode({"alg": algorithm, "kid": str(key.kid)}, claims, key)


@dataclass
class OpenIdProvider:
    """claims: what tokens say beside the standard claims; sign: makes the token. Both may be changed by a test."""

    issuer: str = ""
    claims: Claims = field(default_factory=dict)
    sign: Sign = sign
    keys: list[RSAKey | ECKey] = field(default_factory=lambda: [RSAKey.generate_key(2048, auto_kid=True)])
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    key_requests: int = 0
    is_public: bool = False

    def rotate(self) -> None:
        self.keys = [ECKey.generate_key("P-256", auto_kid=True)]

    def authorise(self, address: str) -> dict[str, str]:
        """What the browser brings back, once somebody has logged in at the authorization endpoint."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return {"code": code, "state": query["state"], "iss": self.issuer}

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, Claims]:
        expected = base64.b64encode(b"triggerscope:a+secret%3A+with+%25signs").decode()
        is_client = form.get("client_id") == CLIENT_ID if self.is_public else authorization == f"Basic {expected}"
        if not is_client:
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if not asked or asked["code_challenge"] != challenge or asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.sign(claims | self.claims, self)}

    def documents(self, path: str) -> Claims | None:
        if path == "/jwks":
            self.key_requests += 1
            return {"keys": KeySet(self.keys).as_dict(private=False)["keys"]}
        if path == "/.well-known/openid-configuration":
            names = {"authorization": "/authorize", "token": "/token", "end_session": "/end"}
            endpoints = {f"{name}_endpoint": self.issuer + path for name, path in names.items()}
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **endpoints}
        return None


@contextmanager
def open_id_provider() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = provider.documents(urlsplit(self.path).path)
            self._answer(200 if found else 404, found or {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*provider.redeem(form, self.headers.get("Authorization", "")))

        def _answer(self, status: int, document: Claims) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
