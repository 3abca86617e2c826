"""What every request has to pass, and what every answer says to the browser."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from monailabel.config import settings
from starlette.responses import JSONResponse

from overtile.pipelines.errors import OvertileError
from overtile.pipelines.label.refusals import (
    ForbiddenError,
    MissingError,
    RefusedError,
    SlowError,
    TooLargeError,
    sentence,
)

_STILL = 1.0  # seconds without a byte after which a client that is refused sends no more
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SERVED = (
    *("/annotate", "/info", "/infer", "/batch", "/train", "/activelearning", "/scoring"),
    *("/datastore", "/model", "/logs", "/auth", "/openapi.json", "/static"),
    "/favicon.ico",
)
"""What is served of MONAI Label, and the page; the rest fetches for others, or unpacks archives.

Nor is /docs, whose scripts come from elsewhere.
"""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityMiddleware:
    """Refuse requests that no user of this server makes, before anything else sees them.

    - for another host than those given: a page elsewhere may have renamed its own to this address;
    - from a page of another origin: MONAI Label itself lets every page read and change all;
    - with more bytes than ``limit``, told or not;
    - for a path that is not in `SERVED`.

    Args:
        app: what comes behind, as ASGI has it.
        hosts: names that the server is reached under, without port; empty for any.
        limit: bytes of a request's body.
        patience: seconds without a byte of a body after which no more are waited for.
    """

    def __init__(
        self, app: Any, hosts: tuple[str, ...], limit: int, patience: float = 20.0
    ) -> None:
        self.app, self.hosts, self.limit, self.patience = app, hosts, limit, patience

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        # a handler may take our refusal for a broken body, and answer that
        ours: RefusedError | None = None

        async def answer(message: Message) -> None:
            if ours is not None:
                if message["type"] == "http.response.start":
                    await refused(ours)(scope, receive, send)
                return
            if message["type"] == "http.response.start":
                own = dict(_HEADERS)
                if scope["path"].startswith("/annotate"):
                    own["Cache-Control"] = "no-store"
                message["headers"] = [
                    *message.get("headers", []),
                    *((k.encode(), v.encode()) for k, v in own.items()),
                ]
            await send(message)

        try:
            self._check(scope)
        except RefusedError as refusal:
            if isinstance(refusal, TooLargeError):
                await self._drain(receive)
            await refused(refusal)(scope, receive, answer)
            return
        count, more = 0, True

        async def counted() -> Message:
            nonlocal count, more, ours
            try:
                # after the body it waits for the client to leave
                async with asyncio.timeout(self.patience if more else None):
                    message = await receive()
            except TimeoutError:
                ours = SlowError(
                    found="the rest of the request did not come",
                    expected=f"more of it within {self.patience:g} s",
                )
                raise ours from None
            count += len(message.get("body", b""))
            more = message.get("more_body", False)
            if count > self.limit:
                if more:
                    await self._drain(receive)
                ours = self._too_large()
                raise ours
            return message

        await self.app(scope, counted, answer)

    def _check(self, scope: Any) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts and (_split(f"//{host}").hostname or "") not in self.hosts:
            own = " or ".join(self.hosts)
            raise ForbiddenError(f"host {host[:100]!r}", "not this server", own)
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            raise ForbiddenError(
                f"origin {origin[:100]!r}",
                "a page of another origin may not ask for anything here",
                hint="use the page of this server, /annotate/",
            )
        path = scope["path"]
        if path != "/" and not any(path == p or path.startswith(f"{p}/") for p in SERVED):
            raise MissingError(
                path[:100], "not served here", hint="GET /openapi.json lists what is"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limit:
            raise self._too_large()

    async def _drain(self, receive: Receive) -> None:
        """Read on for a while: a client that is still sending would not see the answer."""
        count, more = 0, True
        with contextlib.suppress(TimeoutError):  # it may wait for the answer, and never send
            while more and count <= self.limit:
                async with asyncio.timeout(min(_STILL, self.patience)):
                    message = await receive()
                count += len(message.get("body", b""))
                more = message.get("more_body", False)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            found=f"more than {self.limit // 2**20} MiB", expected="less in one request"
        )


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise RefusedError(f"{address[:100]!r}", "no address", "HOST or HOST:PORT") from None


def refused(error: OvertileError) -> JSONResponse:
    """A user's mistake as MONAI Label's clients expect it: ``{"detail": sentence}``.

    ``mistake`` is the same without a hint, for a page that offers what helps by buttons of its own.
    """
    studies = Path(settings.MONAI_LABEL_STUDIES).resolve()
    told = {"detail": sentence(error, studies), "mistake": sentence(error.advising(), studies)}
    return JSONResponse(told, getattr(error, "status", 400))


def failed() -> JSONResponse:
    """For a defect of the server; it passes nothing that would see to its headers."""
    return JSONResponse({"detail": "the server failed; its log tells more"}, 500, _HEADERS)
