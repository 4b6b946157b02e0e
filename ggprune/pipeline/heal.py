"""Healing as a job: what is pruned, fitted to the original, written and proved.

Fitted matrices wait in a file of their own; from there they are copied like all others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.errors import ArchitectureError, UsageError, VerificationError
from ggprune.files.documents import encode
from ggprune.files.outputs import PendingFile, check_output, check_outputs, disk_errors
from ggprune.files.passing import remove_unheld
from ggprune.healing import heal as healing
from ggprune.healing.heal import Outline, Patient, Workplace
from ggprune.healing.patch import discard_unused
from ggprune.healing.result import METHOD, Healing, HealOptions, Refitted
from ggprune.metrics.text import Text
from ggprune.model.cut import gone_of
from ggprune.model.gguf import Tensor
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import Value, ValueType, array, scalar, string
from ggprune.model.model import Model, open_model
from ggprune.model.names import rename_block
from ggprune.model.newlayer import NewLayer
from ggprune.model.types import tensor_type
from ggprune.pipeline.adapter import AdapterFile, AdapterWriter, adapter_file, check_fits
from ggprune.pipeline.files import OutputFiles
from ggprune.pipeline.job import AS_INPUT, Division, Job, planned, stand_in, write, write_into
from ggprune.pipeline.lineage import kept_layers
from ggprune.progress import SILENT, Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import computing_on
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import versions
from ggprune.surgery.contents import (
    SOURCE_FINGERPRINT,
    VERSION,
    Replacement,
    contents_of,
    dropped_values,
)
from ggprune.surgery.plan import PrunePlan
from ggprune.version import __version__

KEYS = "ggprune.heal."


@dataclass(frozen=True, kw_only=True)
class HealJob:
    """A pruned model to be repaired: a plan that is carried out, or a file that is pruned."""

    base: Model  # the original
    out: Path
    plan: PrunePlan | None = None
    pruned: Model | None = None  # made of `base` by ggprune; instead of a plan
    text: Text
    options: HealOptions
    quantize: QuantizeOptions | None = None
    quantize_last: bool = False  # fit what is not quantized, quantize it then
    imatrix: Imatrix | None = None  # of the model that is quantized
    split: Division | None = None
    lora: Path | None = None  # the change as an adapter besides; options have its rank
    force: bool = False  # replace files that are there, and keep what is no better
    check_load: bool = True
    or_plain: bool = False  # where healing gains nothing, write what is not healed

    @property
    def job(self) -> Job:
        """What is written, but for healing."""
        return Job(
            model=self.pruned or self.base, out=self.out, plan=self.plan, quantize=self.quantize,
            imatrix=self.imatrix, split=self.split, force=self.force, check_load=self.check_load,
        )  # fmt: skip

    @property
    def layers(self) -> tuple[NewLayer, ...]:
        """What the layers are made of. Raises DataError if the file does not say so."""
        return self.plan.layers if self.plan is not None else kept_layers(self.base, self.pruned)

    @property
    def keep(self) -> tuple[int, ...]:
        """The layers of the original that stay. Raises ArchitectureError if others do not stay as
        they are."""
        made = next((layer for layer in self.layers if not layer.is_whole), None)
        if made is not None:
            raise ArchitectureError(f"{made}: only whole layers can be trained")
        return tuple(layer.first for layer in self.layers)

    @property
    def is_apart(self) -> bool:
        """Must it be pruned in a file before it is fitted? Whole layers are left out in memory."""
        is_shifted = self.plan is not None and not self.plan.cut.is_whole
        return is_shifted or (self.quantize is not None and not self.quantize_last)


@dataclass(frozen=True)
class Healed:
    """What was written, and what healing did."""

    files: OutputFiles
    healing: Healing
    lora: AdapterFile | None = None


def outline(job: HealJob) -> tuple[OutputFiles, Outline]:
    """What would be written, and what healing would do; writes nothing.

    Raises what `heal` raises before it begins.
    """
    with contextlib.ExitStack() as stack:
        files, pruned = planned(job.job), job.pruned
        if job.plan is not None and not job.plan.cut.is_whole:  # its weights do not matter
            pruned = stack.enter_context(stand_in(job.job, contents_of(job.base, job.plan)))
        patient = Patient(job.base, job.layers, pruned)
        forgetful = replace(job, options=replace(job.options, cache=None))
        place = stack.enter_context(_workplace(forgetful, patient))
        return files, isolated(healing.outline, patient, job.text, job.options, place)


def heal(job: HealJob, progress: Progress = SILENT) -> Healed:
    """Prune, heal, write, prove and publish.

    Raises OutputError before any work if an output must not or cannot be written,
    VerificationError if healing gains nothing and is not forced; then nothing is left behind.
    """
    _check_output(job)
    with disk_errors(job.out), contextlib.ExitStack() as stack:
        plain, pruned = job.job, job.pruned
        if job.is_apart:
            apart = stack.enter_context(PendingFile(job.out))
            stack.enter_context(apart.named())
            now, plain = _divided(job)
            write_into(now, apart, progress)
            pruned = open_model(apart.path)
            plain = replace(plain, model=pruned)
        patient = Patient(job.base, job.layers, pruned)
        place = stack.enter_context(_workplace(job, patient))
        part = progress.part("heal")
        result = isolated(healing.heal, patient, job.text, job.options, place, part)
        is_kept = result.is_better or (job.force and not job.or_plain)
        if not is_kept and not job.or_plain:
            raise VerificationError(_no_better(job, result))
        adapter = None
        if job.lora is not None and is_kept:
            adapter = stack.enter_context(_adapter(job, patient, result, place))
        keeps = is_kept and result.refitted
        replaced = _replacement(patient, result, place.patch) if keeps else None
        also = [adapter] if adapter is not None else []
        files = write(replace(plain, replaced=replaced), progress, also)
        lora = adapter_file(adapter.target) if adapter is not None else None
    _forget(place)
    return Healed(files, result, lora)


def _divided(job: HealJob) -> tuple[Job, Job]:
    """What is done in front of healing, and what behind it with the file that came of it."""
    now, imatrix = job.job, job.imatrix
    later = replace(now, plan=None, quantize=None, imatrix=None)
    if job.quantize is None or not job.quantize_last:
        return now, later
    if imatrix is not None and job.plan is not None:
        imatrix = contents_of(job.base, job.plan).followed(imatrix)
    return replace(now, quantize=None, imatrix=None), replace(
        later, quantize=job.quantize, imatrix=imatrix
    )


def _check_output(job: HealJob) -> None:
    if (job.lora is None) != (job.options.rank is None):
        raise UsageError("an adapter needs a file and a rank")
    if job.split == AS_INPUT and job.quantize is not None and not job.quantize_last:
        raise UsageError("--keep-split with --type: add --quantize-last, or say how to split")
    files = planned(job.job)
    models = [job.base, *([job.pruned] if job.pruned is not None else [])]
    inputs = [file.path for model in models for file in model.files]
    for path in files.paths:
        check_output(path, inputs, force=job.force, size_bytes=files.size_bytes)
    check_outputs([*files.paths, job.lora], inputs, force=job.force)


def _no_better(job: HealJob, result: Healing) -> str:
    if not result.refitted:
        what = "no fitted matrix was better than the one that was there"
    else:
        change = f"{result.before.kld.value:.6g} -> {result.after.kld.value:.6g}"
        what = f"the KL divergence on chunks set aside did not become smaller: {change}"
    return f"{job.out}: not written: {what} (--force writes it)"


@contextlib.contextmanager
def _workplace(job: HealJob, patient: Patient) -> Iterator[Workplace]:
    """Fitted matrices wait in the cache, where there is one: a run that was ended goes on."""
    folder, rank = job.options.cache, job.options.rank
    if folder is None:
        with PendingFile(job.out) as file:
            writer = AdapterWriter(file.path, rank) if rank else None
            yield Workplace(job.out, file.path, write_adapter=writer)
        return
    options = job.options
    settings = {  # all that the fitted matrices depend on
        "base": patient.base.fingerprint, "fitted": patient.fitted.fingerprint,
        "keep": encode(patient.keep), "text": job.text.sha256, "n_ctx": options.n_ctx,
        "n_chunk": options.n_chunk, "ridge": options.ridge, "refit": options.fitted.value,
        "type": options.tensor_type, "rank": rank, "versions": versions(),
        "n_gpu_layers": (options.compute or Compute()).n_gpu_layers,
        "computing_on": isolated(computing_on),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    patch, index = folder / f"heal-{key}.bin", folder / f"heal-{key}.json"
    try:
        yield Workplace(job.out, patch, index, AdapterWriter(patch, rank) if rank else None)
    finally:
        discard_unused(patch, index)


def _forget(place: Workplace) -> None:
    """What is in the output is needed no more."""
    if place.index is not None:
        place.index.unlink(missing_ok=True)
        remove_unheld(place.patch)  # and what has locked it
        place.patch.unlink(missing_ok=True)


def _replacement(patient: Patient, result: Healing, patch: Path) -> Replacement:
    return Replacement(
        {_own_name(patient, item): _tensor(item, patch) for item in result.refitted},
        _provenance(patient, result),
    )


def _own_name(patient: Patient, item: Refitted) -> str:
    """In the model that the file is written from."""
    return item.tensor if patient.pruned is None else _pruned_name(patient, item)


def _pruned_name(patient: Patient, item: Refitted) -> str:
    """Refitted matrices are told by the layer of the first half that there is."""
    return rename_block(item.tensor, [layer.first for layer in patient.keep].index(item.layer))


def _tensor(item: Refitted, patch: Path) -> Tensor:
    kind = tensor_type(item.type)
    return Tensor(
        name=item.tensor, type=kind, shape=item.shape, path=patch, offset=item.offset,
        size_bytes=kind.size_bytes(item.shape),
    )  # fmt: skip


@contextlib.contextmanager
def _adapter(
    job: HealJob, patient: Patient, result: Healing, place: Workplace
) -> Iterator[PendingFile]:
    """The change as an adapter for the pruned model as it was; not published yet."""
    assert job.lora is not None
    if result.adapter is None:
        raise VerificationError(f"{job.lora}: not written: no matrix was fitted")
    dropped = gone_of(patient.keep, job.base.n_layer)
    metadata = {
        **_provenance(patient, result),
        f"{KEYS}kld.after": scalar(ValueType.FLOAT32, result.adapter.kld.value),
        **dropped_values(dropped),
        SOURCE_FINGERPRINT: string(job.base.fingerprint),
        VERSION: string(__version__),
    }
    plan, pruned = job.plan, patient.pruned
    arch = pruned.arch if pruned is not None else plan.out_arch if plan is not None else ""
    matrices = {_pruned_name(patient, item): item for item in result.refitted}
    with PendingFile(job.lora) as target:
        AdapterWriter(place.patch, result.adapter.rank, metadata)(target, arch, matrices)
        if job.check_load:
            check_fits(target, pruned, job.base, plan)
        yield target


def _provenance(patient: Patient, result: Healing) -> dict[str, Value]:
    names = [_pruned_name(patient, item) for item in result.refitted]
    ridge = result.ridge
    return {
        f"{KEYS}method": string(METHOD),
        f"{KEYS}tokens": scalar(ValueType.UINT64, result.n_fitted),
        f"{KEYS}text.sha256": string(result.text.sha256 or ""),
        f"{KEYS}ridge": string("auto") if ridge is None else scalar(ValueType.FLOAT32, ridge),
        f"{KEYS}tensors": array(ValueType.STRING, names),
        f"{KEYS}kld.before": scalar(ValueType.FLOAT32, result.before.kld.value),
        f"{KEYS}kld.after": scalar(ValueType.FLOAT32, result.after.kld.value),
    }
