"""`ggprune remap`: carry a model's companions over to the pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import AsJson, Force


def remap_command(
    plan_file: Annotated[
        Path,
        typer.Argument(metavar="PLAN.json", show_default=False, help="From prune --save-plan."),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            show_default=False,
            help="An imatrix (GGUF or .dat), a LoRA adapter or a control vector (GGUF).",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", show_default=False, help="The file to write.")
    ],
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Carry an imatrix, a LoRA or a control vector over to the layer numbers of a pruned model.

    What belongs to dropped layers is left out; all numbers that stay are copied as they are.

    Example: ggprune remap plan.json imatrix.gguf imatrix-pruned.gguf
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import disk_errors
    from ggprune.report.terminal import terminal
    from ggprune.report.written import Companion, blocks
    from ggprune.surgery.plan import read_plan
    from ggprune.surgery.remap import remap

    check_outputs([out], [plan_file, source], force=force)
    with disk_errors(out):
        companion = Companion(remap(read_plan(plan_file), source, out, force=force), out)
    print(to_text(companion) if as_json else terminal(blocks(companion)), end="")
