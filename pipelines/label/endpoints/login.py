"""Who asks, where MONAI Label's authentication is on.

MONAI Label 0.8.5 checks a token without naming the algorithms of its signature. PyJWT 2 refuses
every token then, so nobody could log in. These functions stand in for its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import jwt
import requests
from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, oauth2_scheme

from overtile.pipelines.label.refusals import RefusedError

routes = APIRouter()
# of a pair of keys: with a shared secret, whoever can check a token could make one
_SIGNATURES = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]


@lru_cache(1)
def _realm(address: str) -> tuple[str, jwt.PyJWKClient]:
    """Where a Keycloak realm gives tokens, and its keys."""
    answer = requests.get(
        f"{address}/.well-known/openid-configuration", timeout=settings.MONAI_LABEL_AUTH_TIMEOUT
    )
    answer.raise_for_status()
    told = answer.json()
    return str(told["token_endpoint"]), jwt.PyJWKClient(str(told["jwks_uri"]))


# what it answers is no JSON, or not what a realm says
_NO_REALM = (
    *(requests.RequestException, jwt.PyJWTError),
    *(KeyError, TypeError, ValueError, AttributeError),
)


def _unavailable(error: Exception) -> HTTPException:
    return HTTPException(
        503,
        f"{settings.MONAI_LABEL_AUTH_REALM_URI} (MONAI_LABEL_AUTH_REALM_URI): no answer of a "
        f"Keycloak realm ({type(error).__name__}); it checks who asks",
    )


def asking(token: Annotated[str, Depends(oauth2_scheme)]) -> User:
    """The user that a token is of.

    Raises:
        HTTPException: 401 for a token that is not the realm's, or not valid any more; 503 if the
            realm does not answer.
    """
    try:
        _, keys = _realm(settings.MONAI_LABEL_AUTH_REALM_URI)
        keys.get_jwk_set()  # kept for a while
    except _NO_REALM as error:
        raise _unavailable(error) from error
    try:
        told: dict[str, Any] = jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token),
            algorithms=_SIGNATURES,
            options={"verify_aud": False, "require": ["exp"]},  # the realm's is its own "account"
        )
    except jwt.PyJWKClientConnectionError as error:  # it looks for a key that is new to it
        raise _unavailable(error) from error
    except jwt.PyJWTError as error:
        raise HTTPException(
            401, "the token is not valid, or not any more: log in", {"WWW-Authenticate": "Bearer"}
        ) from error
    roles: Any = told
    for part in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(part) if isinstance(roles, dict) else None
    email, name = (
        told.get(field)
        for field in (settings.MONAI_LABEL_AUTH_TOKEN_EMAIL, settings.MONAI_LABEL_AUTH_TOKEN_NAME)
    )
    return User(
        username=str(told.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or told.get("sub", "")),
        email=email if isinstance(email, str) else None,
        name=name if isinstance(name, str) else None,
        roles=[r for r in roles if isinstance(r, str)] if isinstance(roles, list) else [],
    )


@routes.post("/auth/token")
def log_in(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> dict[str, str]:
    """A token for a name and a password; 401 if the realm does not know them."""
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        raise RefusedError(found="this server asks for no password", hint="go on without a token")
    try:
        endpoint, _ = _realm(settings.MONAI_LABEL_AUTH_REALM_URI)
        fields = {
            "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID,
            "username": form.username,
            "password": form.password,
            "grant_type": "password",
        }
        answer = requests.post(endpoint, fields, timeout=settings.MONAI_LABEL_AUTH_TIMEOUT)
        told = answer.json()
        if answer.status_code not in (400, 401):
            answer.raise_for_status()
            return {"access_token": str(told["access_token"]), "token_type": "Bearer"}
        why = told.get("error_description") or "wrong name or password"
    except _NO_REALM as error:
        raise _unavailable(error) from error
    raise HTTPException(401, f"not logged in: {why}")
