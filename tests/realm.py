"""What a server asks of a Keycloak realm: addresses, keys, tokens for names and passwords."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

USER, ANNOTATOR, ADMIN = "monailabel-user", "monailabel-annotator", "monailabel-admin"
ROLES = {"ann": [USER, ANNOTATOR], "guest": [USER], "stranger": []}
PASSWORD = "correct horse"


class Realm:
    """A realm with one key and three people.

    Attributes:
        address: for ``MONAI_LABEL_AUTH_REALM_URI``.
        lasts: seconds that a token is valid for.
        given: tokens so far.
        wrong: what it answers instead, by the end of the path.
    """

    def __init__(self, address: str) -> None:
        self.address, self.lasts, self.given = address, 60.0, 0
        self.wrong: dict[str, Any] = {}
        self.key = rsa.generate_private_key(65537, 2048)

    def keys(self) -> dict[str, Any]:
        """The public key, as JWKS."""
        numbers = self.key.public_key().public_numbers()
        modulus, exponent = (
            base64.urlsafe_b64encode(n.to_bytes((n.bit_length() + 7) // 8)).decode().rstrip("=")
            for n in (numbers.n, numbers.e)
        )
        return {
            "keys": [
                {
                    "kid": "one",
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "n": modulus,
                    "e": exponent,
                }
            ]
        }

    def token(self, name: str, key: Any = None, /, **claims: Any) -> str:
        """What ``name`` is given, or somebody who has another key makes."""
        told = {
            "preferred_username": name,
            "exp": time.time() + self.lasts,
            "realm_access": {"roles": ROLES[name]},
            **claims,
        }
        return jwt.encode(told, key or self.key, "RS256", {"kid": "one"})


@contextmanager
def realm() -> Iterator[Realm]:
    """A realm on loopback, until the end."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def say(self, status: int, told: Any) -> None:
            told = made.wrong.get(self.path.split("/")[-1], told)
            body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            paths = {
                "/realms/lab/.well-known/openid-configuration": {
                    "token_endpoint": f"{made.address}/token",
                    "jwks_uri": f"{made.address}/certs",
                },
                "/realms/lab/certs": made.keys(),
            }
            self.say(200 if self.path in paths else 404, paths.get(self.path, {}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            fields = {name: values[0] for name, values in parse_qs(body).items()}
            name = fields["username"]
            if name not in ROLES or fields["password"] != PASSWORD:
                why = "Invalid user credentials"
                self.say(401, {"error": "invalid_grant", "error_description": why})
                return
            made.given += 1
            self.say(200, {"access_token": made.token(name), "token_type": "Bearer"})

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Realm(f"http://127.0.0.1:{server.server_port}/realms/lab")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            server.shutdown()
