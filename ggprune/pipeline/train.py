"""Training as a job: pruned and fitted in closed form, trained by torch, stored, proved.

What the training needs and leaves lies in a folder of the cache that its settings name, so that a
run that was ended goes on; it is gone when the output is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from ggprune.arch.hparams import n_trunk
from ggprune.errors import UsageError, VerificationError
from ggprune.files.documents import read_document, to_text
from ggprune.files.outputs import PendingFile, check_outputs, disk_errors, write_text
from ggprune.files.passing import passing_folder
from ggprune.healing.result import Healing
from ggprune.model.metadata import Value, ValueType, scalar, string
from ggprune.model.model import Model, open_model
from ggprune.pipeline.adapter import AdapterFile, adapter_file
from ggprune.pipeline.files import OutputFiles
from ggprune.pipeline.heal import KEYS, HealJob, heal
from ggprune.pipeline.job import Job, one_file, planned, write, write_into
from ggprune.pipeline.launch import carry_out, check_extra, look
from ggprune.pipeline.proof import exact_logits
from ggprune.pipeline.trained import stored_changes, write_adapter
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import versions
from ggprune.surgery.contents import Replacement, contents_of
from ggprune.training.memory import check_memory
from ggprune.training.options import Device, Judgement, Precision, Task, Trained, TrainOptions
from ggprune.training.rowsfile import judge, read_rows, write_rows
from ggprune.training.samples import Corpus, Rows

PRUNED, HEALED, SETTINGS = "pruned.gguf", "healed.json", "settings.json"
ROWS, CHANGED, RESULT, CHECKPOINTS = "rows.npz", "changed.bin", "result", "*-*.pt"


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A pruned model to be trained, fitted in closed form before."""

    heal: HealJob  # its adapter is not asked for
    corpus: Corpus
    options: TrainOptions
    refit: bool = True
    lora: Path | None = None  # what was trained as an adapter besides
    log: Path | None = None  # JSON lines
    checkpoints: Path | None = None  # a folder; None: one in the cache

    @property
    def compute(self) -> Compute:
        return self.heal.options.compute or Compute()


@dataclass(frozen=True, kw_only=True)
class Training:
    """What was done, and what it gained on rows that were never seen."""

    options: Annotated[dict[str, object], "of the training"]
    trained: Trained
    before: Annotated[Judgement, "the model that training began with"]
    after: Annotated[Judgement, "the file that was written"]

    @property
    def is_better(self) -> bool:
        return self.after.kld.value < self.before.kld.value


@dataclass(frozen=True)
class TrainedFiles:
    """What was written, what fitting did, and what training did."""

    files: OutputFiles
    healing: Healing | None
    training: Training
    lora: AdapterFile | None = None


def train(job: TrainJob, progress: Progress = SILENT) -> TrainedFiles:
    """Prune, fit, train, store, prove and publish.

    Raises MissingExtraError without torch, OutputError before any work if an output must not or
    cannot be written, ArchitectureError if torch does not compute what llama.cpp does,
    VerificationError if training gains nothing and is not forced.
    """
    check_extra()
    _check_outputs(job)
    base = job.heal.base
    outlook = look(base, job.heal.keep, job.options)
    progress.part("train").begin(check_memory(outlook, force=job.heal.force), of_parts=True)
    job = replace(job, options=replace(
        job.options, device=Device(outlook.device), precision=Precision(outlook.precision)
    ))  # fmt: skip
    train_rows, aside, text = isolated(read_rows, base.path, job.corpus, job.options)
    with (
        disk_errors(job.heal.out),
        _folder(job) as folder,
        one_file(base, job.heal.out, progress) as whole,
    ):
        if not any(folder.glob(CHECKPOINTS)):  # a run that goes on has a log already
            check_outputs([job.log], [], force=job.heal.force)
        pruned, healing = _pruned(replace(job, heal=replace(job.heal, text=text)), folder, progress)
        task = _task(job, folder, whole, pruned)
        logits = [
            exact_logits(model, aside.tokens[0], job.compute, job.heal.out, progress)
            for model in (base, pruned)
        ]
        with disk_errors(folder):
            write_rows(task.rows, train_rows, aside, aside.tokens[0], *logits)
            task.out.write_bytes(b"")
        trained = carry_out(task, progress)
        result = _write(job, task, trained, pruned, aside, progress)
        _forget(folder)
    return replace(result, healing=healing)


