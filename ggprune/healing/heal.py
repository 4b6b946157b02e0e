"""Healing from beginning to end: load, judge, fit layer after layer, judge again."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.errors import ArchitectureError, DataError, OutputError
from ggprune.files.outputs import PendingFile
from ggprune.healing.judge import Judge
from ggprune.healing.kept import Kept
from ggprune.healing.layers import LayerModel
from ggprune.healing.matrix import read_stored
from ggprune.healing.patch import Patch
from ggprune.healing.result import (
    MAX_JUDGED,
    ROWS_PER_INPUT,
    Adapted,
    Healing,
    HealOptions,
    Left,
    Refitted,
    is_aside,
)
from ggprune.healing.routed import thinned_layers
from ggprune.healing.selftext import enough_tokens
from ggprune.healing.sites import ExpertSite, Site
from ggprune.healing.walk import Walk, stages_of
from ggprune.metrics.chunks import Chunks, describe_text, make_chunks
from ggprune.metrics.estimates import ppl_estimate
from ggprune.metrics.text import Text
from ggprune.model.cut import gone_of
from ggprune.model.model import Model
from ggprune.model.newlayer import NewLayer
from ggprune.model.types import tensor_type
from ggprune.progress import SILENT, Progress
from ggprune.runtime.buffers import peak_rss_bytes
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import default_threads
from ggprune.runtime.nodes import exchange_weights
from ggprune.runtime.session import LlamaModel

# Writes an adapter for a model of an architecture; what was fitted, by the model's tensor names.
AdapterWriter = Callable[[PendingFile, str, Mapping[str, Refitted]], None]


@dataclass(frozen=True)
class Patient:
    """What is healed: the original without some layers, or a file that lacks them already."""

    base: Model
    keep: tuple[NewLayer, ...]  # made of layers of the original
    pruned: Model | None = None  # None: leave the layers out of the original

    @property
    def fitted(self) -> Model:
        """The model whose matrices are fitted."""
        return self.pruned or self.base

    @property
    def drop(self) -> tuple[int, ...]:
        """What is to be left out of that model while it computes."""
        if self.pruned is not None:
            return ()
        return gone_of(self.keep, self.base.n_layer).whole_layers


@dataclass(frozen=True)
class Workplace:
    """Files that healing needs besides its models."""

    beside: Path  # where there is room for activations
    patch: Path  # there already; fitted matrices are added to it
    index: Path | None = None  # what is finished; None: it does not outlive the run
    write_adapter: AdapterWriter | None = None  # where options ask for one


@dataclass(frozen=True)
class Outline:
    """What healing would do, layer by layer, and what it takes."""

    sites: tuple[tuple[int, str], ...]  # layer of the original, tensor
    left: tuple[Left, ...]
    n_token: int  # of the text, that matrices are fitted to
    widest: int  # inputs of the widest matrix
    memory_bytes: int  # above the models
    disk_bytes: int


def heal(
    patient: Patient,
    text: Text,
    options: HealOptions,
    place: Workplace,
    progress: Progress = SILENT,
) -> Healing:
    """Fit the pruned model's matrices; their bytes go to `place.patch`, at the offsets given.

    Raises ArchitectureError where nothing can be fitted, DataError for a text that is too short,
    LlamaError if llama.cpp cannot load or compute a model, or sums are not finite.
    """
    start = time.perf_counter()
    with _opened(patient, text, options, place, progress) as job:
        return job.run(start)


def outline(patient: Patient, text: Text, options: HealOptions, place: Workplace) -> Outline:
    """What `heal` would do. Raises what it raises before it begins."""
    with _opened(patient, text, options, place, SILENT) as job:
        return job.outline()


class _Job:
    """Everything that is open while a model is healed."""

    def __init__(
        self, patient: Patient, text: Text, options: HealOptions, place: Workplace, walk: Walk
    ) -> None:
        self.patient, self.text, self.options = patient, text, options
        self.place, self.patch, self.walk = place, walk.patch, walk
        shared = patient.pruned is None
        thinned = thinned_layers(patient.base, patient.fitted)
        stages = stages_of(patient.keep, walk.base.arch.n_trunk, shared=shared, changed=thinned)
        self.stages = stages[: options.n_layer]
        self.aside = [c for c in walk.chunks if is_aside(c.number)]
        n_threads = (options.compute or Compute()).n_threads or default_threads()
        self.judged = self.aside[:: -(-len(self.aside) // MAX_JUDGED) or 1]
        self.judge = Judge(walk.kept, self.judged, patient.drop, n_threads)

    def outline(self) -> Outline:
        left = [item for stage in self.stages for item in self.walk.sites(stage)[1]]
        sites = [(s.layer, site) for s in self.stages for site in self.walk.everything(s)]
        model = self.patient.fitted
        if not sites:
            raise ArchitectureError(self._why_nothing(left))
        shapes = [model.by_name[site.tensor].shape[:2] for _, site in sites]
        n_chunk, n_ctx = len(self.walk.chunks), self.walk.chunks.n_ctx
        widest = max(n_in for n_in, _ in shapes)
        kept = 4 * n_chunk * n_ctx * max(n_in + 4 * n_out for n_in, n_out in shapes)
        kept += 4 * len(self.judged) * (n_ctx // 2) * self.walk.base.session.model.n_vocab
        held = min(kept, self.options.memory_bytes)
        sums = max(12 * n_in * n_in + 28 * n_in * n_out for n_in, n_out in shapes)
        outline = Outline(
            sites=tuple((layer, site.tensor) for layer, site in sites),
            left=tuple(left),
            n_token=(n_chunk - len(self.aside)) * n_ctx, widest=widest,
            memory_bytes=sums + held, disk_bytes=kept - held,
        )  # fmt: skip
        self._check_text(outline)
        return outline

    def _why_nothing(self, left: Sequence[Left]) -> str:
        path, arch = self.patient.fitted.path, self.walk.base.arch.name
        if not self.stages:
            return f"{path}: nothing is missing, there is nothing to heal"
        why = f": {left[-1].tensor}: {left[-1].reason}" if left else ""
        return f"{path}: no matrix of this {arch} model can be fitted{why}"

    def run(self, start: float) -> Healing:
        outline, walk = self.outline(), self.walk
        self._announce(outline)
        walk.total = len(walk.chunks) * (1 + sum(2 + len(walk.everything(s)) for s in self.stages))
        base_nll = self.judge.remember(walk.base)
        before = self.judge.compare(walk.pruned)
        refitted, left = self._fit()
        after = self.judge.compare(walk.pruned) if refitted else before
        adapter = self._judge_adapter(refitted) if refitted else None
        text = describe_text(self.text, walk.chunks.n_ctx, len(walk.chunks))
        return Healing(
            text=text, n_fitted=outline.n_token, ridge=self.options.ridge,
            refitted=tuple(refitted), left=tuple(left), base_ppl=ppl_estimate(base_nll),
            before=before, after=after, adapter=adapter, time_s=time.perf_counter() - start,
            stored_bytes=walk.kept.file_bytes, peak_bytes=peak_rss_bytes(),
        )  # fmt: skip

    def _check_text(self, outline: Outline) -> None:
        needed = ROWS_PER_INPUT * outline.widest
        if outline.n_token < needed:
            raise DataError(
                f"{self.text.source}: leaves {outline.n_token} tokens to fit, {needed} are needed "
                f"for matrices with {outline.widest} inputs, better five times as many: give more "
                "text with -f, or have the original write it: --self-text "
                f"{enough_tokens(outline.widest, self.options.n_ctx)}"
            )

    def _announce(self, outline: Outline) -> None:
        """Raises OutputError if there is no room for what is kept on the disk."""
        place = self.walk.kept.folder
        if outline.disk_bytes > (free := shutil.disk_usage(place).free):
            raise OutputError(
                f"{place}: healing needs {outline.disk_bytes} bytes there meanwhile, {free} are "
                "free: fewer --chunks, or an output on another disk"
            )
        gib = 1 << 30
        self.walk.progress.begin(
            f"{len(outline.sites)} matrices, {outline.n_token} tokens; takes "
            f"{outline.memory_bytes / gib:.2f} GiB of memory above the models, "
            f"{outline.disk_bytes / gib:.2f} GiB on the disk"
        )

    def _fit(self) -> tuple[list[Refitted], list[Left]]:
        """What was finished before is put in place, the rest is fitted."""
        walk, finished = self.walk, self.patch.finished
        refitted, left = list[Refitted](), list[Left]()
        todo = [stage for stage in self.stages if stage.layer not in finished]
        for n, stage in enumerate(self.stages):
            if stage.layer in finished:
                done, without = finished[stage.layer]
            else:
                if stage == todo[0]:
                    walk.start_base(stage)
                    self._put_in_place(refitted)
                    walk.start_pruned(stage, self.patient.drop)
                done, without = walk.fit(stage, is_last=n + 1 == len(self.stages))
                self.patch.finish(stage.layer, done, without)
            refitted += done
            left += without
        if not todo:
            self._put_in_place(refitted)
        return refitted, left

    def _put_in_place(self, refitted: Sequence[Refitted]) -> None:
        """Matrices that an earlier run has fitted."""
        for item, site in self._places(refitted):
            kind = tensor_type(item.type)
            raw = self.patch.read(item.offset, kind.size_bytes(item.shape))
            exchange_weights(site.pointer, raw, kind)

    def _places(self, refitted: Sequence[Refitted]) -> list[tuple[Refitted, Site | ExpertSite]]:
        """Where the matrices are in the loaded model."""
        sites = {
            self.walk.original_name(stage, site.tensor): site
            for stage in self.stages for site in self.walk.everything(stage)
        }  # fmt: skip
        return [(item, sites[item.tensor]) for item in refitted]

    def _judge_adapter(self, refitted: Sequence[Refitted]) -> Adapted | None:
        """The pruned model as it was, with an adapter loaded as any program does; comes last."""
        rank, write = self.options.rank, self.place.write_adapter
        if rank is None or write is None:
            return None
        places, pruned = self._places(refitted), self.walk.pruned
        for _, site in places:
            old = read_stored(self.patient.fitted.by_name[site.tensor])
            exchange_weights(site.pointer, old.raw, old.type)
        with PendingFile(self.place.beside) as file:
            write(file, self.patient.fitted.arch, {site.tensor: item for item, site in places})
            with pruned.adapted(file.path) as model:
                judged = self.judge.compare(model)
        return Adapted(rank=rank, kld=judged.kld, ppl=judged.ppl)


@contextlib.contextmanager
def _opened(
    patient: Patient, text: Text, options: HealOptions, place: Workplace, progress: Progress
) -> Iterator[_Job]:
    def read(model: LlamaModel) -> Chunks:
        return make_chunks(text, model.tokenize, options.n_ctx, options.n_chunk)

    with open_walk(patient, read, options, place, progress) as walk:
        yield _Job(patient, text, options, place, walk)


@contextlib.contextmanager
def open_walk(
    patient: Patient,
    read: Callable[[LlamaModel], Chunks],
    options: HealOptions,
    place: Workplace,
    progress: Progress = SILENT,
) -> Iterator[Walk]:
    """Everything that is open while a model is healed on the chunks that `read` makes."""
    arch = architecture_of(patient.base)
    check_scored(arch)
    compute = options.compute or Compute()

    def exchangeable(model: Model) -> LlamaModel:
        return LlamaModel(model.path, compute, repack=False, mapped=False)

    with contextlib.ExitStack() as stack:
        base = stack.enter_context(exchangeable(patient.base))
        chunks = read(base)
        first = chunks[0].tokens
        original = stack.enter_context(LayerModel(base, arch, first, compute))
        pruned = original
        if patient.pruned is not None:
            loaded = stack.enter_context(exchangeable(patient.pruned))
            own = architecture_of(patient.pruned)
            pruned = stack.enter_context(LayerModel(loaded, own, first, compute))
        kept = stack.enter_context(Kept(place.beside, options.memory_bytes))
        patch = stack.enter_context(Patch(place.patch, place.index))
        yield Walk(
            base=original, pruned=pruned, model=patient.fitted, chunks=chunks, kept=kept,
            patch=patch, options=options, progress=progress,
        )  # fmt: skip
