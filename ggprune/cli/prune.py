"""`ggprune prune`: drop layers from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli import options as shared
from ggprune.cli.heal import HealTexts, carry_out
from ggprune.cli.measuring import cache_folder
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.cli.quantizing import Quantizing
from ggprune.cli.removal import Removal, Splitting
from ggprune.errors import UsageError
from ggprune.files.documents import to_text
from ggprune.files.outputs import check_outputs, write_text
from ggprune.files.reading import TextErrors
from ggprune.healing.result import HealOptions
from ggprune.metrics.text import CALIBRATION, read_texts, shipped_text
from ggprune.model.model import open_model
from ggprune.pipeline.files import cache_sizes
from ggprune.pipeline.heal import HealJob
from ggprune.pipeline.job import Job, planned, write
from ggprune.report.written import blocks, pruned_model
from ggprune.runtime.compute import Compute
from ggprune.surgery.plan import PrunePlan

UNFITTED = "a matrix in an attention's place must be fitted: add --heal"


@dataclass(frozen=True, kw_only=True)
class PlanWriting(shared.Writing):
    """Here there is a plan to print as well."""

    # fmt: off
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Print plan and exact size; write nothing.")] = False
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that is to be done to the model."""

    # fmt: off
    removal: Removal
    save_plan: Annotated[Path | None, Option(help="Write the plan as JSON.")] = None
    type_name: shared.TypeName = None
    quantizing: Quantizing
    heal: Annotated[bool, Option(
        "--heal", help="Also repair it, as ggprune heal does, which has more options.")] = False
    files: HealTexts = None
    errors: shared.Errors = TextErrors.STRICT
    drop_mtp: shared.DropMtp = False
    splitting: Splitting
    trust: Annotated[bool, Option(
        "--trust-uniform-layers",
        help="Prune architectures that ggprune does not know: vouch that all layers are alike.",
    )] = False
    threads: shared.Threads = None
    writing: PlanWriting
    # fmt: on


def command(source: shared.ModelPath, out: shared.OutPath, options: Options) -> None:
    """Drop layers from a GGUF file, renumber the rest, keep everything else byte for byte.

    Kept tensors are copied, not decoded; a quantized file stays exactly as it is quantized, unless
    --type asks for another type. The output appears only when it is complete and verified.

    Example: ggprune prune --prune-layers 20-22 model.gguf model-29.gguf
    """
    removal, quantizing, writing = options.removal, options.quantizing, options.writing
    if removal.replace is not None and not options.heal:
        raise UsageError(UNFITTED)
    split = options.splitting.split()
    quantize = quantizing.options(options.type_name, options.threads)
    model = open_model(source)
    inputs = [
        *(file.path for file in model.files), removal.plan_file, removal.scores,
        removal.expert_scores, *quantizing.files,
        *(options.files or ()),
    ]  # fmt: skip
    check_outputs([out, options.save_plan], inputs, force=writing.force)
    plan = removal.plan(model, drop_mtp=options.drop_mtp, trust=options.trust)
    job = Job(
        model=model, out=out, plan=plan, quantize=quantize, imatrix=quantizing.matrix(),
        split=split, force=writing.force, check_load=writing.verify,
    )  # fmt: skip
    if plan.cut.linear and not options.heal:
        raise UsageError(UNFITTED)
    if options.heal:
        carry_out(_healing(job, plan, options), model, plan, writing)
    elif options.files:
        raise UsageError("-f is a text to heal with: add --heal")
    else:
        files = planned(job) if writing.dry_run else write(job, TerminalProgress())
        is_written = not writing.dry_run
        cache = cache_sizes(model, files.paths) if is_written and writing.verify else None
        pruned = pruned_model(model, plan, files, written=is_written, cache=cache)
        show(pruned, blocks, writing.showing)
    if options.save_plan is not None:
        write_text(options.save_plan, to_text(plan), force=writing.force)


def _healing(job: Job, plan: PrunePlan, options: Options) -> HealJob:
    """The same job, healed by the defaults of `ggprune heal`."""
    healing = HealOptions(compute=Compute(n_threads=options.threads), cache=cache_folder(True))
    given = shipped_text(CALIBRATION)
    if options.files:
        given = read_texts(options.files, options.errors)
    return HealJob(
        base=job.model, out=job.out, plan=plan, text=given, options=healing,
        quantize=job.quantize, imatrix=job.imatrix, split=job.split, force=job.force,
        check_load=job.check_load,
    )  # fmt: skip