def _check_outputs(job: TrainJob) -> None:
    own = job.heal
    if own.lora is not None or own.options.rank is not None:
        raise UsageError("with training the adapter is that of what was trained")
    if job.lora is not None and job.options.lora is None:
        raise UsageError("--lora-out is an adapter of what --lora trains; --full has none")
    if job.lora is not None and job.refit:
        raise UsageError(
            "--lora-out is for the model that training begins with, which must be a file: heal it "
            "first, then train that with --base, --no-refit and --lora-out"
        )
    inputs = [file.path for model in (own.base, own.pruned) if model for file in model.files]
    files = planned(replace(own.job, quantize=None, imatrix=None))
    paths = files.paths if own.out in files.paths else (own.out, *files.paths)
    check_outputs([*paths, job.lora], inputs, force=own.force)


@contextlib.contextmanager
def _folder(job: TrainJob) -> Iterator[Path]:
    """Where everything lies that outlives a killed run. Raises UsageError for other settings."""
    text = json.dumps(_settings(job), indent=1)
    key, settings = hashlib.sha256(text.encode()).hexdigest()[:32], json.loads(text)
    cache = job.heal.options.cache
    folder = job.checkpoints or (cache / f"train-{key}" if cache is not None else None)
    if folder is None:
        with passing_folder(job.heal.out.parent) as passing:
            yield passing
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    known = folder / SETTINGS
    if known.exists():
        before = json.loads(known.read_text("utf-8"))
        other = next((k for k in settings if before.get(k) != settings[k]), None)
        if other is not None:
            raise UsageError(
                f"{folder}: holds a training with other settings: {other} was {before.get(other)}, "
                f"not {settings[other]}: the same settings, or another --checkpoints"
            )
    elif any(folder.iterdir()):
        raise UsageError(f"{folder}: holds no training, and is not empty: another --checkpoints")
    else:
        write_text(known, text, force=True)
    yield folder


def _settings(job: TrainJob) -> dict[str, object]:
    """All that the result depends on, by the names that a user knows."""
    own, options = job.heal, job.options
    documents = hashlib.sha256(repr(job.corpus.samples).encode()).hexdigest()
    text = job.corpus.text.sha256 if job.corpus.text is not None else ""
    training = {k: getattr(v, "value", v) for k, v in asdict(options).items()}
    return {
        "model": own.base.fingerprint, "pruned": (own.pruned or own.base).fingerprint,
        "layers": list(own.keep), "text": hashlib.sha256((text + documents).encode()).hexdigest(),
        "refit": job.refit, "ridge": own.options.ridge, "fitted": own.options.fitted.value,
        "refit_layers": own.options.n_layer, "heal_type": own.options.tensor_type,
        "versions": versions(), **training,
    }  # fmt: skip


def _pruned(job: TrainJob, folder: Path, progress: Progress) -> tuple[Model, Healing | None]:
    """The model that training begins with; there already if an earlier run came so far."""
    target, known = folder / PRUNED, folder / HEALED
    if target.exists():
        healing = read_document(known, Healing, "what healing did") if known.exists() else None
        return open_model(target), healing
    own = replace(
        job.heal, out=target, quantize=None, imatrix=None, split=None, force=True, or_plain=True,
        check_load=False,
    )  # fmt: skip
    if not job.refit:
        write(own.job, progress)
        return open_model(target), None
    with PendingFile(known) as pending:
        healed = heal(own, progress)
        pending.path.write_text(to_text(healed.healing), "utf-8")
        pending.commit(force=True)
    return open_model(target), healed.healing


