"""A peer of `ggprune heal`: ReplaceMe with least squares (Shopkhoev et al., arXiv:2505.02819).

A contiguous cut of layers i+1..i+n becomes one matrix T: T = argmin |M T + Y - L|^2 with M the
product of layer i's FFN output matrix, Y what is added to it, and L the stream behind layer i+n;
that is (M^T M + a I)^-1 M^T (L - Y). It is merged into that matrix: W <- T^T W. Several cuts each
get their T from the activations of the original. All tokens count alike, sums are float64.

Activations come from llama.cpp. The ridge a, a share of the mean of M^T M's diagonal, is the one
whose pruned model, stored as it would be written, is nearest to the original on chunks set aside:
the same ones that `ggprune heal` does not fit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.errors import ArchitectureError
from ggprune.files.outputs import PendingFile
from ggprune.healing.kept import Kept
from ggprune.healing.layers import LayerModel
from ggprune.healing.matrix import Stored, read_stored, store
from ggprune.healing.patch import Patch
from ggprune.healing.result import MEMORY_BYTES, is_aside
from ggprune.healing.sites import Site, Span, Sum, sites_of
from ggprune.metrics.chunks import Chunk, make_chunks
from ggprune.metrics.estimates import Float32, Float64, mean_estimate
from ggprune.metrics.logits import base_logits
from ggprune.metrics.text import Text
from ggprune.model.gguf import Tensor
from ggprune.model.layers import runs_of
from ggprune.model.model import Model
from ggprune.model.types import TensorType, tensor_type
from ggprune.pipeline.job import Job, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.buffers import peak_rss_bytes
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import default_threads
from ggprune.runtime.nodes import exchange_weights
from ggprune.runtime.session import LlamaModel
from ggprune.surgery.contents import Replacement
from ggprune.surgery.plan import make_plan

NAME = "ReplaceMe-LS"
# Few tokens, such as the first of a chunk, may be most of M^T M: small shares count.
RIDGES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FINER = (1 / 3, 3.0)  # times the best of them
MAX_JUDGED = 8  # chunks that a ridge is chosen on
LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is left out of which model, and what the peer may learn from."""

    base: Model
    drop: tuple[int, ...]
    text: Text
    compute: Compute
    n_ctx: int = 512
    n_chunk: int | None = None  # None: all of the text
    ridges: tuple[float, ...] = RIDGES


@dataclass(frozen=True)
class Merged:
    """A matrix that has taken in what follows it: its bytes lie in the patch, at `offset`."""

    tensor: str
    type: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, kw_only=True)
