"""A server that others reach: who may ask for what. Keycloak is stood in for by `realm`."""

from __future__ import annotations

import base64
import hmac
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, chromium, opened
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from labelling import Answer, Server, needs_label, serving

pytest.importorskip("jwt")  # of the extra, as the server

from fastapi import HTTPException
from fastapi.security import OAuth2PasswordRequestForm
from realm import ADMIN, ANNOTATOR, PASSWORD, Realm, realm

pytestmark = needs_label


@pytest.fixture(scope="module")
def lab() -> Iterator[Realm]:
    with realm() as made:
        yield made


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, studies_in: Callable[[Path], Path], lab: Realm
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("login")
    on = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": lab.address}
    with serving(studies_in(home / "studies", 3), home / "log", "--host", "0.0.0.0", **on) as made:
        yield made


def log_in(server: Server, name: str, password: str = PASSWORD) -> Answer:
    form = urllib.parse.urlencode({"username": name, "password": password}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return server.ask("POST", "/auth/token", form, kind)


def ask(server: Server, token: str, method: str, path: str, body: bytes | None = None) -> Answer:
    return server.ask(method, path, body, {"Authorization": f"Bearer {token}"})


DRAWN = 4 * 128 * 128 * b"\0"
SUBMIT = ("PUT", "/annotate/label?id=00&width=128&height=128", DRAWN)


def test_people_may_do_what_their_roles_say(server: Server) -> None:
    ann, guest, stranger = (
        log_in(server, name).json["access_token"] for name in ("ann", "guest", "stranger")
    )
    for path in ("/annotate/data", "/info/", "/annotate/image?id=00", "/datastore/"):
        assert ask(server, ann, "GET", path).status == 200, path
        assert ask(server, guest, "GET", path).status == 200, path
        assert ask(server, stranger, "GET", path).status == 403, path
        assert server.get(path).status == 401, path
    locked = {
        name: ask(server, token, "GET", "/annotate/data").json["locked"]
        for name, token in (("ann", ann), ("guest", guest))
    }
    assert locked["ann"] == {"submit": "", "train": f"role {ADMIN!r} is required to train"}
    assert ANNOTATOR in locked["guest"]["submit"]
    assert ADMIN in locked["guest"]["train"]
    assert ask(server, guest, *SUBMIT).status == 403
    for path in ("/train/touching_cells", "/annotate/shipped?model=touching_cells"):
        assert ask(server, ann, "POST", path).status == 403
    assert server.ask(*SUBMIT).status == 401
    kept = urllib.parse.urlencode({"params": '{"save_label": true, "label_tag": "mine"}'}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {guest}"}
    propose = "/infer/touching_cells?image=00&output=json"
    assert server.ask("POST", propose, kept, kind).status == 403
    assert server.ask("POST", propose, headers=kind).status == 200
    assert not list(server.studies.glob("labels/mine/*"))
    assert not list(server.studies.glob("labels/final/*"))
    assert ask(server, ann, *SUBMIT).status == 200
    noted = json.loads((server.studies / "labels" / "info.json").read_text())
    assert noted["labels"]["final"]["00"]["user"] == "ann"


def test_nothing_is_answered_to_nobody(server: Server) -> None:
    """But the page itself, which has the dialog to log in."""
    routes = server.get("/openapi.json").json["paths"]
    asked = [
        (method, re.sub(r"\{[^}]*\}", "x", path))
        for path, methods in routes.items()
        for method in methods
        if not path.startswith(("/annotate/{name}", "/auth/"))
    ]
    answers = {ask: server.ask(ask[0].upper(), ask[1]).status for ask in asked}
    assert len(answers) > 30
    open_to_all = {a for a, status in answers.items() if status not in (401, 404)}  # 404: no such
    assert open_to_all == {("get", "/annotate"), ("get", "/annotate/")}
    assert answers["get", "/annotate/data"] == answers["put", "/datastore/label"] == 401


def test_who_is_unknown_is_told_why(server: Server) -> None:
    assert "Invalid user credentials" in log_in(server, "ann", "guess").detail
    assert log_in(server, "nobody").status == 401
    assert log_in(server, "").status == 422


def by_hand(algorithm: str, token: str, secret: bytes = b"") -> str:
    """The claims of a token, signed as no library would: not at all, or with a public key."""

    def text(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).decode().rstrip("=")

    head = text(json.dumps({"alg": algorithm, "typ": "JWT", "kid": "one"}).encode())
    signed = f"{head}.{token.split('.')[1]}"
    mark = hmac.digest(secret, signed.encode(), "sha256") if secret else b""
    return f"{signed}.{text(mark)}"


def test_tokens_of_others_are_refused(server: Server, lab: Realm) -> None:
    public = lab.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    lab.lasts = -5
    stale = lab.token("ann")
    lab.lasts = 60
    made = {
        "another key": lab.token("ann", rsa.generate_private_key(65537, 2048)),
        "the public key as a secret": by_hand("HS256", lab.token("ann"), public),
        "no signature": by_hand("none", lab.token("ann")),
        "stale": stale,
        "no token": "ann",
    }
    for kind, token in made.items():
        assert ask(server, token, "GET", "/annotate/data").status == 401, kind
    assert ask(server, lab.token("ann"), "GET", "/annotate/data").status == 200


@pytest.mark.filterwarnings("ignore:'crypt' is deprecated")  # of passlib, which MONAI Label loads
@pytest.mark.parametrize(
    "wrong",
    [
        {"openid-configuration": []},
        {"openid-configuration": {"token_endpoint": 5, "jwks_uri": 5}},
        {"certs": "<html>", "token": "<html>"},
        {"certs": [], "token": ["x"]},
        {"certs": {"keys": 5}, "token": 5},
    ],
)
def test_a_realm_that_talks_nonsense_is_named(wrong: dict[str, Any]) -> None:
    from monailabel.config import settings

    from overtile.pipelines.label.endpoints import login

    with realm() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
        patch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", made.address)
        made.wrong = wrong
        form = OAuth2PasswordRequestForm(username="ann", password=PASSWORD)
        for asked in (lambda: login.asking(made.token("ann")), lambda: login.log_in(form)):
            login._realm.cache_clear()
            with pytest.raises(HTTPException, match="no answer of a Keycloak realm") as refused:
                asked()
            assert refused.value.status_code == 503
        made.wrong = {}
        login._realm.cache_clear()
        odd = made.token(
            "ann", realm_access={"roles": [1, None, "monailabel-user"]}, email=5, name=[]
        )
        assert login.asking(odd).roles == ["monailabel-user"]
        login._realm.cache_clear()


def test_a_realm_that_does_not_answer_is_named(
    tmp_path: Path, studies_in: Callable[[Path], Path]
) -> None:
    away = "http://127.0.0.1:1/realms/lab"
    on = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": away}
    with serving(studies_in(tmp_path / "studies", 1), tmp_path / "log", **on) as server:
        for answer in (log_in(server, "ann"), ask(server, "token", "GET", "/annotate/data")):
            assert answer.status == 503
            assert away in answer.json["detail"]


@pytest.mark.slow
def test_the_page_asks_for_a_password_once(server: Server, lab: Realm, tmp_path: Path) -> None:
    def submit(page: Page, name: str, password: str) -> None:
        page.until("document.querySelector('#login').open")
        page.value(f"document.querySelector('#user').value = {json.dumps(name)}")
        page.value(f"document.querySelector('#password').value = {json.dumps(password)}")
        page.click("#login button")

    lab.lasts, before = 2, lab.given
    try:
        with opened(chromium("the page is not opened"), tmp_path / "profile") as page:
            page.open(f"http://127.0.0.1:{server.port}/annotate/")
            page.until("document.querySelector('#login').open")
            page.value("document.querySelector('#login').close()")  # as Escape does
            page.until("document.querySelector('#status').textContent.includes('not logged in')")
            page.press("n")  # asks again
            submit(page, "ann", "guess")
            page.until("document.querySelector('#login p').textContent.includes('credentials')")
            submit(page, "ann", PASSWORD)
            ready = "document.body?.dataset.image && document.body.dataset.busy === 'false'"
            page.until(ready)
            first = page.value("document.body.dataset.image")
            button = "document.querySelector('#{}').{}".format
            assert not page.value(button("submit", "disabled"))
            assert page.value(button("train", "disabled"))  # as she is no admin, and it says so
            assert ADMIN in page.value(button("train", "title"))
            page.value("new Promise((done) => setTimeout(done, 2500))")
            page.press("n")  # its token is not valid any more
            page.until(f"document.body.dataset.image !== {json.dumps(first)} && {ready}")
            assert not page.value("document.querySelector('#login').open")
            assert lab.given > before + 1
    finally:
        lab.lasts = 60
