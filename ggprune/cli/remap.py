"""`ggprune remap`: carry a model's companions over to the pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from ggprune.cli.options import Force, Showing
from ggprune.cli.output import show
from ggprune.files.outputs import check_outputs, disk_errors
from ggprune.files.reading import seekable
from ggprune.report.written import Companion, blocks
from ggprune.surgery.plan import read_plan
from ggprune.surgery.remap import remap


def command(
    plan_file: Annotated[Path, Argument(metavar="PLAN.json", help="From prune --save-plan.")],
    source: Annotated[Path, Argument(
        metavar="IN", help="An imatrix (GGUF or .dat), a LoRA adapter or a control vector (GGUF)."
    )],
    out: Annotated[Path, Argument(metavar="OUT", help="The file to write.")],
    force: Force = False,
    *,
    showing: Showing,
) -> None:  # fmt: skip
    """Carry an imatrix, a LoRA or a control vector over to the layer numbers of a pruned model.

    What belongs to dropped layers is left out; all numbers that stay are copied as they are.

    Example: ggprune remap plan.json imatrix.gguf imatrix-pruned.gguf
    """
    check_outputs([out], [plan_file, source], force=force)
    with disk_errors(out), seekable(source) as file:
        remapped = remap(read_plan(plan_file), file, out, force=force)
    show(Companion(remapped, out), blocks, showing)