class Variant:
    """All merged matrices in one type."""

    type: str | None  # None: each in its own
    ridge: float
    kld: float  # on the chunks that the ridge was chosen on
    matrices: tuple[Merged, ...]
    time_s: float  # of the whole fit in this type alone


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What was fitted, in every type that was asked for, and what it took."""

    variants: tuple[Variant, ...]
    n_fitted: int  # tokens
    peak_bytes: int  # models included
    stored_bytes: int  # on the disk meanwhile


class _Cut:
    """One cut, the matrix in front of it, and what is known of them so far."""

    def __init__(self, site: Site, product: int, behind: tuple[int, int], tensor: Tensor) -> None:
        """Graph nodes: of the product; of the stream behind the layer, and behind the cut."""
        self.site, self.tensor = site, tensor
        self.nodes = (site.input, product, *behind)
        self.old = read_stored(tensor)
        n_out, n_in = self.old.matrix.shape
        self.gram = np.zeros((n_out, n_out))  # M^T M
        self.cross = np.zeros((n_out, n_out))  # M^T (L - Y)
        self.squares = np.zeros(n_in)  # of the matrix's inputs
        self.n_token = 0

    def add(self, inputs: Float32, product: Float32, stream: Float32, target: Float32) -> None:
        m = product.astype(np.float64)
        wanted = target.astype(np.float64) - (stream.astype(np.float64) - m)  # L - Y
        self.gram += m.T @ m
        self.cross += m.T @ wanted
        self.squares += np.square(inputs, dtype=np.float64).sum(axis=0)
        self.n_token += len(inputs)

    def merged(self, ridge: float, kind: TensorType) -> Stored:
        """T^T W, as a file would hold it."""
        transform = self._transform(ridge)
        matrix = (transform.T @ self.old.matrix.astype(np.float64)).astype(np.float32)
        return store(matrix, kind, (self.squares / self.n_token).astype(np.float32))

    def _transform(self, ridge: float) -> Float64:
        system = self.gram.copy()
        system[np.diag_indices_from(system)] += ridge * np.mean(np.diag(self.gram))
        return np.asarray(np.linalg.solve(system, self.cross), np.float64)


def replace_cuts(
    task: Task, types: Sequence[str | None], out: Path, quantize: QuantizeOptions | None = None
) -> tuple[Replaced, tuple[Path, ...]]:
    """Write the pruned model with merged matrices, once for each type they are stored in.

    None is their own type. `quantize` is applied to the whole file then. Raises ArchitectureError
    where no matrix can take a cut in: one in front of all layers, a norm behind the product.
    """
    paths = tuple(out.with_stem(f"{out.stem}-{name or 'own'}") for name in types)
    with PendingFile(out) as patch:
        done = isolated(fit, task, types, patch.path, out)
        for path, variant in zip(paths, done.variants, strict=True):
            write(Job(
                model=task.base, out=path, plan=make_plan(task.base, task.drop), quantize=quantize,
                replaced=_replacement(variant, patch.path), force=True, check_load=False,
            ))  # fmt: skip
    return done, paths


def _replacement(variant: Variant, patch: Path) -> Replacement:
    tensors = {}
    for item in variant.matrices:
        kind = tensor_type(item.type)
        tensors[item.tensor] = Tensor(
            name=item.tensor, type=kind, shape=item.shape, path=patch, offset=item.offset,
            size_bytes=kind.size_bytes(item.shape),
        )  # fmt: skip
    return Replacement(tensors, {})


def fit(task: Task, types: Sequence[str | None], patch: Path, beside: Path) -> Replaced:
    """Fit all cuts and choose a ridge; computes in this process. Bytes go to the file `patch`."""
    start = time.perf_counter()
    with (
        _opened(task) as (model, chunks),
        Patch(patch) as stored,
        Kept(beside, MEMORY_BYTES) as kept,
    ):
        cuts = _cuts(task, model)
        _sum_up(model, cuts, max(task.drop), [c for c in chunks if not is_aside(c.number)])
        aside = _some([c for c in chunks if is_aside(c.number)], MAX_JUDGED)
        judge = _Judge(task, model, aside, kept)
        shared_s = time.perf_counter() - start
        variants = tuple(_variant(name, task, cuts, judge, stored, shared_s) for name in types)
        stored_bytes = kept.file_bytes
    return Replaced(
        variants=variants, n_fitted=cuts[0].n_token, peak_bytes=peak_rss_bytes(),
        stored_bytes=stored_bytes,
    )  # fmt: skip


@contextlib.contextmanager
def _opened(task: Task) -> Iterator[tuple[LayerModel, list[Chunk]]]:
    arch = architecture_of(task.base)
    check_scored(arch)
    with LlamaModel(task.base.path, task.compute, mapped=False) as loaded:
        chunks = make_chunks(task.text, loaded.tokenize, task.n_ctx, task.n_chunk)
        with LayerModel(loaded, arch, chunks[0].tokens, task.compute) as model:
            yield model, list(chunks)


def _cuts(task: Task, model: LayerModel) -> list[_Cut]:
    """All cuts, found in the graph that reaches behind the last one."""
    runs = runs_of(task.drop)
    if runs[0][0] == 0:
        raise ArchitectureError("there is no layer in front of a cut at layer 0")
    return [_cut(task.base, model, first - 1, last, max(task.drop)) for first, last in runs]


def _cut(base: Model, model: LayerModel, layer: int, last: int, end: int) -> _Cut:
    """`layer` is the one in front of the cut, `last` the cut's last; the graph reaches to `end`."""
    graph, nodes = model.computer(end).graph, model.computer(end).nodes
    behind, target = (graph.find(model.places[n + 1][0]) for n in (layer, last))
    model.span(layer, layer)  # refuses layers that read more than the stream in front of them
    start = graph.find(model.places[layer][0])
    span = Span(layer=layer, first=start, middle=None, last=behind)
    sites, untouched = sites_of(graph, nodes, span)
    if not sites:
        why = untouched[-1].reason if untouched else "nothing writes into the stream"
        raise ArchitectureError(f"layer {layer} cannot take in what follows it: {why}")
    (site,) = sites
    if not all(isinstance(step, Sum) for step in site.steps):
        raise ArchitectureError(f"{site.tensor}: its product is not just added to the stream")
    product = graph.factors.index(site.tensor.encode())
    return _Cut(site, product, (behind, target), base.by_name[site.tensor])


