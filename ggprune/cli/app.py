"""The command line as a whole: its commands, and the one place where errors become lines.

A command's module is imported when the command is asked for, so that the help and `inspect` load
nothing that is slow. `ggprune --prune-layers 20,21 in.gguf out.gguf` works without naming a
command, as llama-quantize's option of the same name does.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ggprune.cli.completion import mend_bash_words
from ggprune.cli.flatten import flattened
from ggprune.cli.foreign import Command
from ggprune.cli.help import MAX_WIDTH, Described
from ggprune.cli.messages import say_error
from ggprune.cli.streams import prepare_streams
from ggprune.errors import GGPruneError
from ggprune.runtime.program import POLITE_KILLS, program
from ggprune.version import __version__

# name -> how the help of `command` in the module of that name begins
COMMANDS = {
    "prune": "Drop layers from a GGUF file, renumber the rest, keep everything else byte for byte.",
    "rank": "Score every layer by what the model is like without it; the least important comes "
    "first.",
    "choose": "Choose the layers to drop together, on top of a finished ranking.",
    "auto": "Rank the layers, drop the least important ones, requantize, verify, evaluate, "
    "benchmark.",
    "experts": "Score every expert of a MoE model, in one pass over a text.",
    "heal": "Repair a pruned model without training: fit matrices of the layers that stay.",
    "inspect": "Show a model: architecture, quantization mix, size, and one line per layer.",
    "quantize": "Quantize a model with llama.cpp's own quantizer; the tensors are those of "
    "llama-quantize.",
    "eval": "Perplexity as llama-perplexity computes it; with --base also its KL divergence "
    "statistics.",
    "bench": "Prompt (pp) and generation (tg) speed as llama-bench measures it, models taking "
    "turns.",
    "remap": "Carry an imatrix, a LoRA or a control vector over to the layer numbers of a pruned "
    "model.",
    "worker": "Join a scheduler of Dask's, and measure for whoever runs a command with "
    "--scheduler.",
    "synth": "Write a model with random weights and the exact shapes of a well-known one.",
}
REMOVAL_OPTIONS = (
    "--prune-layers", "--keep-layers", "--plan", "--scores", "--drop-mtp", "--drop-experts",
)  # fmt: skip
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Group(Described, TyperGroup):
    """A group with a default command, commands that come when called, and one error boundary."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit(2)
        names = [arg.split("=", 1)[0] for arg in args]
        if args and args[0] not in self.commands and any(n in REMOVAL_OPTIONS for n in names):
            args = ["prune", *args]
        return list(super().parse_args(ctx, args))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Also the options that need no command in front of them."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            behind = load("prune").shell_complete(ctx, incomplete)
            items += [item for item in behind if item.value in REMOVAL_OPTIONS]
        return items

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(name) if name is not None else None, rest

    def main(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        mend_bash_words(os.environ)
        try:
            code = super().main(args, *rest, **{**options, "standalone_mode": False})
        except GGPruneError as e:
            code = _fail(str(e), e.exit_code)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone: nothing to say, nobody to tell
            code = 1
        except OSError as e:
            code = _fail(f"{e.filename or 'output'}: {e.strerror}", 1)
        except Exception as e:
            if not hasattr(e, "format_message"):  # typer's own errors, whose class is private
                raise
            code = _explained(e.format_message())
        if code == INTERRUPTED:
            _fail("interrupted; no partial file is left", code)
        sys.exit(code if isinstance(code, int) else 0)


def load(name: str) -> Any:
    """A command as typer makes it, from its module."""
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=Command)(flattened(import_module(f"ggprune.cli.{name}").command))
    return get_command(alone)


def _explained(message: str) -> int:
    """What typer says about a command line."""
    return _fail(f"{message.replace('Value error, ', '')} (ggprune --help explains)", 2)


def _fail(message: str, code: int) -> int:
    say_error(message)
    return code


app = typer.Typer(
    cls=Group,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
    help="Make GGUF models shallower: rank layers, drop them, requantize, prove what it cost.\n\n"
    "Layers are 0-based numbers of the original model everywhere.",
    epilog="ggprune --prune-layers 20,21 in.gguf out.gguf is short for ggprune prune ...",
)


def _version(show: bool) -> None:
    if show:
        print(f"ggprune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for name, summary in COMMANDS.items():  # what stands for a command in the help, until it is called
    app.command(name, help=summary)(lambda: None)


def main() -> None:
    """Entry point. A polite kill is treated like Ctrl-C, so that nothing is left behind."""
    for sign in POLITE_KILLS:
        if signal.getsignal(sign) == signal.SIG_DFL:  # a job under nohup keeps ignoring it
            signal.signal(sign, signal.default_int_handler)
    prepare_streams()
    program().allow_forks()
    try:
        app()
    except KeyboardInterrupt:  # before the command line had been read
        _leave(_fail("interrupted", INTERRUPTED))
    except SystemExit as e:
        _leave(e.code)


def _leave(code: object) -> NoReturn:
    """End the process at once: taking the interpreter apart takes as long as a short command.

    All that has to be undone at the end is in `with` blocks.
    """
    code = code if isinstance(code, int) else 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or its reader has gone
            code = code or 1
    os._exit(code)
