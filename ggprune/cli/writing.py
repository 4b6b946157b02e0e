"""Options of the commands that write a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from ggprune.cli.options import AsJson, Force


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Whether to write at all, what is proved of it, and how it is told."""

    dry_run: Annotated[bool, Option("--dry-run", help="Print the exact size; write nothing.")] = (
        False
    )
    verify: Annotated[
        bool,
        Option(
            "--verify/--no-verify",
            help="After checking every byte, also load the result in llama.cpp and decode with it.",
        ),
    ] = True
    force: Force = False
    as_json: AsJson = False
