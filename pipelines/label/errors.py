"""What the server refuses, with the status that HTTP has for it."""

from __future__ import annotations

from overtile.pipelines.errors import OvertileError


class RefusedError(OvertileError):
    """A request that cannot be served, in one sentence.

    Attributes:
        status: of HTTP, 400 to 499.
    """

    status = 400


class MissingError(RefusedError):
    """Something that is not there."""

    status = 404


class ConflictError(RefusedError):
    """Something that cannot be done now."""

    status = 409


class ReplacedError(RefusedError):
    """Something that was made for what is not there any more."""

    status = 412


class ForbiddenError(RefusedError):
    """Something that this server does not allow."""

    status = 403


class TooLargeError(RefusedError):
    """More than this server takes."""

    status = 413
