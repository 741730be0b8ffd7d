"""The command line. Every command is imported when it is called, so that ``--help`` starts at once."""

from __future__ import annotations

import importlib

import click

from refactor import __version__

COMMANDS = {
    "check": "List hazards; never writes.",
    "apply": "Rewrite files, or print the diff.",
    "undo": "Take back the last apply.",
    "verify": "Prove that rewritten code gives the same results, and time it.",
    "rule": "Show a rule's documentation, or list all rules.",
}
"""Commands and their short help; module ``refactor.cli.NAME`` holds a command called ``NAME``."""


class _Lazy(click.Group):
    """A group whose commands are modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"refactor.cli.{cmd_name}"
        try:
            command = getattr(importlib.import_module(name), cmd_name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise click.ClickException(f"`refactor {cmd_name}` is not part of this installation") from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        from refactor.config import ConfigError

        try:
            return super().invoke(ctx)
        except ConfigError as error:
            from refactor.cli.streams import Unusable

            raise Unusable(str(error)) from None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="refactor")
def main() -> None:
    """Rewrite PyTorch code so that its hot paths run as CUDA graphs, and prove that nothing else changed."""
