"""`overtile completion`: commands and options by the Tab key."""

from __future__ import annotations

import click

from overtile.pipelines.cli.options import Command, examples, loudness


@click.command(
    cls=Command,
    epilog=examples(
        "overtile completion bash >> ~/.bashrc",
        "overtile completion zsh >> ~/.zshrc",
        "overtile completion fish > ~/.config/fish/completions/overtile.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@loudness
def completion(shell: str) -> None:
    """Print the script by which SHELL completes the commands and options of overtile."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has the three
    overtile = click.get_current_context().find_root().command
    click.echo(kind(overtile, {}, "overtile", "_OVERTILE_COMPLETE").source())
