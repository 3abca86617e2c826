"""What the server refuses, with the status that HTTP has for it, and how it words a mistake."""

from __future__ import annotations

from pathlib import Path

from overtile.pipelines.errors import OvertileError, Setting

# of `overtile label`, which lies above this room; tests/pipelines/cli/test_cli.py compares
_OPTIONS = ("studies", "bundle", "work", "host", "port", "channels", "read_only")


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


class SlowError(RefusedError):
    """A request that did not come in time."""

    status = 408


class TooLargeError(RefusedError):
    """More than this server takes."""

    status = 413


def as_option(setting: Setting) -> str | None:
    """As whoever runs the server gives it; None for what this command has not got."""
    if setting.name not in _OPTIONS:
        return None
    option = f"overtile label --{setting.name.replace('_', '-')}"
    return option if setting.value is True else f"{option} {setting.value}"


def relative(error: OvertileError, folder: Path) -> OvertileError:
    """The same error with paths told from a folder on: where the server keeps it is its own."""
    return error.moved(lambda p: p.relative_to(folder) if p.is_relative_to(folder) else p)


def sentence(error: OvertileError, folder: Path) -> str:
    """A mistake in one line, as clients are told it, with paths from a folder on."""
    return relative(error, folder).worded(as_option)
