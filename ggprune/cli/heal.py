"""`ggprune heal`: repair a pruned model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli import options as shared
from ggprune.cli.completion import values_of
from ggprune.cli.help import DROP
from ggprune.cli.measuring import Computing, cache_folder, note_chunks
from ggprune.cli.output import deliver, show
from ggprune.cli.progress import READ, TerminalProgress
from ggprune.cli.quantizing import Quantizing
from ggprune.cli.removal import Removal, Splitting
from ggprune.cli.training import Training
from ggprune.errors import UsageError
from ggprune.files.outputs import check_outputs
from ggprune.files.reading import TextErrors
from ggprune.healing.result import RANK, Fitted, HealOptions, parse_fitted
from ggprune.healing.selftext import SelfTextOptions
from ggprune.metrics.text import Text, read_texts
from ggprune.model.cut import gone_of
from ggprune.model.model import Model, open_model
from ggprune.pipeline.heal import HealJob, heal, outline
from ggprune.pipeline.launch import check_extra, follow, is_follower
from ggprune.pipeline.lineage import kept_layers
from ggprune.pipeline.selftext import text_to_fit
from ggprune.pipeline.train import TrainJob, train
from ggprune.quantize.options import parse_tensor_type
from ggprune.report.heal import HealedModel, HealPlan, blocks, planned_layers
from ggprune.report.plot import check_plot, training_figure, write_figure
from ggprune.report.training import TrainedModel
from ggprune.report.training import blocks as training_blocks
from ggprune.report.written import pruned_model
from ggprune.surgery.plan import PrunePlan, make_plan
from ggprune.training.samples import read_corpus

HealTexts = Annotated[
    list[Path] | None,
    Option("-f", "--file", help="UTF-8 text to fit to, or a folder of .txt files. Repeatable.",
           show_default="a short one that ships with ggprune"),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What matrices are fitted to, and how."""

    # fmt: off
    files: HealTexts = None
    errors: shared.Errors = TextErrors.STRICT
    self_text: Annotated[int | None, Option(
        "--self-text", min=1024, max=1 << 30, metavar="N",
        help="Have the original write N tokens to fit to, behind the text of -f if there is one; "
        "kept in the user's cache folder. With --dry-run it writes none, and N are counted on.",
    )] = None
    n_ctx: shared.ContextSize = 512
    n_chunk: Annotated[int | None, Option(
        "--chunks", min=8, show_default="all",
        help="Read the first N chunks only; with --train, fit to them and train on all.")] = None
    ridge: Annotated[str, Option(
        metavar="X|auto",
        help="How much matrices are held back, as a share of their inputs' mean square; auto: "
        "chosen for every matrix on chunks set aside.")] = "auto"
    refit: Annotated[str, Option(
        metavar="NAME", autocompletion=values_of(Fitted),
        help="Which matrices: attn, ffn or both.")] = "both"
    layers: Annotated[int | None, Option(
        "--refit-layers", min=1, show_default="all",
        help="Fit the first N layers only, from the one in front of the first cut on.")] = None
    heal_type: Annotated[str | None, Option(
        "--heal-type", metavar="TYPE", show_default="their own",
        autocompletion=shared.tensor_types,
        help="Store fitted matrices in this type.")] = None
    # fmt: on

    def text(self, base: Model, options: HealOptions, *, write: bool) -> Text:
        """Without `write` other text stands in for what the original would write."""
        given = read_texts(self.files, self.errors) if self.files else None
        own = None
        if self.self_text is not None:
            own = SelfTextOptions(
                n_token=self.self_text, n_ctx=options.n_ctx, compute=options.compute,
                cache=options.cache,
            )  # fmt: skip
        return text_to_fit(base, given, own, write=write, progress=TerminalProgress())

    def options(self, computing: Computing, rank: int | None, *, cache: bool) -> HealOptions:
        return HealOptions(
            n_ctx=self.n_ctx, n_chunk=self.n_chunk, ridge=_ridge(self.ridge),
            fitted=parse_fitted(self.refit), n_layer=self.layers, rank=rank,
            tensor_type=parse_tensor_type(self.heal_type) if self.heal_type else None,
            compute=computing.compute(), cache=cache_folder(cache),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """The change as an adapter besides."""

    # fmt: off
    lora: Annotated[str | None, Option(
        metavar="OUT.gguf|RANK",
        help="Write the change as a LoRA adapter for the pruned model, too: a part of the gain, "
        "at the cost of speed. With --train: the rank of the adapters that are trained.")] = None
    rank: Annotated[int | None, Option(
        min=1, show_default=str(RANK), help="Of the adapter's matrices, with --lora.")] = None
    # fmt: on

    @property
    def asked(self) -> int | None:
        """The rank, None without an adapter. Raises UsageError for a rank of nothing."""
        if self.lora is None and self.rank is not None:
            raise UsageError("--rank says how large an adapter is: add --lora")
        return (self.rank or RANK) if self.lora is not None else None

    @property
    def file(self) -> Path | None:
        return Path(self.lora) if self.lora is not None else None


@dataclass(frozen=True, kw_only=True)
class HealWriting(shared.Writing):
    """What --dry-run and --force do here."""

    # fmt: off
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Say which matrices would be fitted, and what it takes.")] = False
    force: Annotated[bool, Option(
        "--force", help="Replace the output if it exists, and write what is no better.")] = False
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Options:
    """What leaves, what is fitted, and what is made of the result."""

    # fmt: off
    removal: Removal
    base: Annotated[Path | None, Option(
        "--base", rich_help_panel=DROP,
        help="The original, where IN.gguf was pruned by ggprune already.")] = None
    drop_mtp: shared.DropMtp = False
    fitting: Fitting
    adapting: Adapting
    training: Training
    type_name: shared.TypeName = None
    quantize_last: Annotated[bool, Option(
        "--quantize-last",
        help="Fit before quantizing to --type, not through the quantized matrices.")] = False
    quantizing: Quantizing
    splitting: Splitting
    computing: Computing
    cache: shared.UseCache = True
    writing: HealWriting
    # fmt: on


def command(source: shared.ModelPath, out: shared.OutPath, options: Options) -> None:
    """Repair a pruned model without training: fit matrices of the layers that stay.

    Drops layers and fits, layer after layer, the matrices that write into the residual stream, so
    that it follows the original's; everything else stays byte for byte. A quantized model stays
    quantized. One chunk of the text in 8 is not fitted: a matrix that is no better there stays as
    it is, and if the whole model is no better there, nothing is written.

    With --train the fitted model is then trained by torch, its teacher being the original; the
    result is a GGUF file again. -f also takes .jsonl files of texts and conversations there.

    Example: ggprune heal --prune-layers 20-22 -f text.txt model.gguf healed.gguf
    """
    if options.training.train:
        train_command(source, out, options)
        return
    options.training.check_unused()
    quantizing, writing, fitting = options.quantizing, options.writing, options.fitting
    lora, rank = options.adapting.file, options.adapting.asked
    split = options.splitting.split()
    quantize = quantizing.options(options.type_name, options.computing.threads)
    if options.quantize_last and quantize is None:
        raise UsageError("--quantize-last says when to quantize: add --type")
    base, pruned, plan = _models(source, options)
    inputs = [
        *(file.path for model in (base, pruned) if model is not None for file in model.files),
        options.removal.plan_file, options.removal.scores, options.removal.expert_scores,
        *quantizing.files,
        *(fitting.files or ()),
    ]  # fmt: skip
    check_outputs([out, lora], inputs, force=writing.force)
    heal_options = fitting.options(options.computing, rank, cache=options.cache)
    job = HealJob(
        base=base, out=out, plan=plan if pruned is None else None, pruned=pruned,
        options=heal_options, quantize=quantize, quantize_last=options.quantize_last,
        imatrix=quantizing.matrix(), split=split, lora=lora, force=writing.force,
        check_load=writing.verify,
        text=fitting.text(base, heal_options, write=not writing.dry_run),  # last: it may take long
    )  # fmt: skip
    carry_out(job, base, plan, writing)


def train_command(source: Path, out: Path, options: Options) -> None:
    """Prune, fit and train."""
    asked, fitting, quantizing = options.training, options.fitting, options.quantizing
    if options.adapting.rank is not None or fitting.self_text is not None:
        what = "--rank" if options.adapting.rank is not None else "--self-text"
        raise UsageError(f"{what} does not go with --train")
    if options.writing.dry_run or not fitting.files:
        raise UsageError(
            "--train needs a text: give -f" if not fitting.files
            else "--dry-run does not go with --train"
        )  # fmt: skip
    training = asked.options(options.adapting.lora, fitting.n_ctx, options.computing)
    if is_follower():
        follow(training.device)
        return
    check_extra()
    if asked.curves is not None:
        check_plot(asked.curves)
    base, pruned, plan = _models(source, options)
    corpus = read_corpus(fitting.files, fitting.errors)
    heal_options = fitting.options(options.computing, None, cache=options.cache)
    own = HealJob(
        base=base, out=out, plan=plan if pruned is None else None, pruned=pruned,
        text=Text(corpus.source, ""), options=replace(heal_options, n_ctx=training.n_ctx),
        quantize=quantizing.options(options.type_name, options.computing.threads),
        imatrix=quantizing.matrix(), split=options.splitting.split(), force=options.writing.force,
        check_load=options.writing.verify,
    )  # fmt: skip
    job = TrainJob(
        heal=own, corpus=corpus, options=training, refit=not asked.no_refit, lora=asked.lora_out,
        log=asked.log, checkpoints=asked.checkpoints,
    )  # fmt: skip
    check_outputs([out, asked.curves], fitting.files, force=options.writing.force)
    done = train(job, TerminalProgress(at_once=True))
    model = pruned_model(base, plan, done.files, written=True)
    result, runs = (
        TrainedModel(model, done.healing, done.training, done.lora),
        done.training.trained.runs,
    )
    deliver(
        lambda: show(result, training_blocks, options.writing.showing),
        (asked.curves,
         lambda path: write_figure(training_figure(runs), path, force=options.writing.force)),
    )  # fmt: skip


def carry_out(job: HealJob, base: Model, plan: PrunePlan, writing: shared.Writing) -> None:
    """Heal, or say what that would be, and show it."""
    if writing.dry_run:
        files, would = outline(job)
        model = pruned_model(base, plan, files, written=False)
        planned = HealPlan(
            model=model, layers=planned_layers(would.sites, would.left), n_fitted=would.n_token,
            widest=would.widest, memory_bytes=would.memory_bytes, disk_bytes=would.disk_bytes,
        )  # fmt: skip
        show(planned, blocks, writing.showing)
        return
    healed = heal(job, TerminalProgress(at_once=True))
    read = healed.healing.text
    note_chunks(job.options.n_chunk, read.source, read.n_chunk)
    model = pruned_model(base, plan, healed.files, written=True)
    show(HealedModel(model, healed.healing, healed.lora), blocks, writing.showing)


def _models(source: Path, options: Options) -> tuple[Model, Model | None, PrunePlan]:
    """The original, the pruned file if there is one, and what has left or is to leave."""
    if options.base is None:
        model = open_model(source)
        return model, None, options.removal.plan(model, drop_mtp=options.drop_mtp, trust=False)
    if options.removal.is_said or options.drop_mtp:
        raise UsageError("with --base the dropped layers are those that the pruned file names")
    base, pruned = open_model(options.base), open_model(source)
    drop = gone_of(kept_layers(base, pruned), base.n_layer)
    return base, pruned, make_plan(base, drop, progress=TerminalProgress(READ))


def _ridge(text: str) -> float | None:
    """Raises UsageError for what is neither a number from 0 on nor `auto`."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise UsageError(f"--ridge {text}: write a number above 0, or auto")
    return value