def _sum_up(model: LayerModel, cuts: Sequence[_Cut], end: int, chunks: Sequence[Chunk]) -> None:
    """One pass over the text for all cuts."""
    wanted = list(dict.fromkeys(node for cut in cuts for node in cut.nodes))
    for chunk in chunks:
        values = model.computer(end).compute(chunk.tokens, {}, wanted)
        by_node: Mapping[int, Float32] = dict(zip(wanted, values, strict=True))
        for cut in cuts:
            cut.add(*(by_node[node] for node in cut.nodes))


def _some(chunks: Sequence[Chunk], n: int) -> list[Chunk]:
    """At most `n`, evenly spread."""
    if len(chunks) <= n:
        return list(chunks)
    return [chunks[i] for i in np.linspace(0, len(chunks) - 1, n).round().astype(int)]


class _Judge:
    """How far the pruned model is from the original, on chunks set aside."""

    def __init__(self, task: Task, model: LayerModel, chunks: Sequence[Chunk], kept: Kept) -> None:
        """Computes the original's logits: before any matrix is exchanged."""
        self.task, self.model, self.chunks, self.kept = task, model, chunks, kept
        self.n_threads = task.compute.n_threads or default_threads()
        for chunk in chunks:
            kept.put(LOGITS, chunk.number, model.logits(chunk).copy())

    def kld(self) -> float:
        """Mean over all tokens, of the model without the cuts as its matrices are now."""
        found = []
        for chunk in self.chunks:
            rows = self.kept.get(LOGITS, chunk.number)
            base = base_logits(rows, chunk.targets, self.n_threads)
            logits = self.model.logits(chunk, self.task.drop)
            found.append(base.compare(logits, chunk.targets, self.n_threads).kld)
        return mean_estimate(np.concatenate(found)).value


def _variant(
    name: str | None, task: Task, cuts: Sequence[_Cut], judge: _Judge, patch: Patch, shared_s: float
) -> Variant:  # fmt: skip
    """The best ridge's matrices in one type, their bytes in the patch."""
    start = time.perf_counter()
    pairs = [(cut, tensor_type(name) if name else cut.tensor.type) for cut in cuts]

    def kld(ridge: float) -> float:
        for cut, kind in pairs:
            exchange_weights(cut.site.pointer, cut.merged(ridge, kind).raw, kind)
        return judge.kld()

    best, lowest = _search(kld, task.ridges)
    matrices = tuple(
        Merged(cut.tensor.name, kind.name, cut.tensor.shape, patch.add(cut.merged(best, kind).raw))
        for cut, kind in pairs
    )
    time_s = shared_s + time.perf_counter() - start
    return Variant(type=name, ridge=best, kld=lowest, matrices=matrices, time_s=time_s)


def _search(kld: Callable[[float], float], ridges: Sequence[float]) -> tuple[float, float]:
    """The best ridge and its KLD: of those given, and of two beside the best of them."""
    found = {ridge: kld(ridge) for ridge in ridges}
    best = min(found, key=found.__getitem__)
    found |= {factor * best: kld(factor * best) for factor in FINER if len(ridges) > 1}
    best = min(found, key=found.__getitem__)
    return best, found[best]