def _task(job: TrainJob, folder: Path, base: Model, pruned: Model) -> Task:
    layers = range(n_trunk(base))
    return Task(
        base=base.path, pruned=pruned.path, n_layer=len(layers),
        keep=tuple(n for n in job.heal.keep if n in layers),
        options=job.options, rows=folder / ROWS, folder=folder, out=folder / CHANGED,
        result=folder / RESULT, log=job.log,
    )  # fmt: skip


def _write(
    job: TrainJob, task: Task, trained: Trained, pruned: Model, aside: Rows, progress: Progress
) -> TrainedFiles:
    """Store what was trained, judge the file, then give it its name."""
    own = job.heal
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(PendingFile(own.out))
        tensors = stored_changes(trained, pruned, task.out, patch, own.options.tensor_type)
        final = Job(
            model=pruned, out=own.out, replaced=Replacement(tensors, {}) if tensors else None,
            quantize=own.quantize, split=own.split, force=own.force, check_load=own.check_load,
            imatrix=contents_of(own.base, own.plan).followed(own.imatrix)
            if own.imatrix is not None and own.plan is not None else own.imatrix,
        )  # fmt: skip
        whole = stack.enter_context(PendingFile(own.out))
        stack.enter_context(whole.named())
        write_into(final, whole, progress)
        start = pruned.path
        if own.quantize is not None:  # what quantizing loses is not training's
            untrained = stack.enter_context(PendingFile(own.out))
            write_into(replace(final, replaced=None), untrained, progress)
            start = untrained.path
        before, after = isolated(judge, task.base, (start, whole.path), aside, job.compute)
        options = {k: getattr(v, "value", v) for k, v in asdict(job.options).items()}
        training = Training(options=options, trained=trained, before=before, after=after)
        if not training.is_better and own.or_plain:
            files = write(replace(final, replaced=None), progress)
            return TrainedFiles(files, None, training)
        if not training.is_better and not own.force:
            change = f"{before.kld.value:.6g} -> {after.kld.value:.6g}"
            raise VerificationError(
                f"{own.out}: not written: the KL divergence on rows set aside did not become "
                f"smaller: {change} (--force writes it)"
            )
        said = Replacement({}, _provenance(job, training) if tensors else {})
        done = Job(
            model=open_model(whole.path), out=own.out, replaced=said, split=own.split,
            force=own.force, check_load=own.check_load,
        )  # fmt: skip
        also: list[PendingFile] = []
        if job.lora is not None:
            also.append(stack.enter_context(PendingFile(job.lora)))
            write_adapter(also[0], trained, pruned, task.out, said.metadata)
        files = write(done, progress, also)
    lora = adapter_file(job.lora) if job.lora is not None else None
    return TrainedFiles(files, None, training, lora)


def _method(options: TrainOptions) -> str:
    return f"{options.loss.value}, " + (f"lora {options.lora}" if options.lora else "full")


def _provenance(job: TrainJob, training: Training) -> dict[str, Value]:
    best = training.trained.best
    return {
        f"{KEYS}train.method": string(_method(job.options)),
        f"{KEYS}train.tokens": scalar(ValueType.UINT64, best.best.n_token),
        f"{KEYS}train.lr": scalar(ValueType.FLOAT32, job.options.peak_lr),
        f"{KEYS}train.seed": scalar(ValueType.INT32, best.seed),
        f"{KEYS}train.kld.before": scalar(ValueType.FLOAT32, training.before.kld.value),
        f"{KEYS}train.kld.after": scalar(ValueType.FLOAT32, training.after.kld.value),
    }


def _forget(folder: Path) -> None:
    """What is in the output is needed no more. What is not ours in the folder stays."""
    own = [folder / name for name in (PRUNED, HEALED, SETTINGS, ROWS, CHANGED, RESULT)]
    for path in (*own, *folder.glob(CHECKPOINTS)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
