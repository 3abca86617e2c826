"""MONAI's command comes upon a configuration of ours."""

from __future__ import annotations

import sys
from functools import partial

from overtile.pipelines.bundle.check import check_value
from overtile.pipelines.bundle.configuration import current_parser
from overtile.pipelines.bundle.messages import as_override, one_line_errors
from overtile.pipelines.bundle.overrides import in_monais_command, typed
from overtile.pipelines.bundle.schema import KEYS
from overtile.pipelines.bundle.values import shown
from overtile.pipelines.errors import ConfigurationError, exit_with


def _keeps_the_check(initialize: object) -> None:
    """What was typed in the place of ``initialize`` must not take the check of the rest away."""
    if "initialize" in typed(sys.argv[1:]) and "check_configuration" not in str(initialize):
        raise ConfigurationError(
            "initialize",
            shown(initialize),
            "a list with overtile.pipelines.check_configuration in it",
            "leave it out",
        )


def begin() -> None:
    """End ``python -m monai.bundle`` with one line for a mistake; in other programs do nothing.

    ``initialize``, which checks all other values, is checked here: what MONAI does not run cannot
    tell that it was not run.
    """
    if not in_monais_command():
        return
    one_line_errors()
    parser = current_parser()
    if parser is None or "initialize" not in parser:
        return
    try:
        check_value(KEYS["initialize"], parser["initialize"])
        _keeps_the_check(parser["initialize"])
    except ConfigurationError as error:
        # not as an exception: MONAI imports a name when it is used, and drops what that raises
        exit_with(error, partial(as_override, parser=parser))
