"""How the help of every command is laid out: panels of options, each name whole, its description
beside it in one column.

typer's own table has a column each for long names, short ones, their negations and types, so that
in a usual terminal names are cut and descriptions are a word wide; and it loads rich. Nothing here
knows a command.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from ggprune.cli.completion import briefly

MAX_WIDTH = 102  # of the text and its margin: longer lines are hard to read
MAX_NAMES = 28  # of names that have their description on the same line
NO_VALUE = MappingProxyType({int: "N", float: "X", Path: "FILE", str: "TEXT"})

DROP, TEXT, MEASURE = "What to drop", "Text", "What to measure"
SPEED, LATENCY, QUANTIZE, HEAL = "Speed", "Latency of whole requests", "Quantizing", "Healing"
TRAIN, SHAPE, COMPUTE, SPREAD = "Training", "Shape", "Computing", "Many GPUs and machines"
OUTPUT, OTHER = "Output", "Other"

# In this order, over all commands. An option that is about something else in one command says so
# there, by its `rich_help_panel`.
PANELS: Mapping[str, str] = {
    DROP: "--prune-layers --keep-layers --plan --scores --drop --drop-percent --target-size "
    "--target-params --target-speedup --max-kld --max-ppl-ratio --strategy --protect --decide "
    "--exhaustive --confidence --rounds --replace --rehost --drop-experts --expert-scores "
    "--drop-mtp --trust-uniform-layers",
    TEXT: "--file --eval-file --errors --ctx-size --chunks --eval-chunks",
    MEASURE: "--model --base --metric --by --exact --unit --measure-front --kl-divergence-base "
    "--ppl-stride --hellaswag --hellaswag-tasks --winogrande --winogrande-tasks "
    "--multiple-choice --multiple-choice-tasks --tasks --limit --generate --prompts --predict",
    SPEED: "--n-prompt --n-gen -pg --n-depth --repetitions --no-warmup --memory --roofline",
    LATENCY: "--latency -npl -npp -ntg --warmups --runs",
    QUANTIZE: "--type --imatrix --include-weights --exclude-weights --tensor-type "
    "--tensor-type-file --new-numbers --output-tensor-type --token-embedding-type "
    "--leave-output-tensor --pure --bump-interface --allow-requantize --override-kv "
    "--max-buffer-size",
    HEAL: "--heal --heal-file --self-text --ridge --refit --refit-layers --heal-type --lora --rank "
    "--quantize-last",
    TRAIN: "--train --no-refit --recipe --loss --ce-weight --full --lora-out --tokens --epochs "
    "--lr --batch --micro-batch --warmup --schedule --seed --seeds --answers-only --device --dtype "
    "--gradient-checkpointing --num-processes --log --curves --checkpoints",
    SHAPE: "--shape --layers --list",
    COMPUTE: "--threads --n-gpu-layers --flash-attn --batch-size --ubatch-size --cache-type-k "
    "--cache-type-v --cache",
    SPREAD: "--workers --gpus --gpus-per-worker --contexts --scheduler --scheduler-file "
    "--tls-ca-file --tls-cert --tls-key --wait --mixed --keep --path-map --rpc",
    OUTPUT: "--output --report --plot --save-plan --save-logits --split-max-size "
    "--split-max-tensors --keep-split --dry-run --verify --fingerprint --force --wide --json",
    OTHER: "--version --install-completion --show-completion --help",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A title, and lines of names with what they mean."""

    title: str
    rows: tuple[tuple[str, str], ...]


class Described:
    """What makes a command of typer's describe itself so, to shells in short."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(describe(self, ctx, formatter.width))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        return briefly(super().shell_complete(ctx, incomplete))  # type: ignore[misc]


def describe(command: Any, ctx: Any, width: int) -> str:
    """The whole help of a command or a group, no line of it longer than `width`."""
    sections = list(_sections(command, ctx))
    names = [len(name) for section in sections for name, _ in section.rows]
    room = min(MAX_NAMES, width // 3)  # one half of a narrow terminal would be too much
    column = 4 + max((n for n in names if n <= room), default=room)
    parts = [
        _wrapped(f"Usage: {ctx.command_path} {' '.join(_usage(command))}", width, others=" " * 7),
        *_paragraphs(command.help, width),
        *(_laid_out(section, column, width) for section in sections),
        *_paragraphs(command.epilog, width),
    ]
    return "\n\n".join(parts) + "\n"


def metavar_of(kind: object) -> str | None:
    """What stands for the value of an option of that type, None where it has none.

    The values themselves, where the type is an Enum.
    """
    kinds = [each for each in (kind, *_inside(kind)) if isinstance(each, type)]
    if bool in kinds:
        return None
    for each in kinds:
        if issubclass(each, Enum):
            return "|".join(str(item.value) for item in each)
        if each in NO_VALUE:
            return NO_VALUE[each]
    raise AssertionError(f"{kind} has no metavar")


def _inside(kind: object) -> Iterator[object]:
    """What `list[Path] | None` is made of."""
    for each in get_args(kind):
        yield each
        yield from _inside(each)


def panel_of(option: Any) -> str:
    """Raises AssertionError for an option that is in none."""
    own = getattr(option, "rich_help_panel", None)
    if own is not None:
        return str(own)
    for panel, names in PANELS.items():
        if set(names.split()) & set(option.opts):
            return panel
    raise AssertionError(f"{option.opts} is in no panel")


def _sections(command: Any, ctx: Any) -> Iterator[Section]:
    shown = [param for param in command.get_params(ctx) if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    by_panel: dict[str, list[Any]] = {panel: [] for panel in PANELS}
    for option in shown:
        if option not in arguments:
            by_panel[panel_of(option)].append(option)
    commands = getattr(command, "commands", {})
    if arguments:
        rows = ((each.metavar, _meaning(each, ctx)) for each in arguments)
        yield Section("Arguments", tuple(rows))
    if commands:
        yield Section("Commands", tuple((name, each.help) for name, each in commands.items()))
    for panel, options in by_panel.items():
        if options:
            yield Section(panel, tuple((_names(each), _meaning(each, ctx)) for each in options))


def _names(option: Any) -> str:
    """`-f, --file FILE`, `--verify / --no-verify`."""
    metavar = f" {option.metavar}" if option.metavar and not option.is_flag else ""
    ways = [sorted(names, key=_is_long) for names in (option.opts, option.secondary_opts) if names]
    return " / ".join(", ".join(names) + metavar for names in ways)


def _is_long(name: str) -> bool:
    return name.startswith("--")


def _meaning(param: Any, ctx: Any) -> str:
    """The description, and behind it the default and the limits, as click tells them."""
    told = str(param.get_help_record(ctx)[1])
    return told.replace(r"\[", "[")  # older versions of typer write it for rich


def _usage(command: Any) -> Iterator[str]:
    yield "[OPTIONS]"
    for param in command.params:
        if param.param_type_name == "argument":
            yield param.metavar if param.required else f"[{param.metavar}]"
    if hasattr(command, "commands"):
        yield command.subcommand_metavar


def _paragraphs(text: str | None, width: int) -> Iterator[str]:
    for each in inspect.cleandoc(text or "").split("\n\n") if text else ():
        yield _wrapped(each, width)


def _laid_out(section: Section, column: int, width: int) -> str:
    lines = [f"{section.title}:"]
    for names, meaning in section.rows:
        head = f"  {names}"
        if len(head) > column - 2:  # there has to be a gap
            lines.append(head)
            head = ""
        lines.append(_wrapped(meaning, width, head.ljust(column), " " * column))
    return "\n".join(lines)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=others,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
