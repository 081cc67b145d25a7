"""``cronpost completion``: prints the script with which a shell completes commands, options, job ids and statuses."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_CRONPOST_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(cronpost completion bash)"                              in ~/.bashrc
    zsh    eval "$(cronpost completion zsh)"                               in ~/.zshrc
    fish   cronpost completion fish > ~/.config/fish/completions/cronpost.fish
    """
    from scheduler_api.cli.main import main

    found = get_completion_class(shell)
    assert found is not None
    made = found(main, {}, "cronpost", VARIABLE)
    # Not made.source(): it runs bash to check its version, and the script may be for another machine.
    click.echo(made.source_template % made.source_vars())
