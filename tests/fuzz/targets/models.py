"""GGUF models as `inspect`, `prune` and `quantize` read them, and what is written of them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from ggprune.arch.architecture import architecture_of
from ggprune.arch.footprint import footprints_of
from ggprune.arch.hparams import mtp_blocks
from ggprune.arch.table import architecture_table
from ggprune.files.documents import to_text
from ggprune.files.outputs import write_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import AS_INPUT, Division, Job, planned, write
from ggprune.report.blocks import terminal
from ggprune.report.model import blocks, describe
from ggprune.surgery.contents import contents_of, prunings_of
from ggprune.surgery.layout import Split
from ggprune.surgery.plan import PrunePlan, load_plan, make_plan
from tests.fuzz.case import Case, EscapeError
from tests.fuzz.gguf_parts import I32, U16, Parts
from tests.fuzz.mutate_bytes import mutate_bytes
from tests.fuzz.mutate_gguf import GGUFMutator, only
from tests.fuzz.seeds import PLAIN_TENSORS, known_keys, model_seeds, own_keys, ruled_seeds

DIVISIONS: tuple[Division | None, ...] = (
    None, None, Split(max_tensors=3), Split(max_bytes=100), AS_INPUT,
)  # fmt: skip
SHARDS = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")


def archs() -> tuple[str, ...]:
    return tuple(architecture_table().architectures)


class ModelTarget:
    """One file: opened, described, pruned, divided, read back."""

    def __init__(self) -> None:
        self.mutator = GGUFMutator(model_seeds(), known_keys(), archs(), PLAIN_TENSORS)

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("model.gguf", data)
        model = case.attempt("open", lambda: open_model(path))
        if model is None:
            return
        inspect(model, case)
        case.attempt("architecture", lambda: architecture_of(model).places)
        case.attempt("history", lambda: prunings_of(model))
        plan = pruning(model, case)
        if plan is not None and case.rng.random() < 0.5:
            prune(model, plan, case)


class RulesTarget:
    """Architectures whose layers mean something by their place, by the keys that say it."""

    def __init__(self) -> None:
        weights = only("marked_tensor", "change_tensors", "other_depth", own_value=6, known_value=4)
        self.mutator = GGUFMutator(ruled_seeds(), own_keys(), archs(), PLAIN_TENSORS, weights)

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("model.gguf", data)
        model = case.attempt("open", lambda: open_model(path))
        if model is not None:
            inspect(model, case)
            plan = pruning(model, case)
            if plan is not None:
                case.attempt("contents", lambda: contents_of(model, plan))


class ShardsTarget:
    """Two files that say they are shards of one model."""

    def __init__(self) -> None:
        self.mutator = GGUFMutator(model_seeds()[::4], known_keys(), archs(), PLAIN_TENSORS)
        self.lies = GGUFMutator(
            (), known_keys(), archs(), PLAIN_TENSORS, only("split_values", "alignment", "header")
        )

    def make(self, rng: Random) -> bytes:
        first = rng.choice(self.mutator.seeds).copy()
        second = Parts(tensors=first.tensors[len(first.tensors) // 2 :])
        n_tensor, first.tensors = len(first.tensors), first.tensors[: len(first.tensors) // 2]
        for number, part in enumerate((first, second)):
            part.put(b"split.no", U16, number.to_bytes(2, "little"))
            part.put(b"split.count", U16, b"\2\0")
            part.put(b"split.tensors.count", I32, n_tensor.to_bytes(4, "little"))
        for part in rng.choice(((first,), (second,), (first, second))):
            rng.choice((self.lies, self.mutator)).mutate(part, rng, rng.choice((1, 1, 2)))
        packed = [part.pack() for part in (first, second)]
        packed = [mutate_bytes(p, rng) if rng.random() < 0.05 else p for p in packed]
        return len(packed[0]).to_bytes(4, "little") + b"".join(packed)

    def run(self, data: bytes, case: Case) -> None:
        n = int.from_bytes(data[:4], "little")
        paths = [
            case.write(name, part)
            for name, part in zip(SHARDS, (data[4 : 4 + n], data[4 + n :]), strict=True)
        ]
        self._misplace(paths[1], paths[0], case.rng)
        model = case.attempt("open", lambda: open_model(case.rng.choice(paths)))
        if model is None:
            return
        inspect(model, case)
        plan = pruning(model, case)
        if plan is not None:
            prune(model, plan, case)

    def _misplace(self, path: Path, other: Path, rng: Random) -> None:
        """Now and then a shard is missing, or is another one."""
        chance = rng.random()
        if chance < 0.1:
            path.unlink()
        if chance < 0.05:
            path.symlink_to(other)


def inspect(model: Model, case: Case) -> None:
    described = case.attempt("inspect", lambda: describe(model))
    if described is None:
        return
    shown = case.attempt("inspect's lines", lambda: terminal(blocks(described)))
    case.text("what inspect prints", shown or "")
    if case.rng.random() < 0.1:
        shown = case.attempt("inspect --json", lambda: to_text(described))
        if shown is not None:
            shown.encode("utf-8")
    case.attempt("footprint", lambda: footprints_of(model).speedup((0,)))


def pruning(model: Model, case: Case) -> PrunePlan | None:
    """A plan for some layers, which survives being written and read."""
    layers = case.attempt("layers", lambda: model.layers)
    blocks_of_mtp = case.attempt("MTP blocks", lambda: mtp_blocks(model))
    if layers is None or blocks_of_mtp is None:
        return None
    n = case.rng.choice((0, 1, 1, 1, 2, 3, len(layers) - 1)) % len(layers)
    drop = set(case.rng.sample(range(len(layers)), n))
    if case.rng.random() < 0.2:
        drop |= set(blocks_of_mtp)
    trust = case.rng.random() < 0.3
    cut = Cut.of(drop) if case.rng.random() < 0.6 else some_units(len(layers), case.rng)
    plan = case.attempt("plan", lambda: make_plan(model, cut, trust=trust))
    case.attempt("footprint without them", lambda: footprints_of(model).speedup(cut))
    if plan is None:
        return None
    path = case.folder / "plan.json"
    case.attempt("plan -o", lambda: write_text(path, to_text(plan), force=True))
    case.files.add(path)
    again = case.attempt("prune --plan", lambda: load_plan(path, model))
    if again != plan:
        raise EscapeError("a plan is not what was written")
    return plan


def some_units(n_layer: int, rng: Random) -> Cut:
    """Attentions and FFNs, in runs or not; now and then a matrix in an attention's place."""
    n_unit = 2 * n_layer
    first, n = rng.randrange(n_unit), min(rng.choice((1, 1, 2, 3, 4)), n_unit)
    run = range(first, min(first + n, n_unit))
    cut = Cut.of_units(run if rng.random() < 0.5 else rng.sample(range(n_unit), n))
    return cut | Cut.of_linear([rng.randrange(n_layer)]) if rng.random() < 0.1 else cut


def prune(model: Model, plan: PrunePlan, case: Case) -> None:
    """`prune --no-verify`: everything but llama.cpp's own opinion."""
    job = Job(
        model=model, plan=plan, out=case.folder / "out.gguf", split=case.rng.choice(DIVISIONS),
        check_load=False,
    )  # fmt: skip
    outline = case.attempt("prune --dry-run", lambda: planned(job))
    files = case.attempt("prune", lambda: write(job))
    if files is None:
        return
    case.files |= set(files.paths)
    if outline is None or (outline.paths, outline.size_bytes) != (files.paths, files.size_bytes):
        raise EscapeError("a dry run promises something else")
    if case.attempt("read back", lambda: open_model(files.paths[0]).layers) is None:
        raise EscapeError("what was written cannot be read")
