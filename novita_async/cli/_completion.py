"""`completion`: what a shell has to know to complete commands and options."""

from typing import Literal

from novita_async.cli._app import app_for
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output


async def completion(shell: Literal["bash", "zsh", "fish"], /) -> Exit:
    """Print the completion script of a shell.

    bash: `eval "$(novita-async completion bash)"` in ~/.bashrc; zsh: write it to a file `_novita-async` in
    a folder of `$fpath`; fish: to ~/.config/fish/completions/novita-async.fish.

    Args:
        shell: For which shell.
    """
    Output(as_json=False).line(app_for(()).generate_completion(shell=shell))
    return Exit.SUCCEEDED
