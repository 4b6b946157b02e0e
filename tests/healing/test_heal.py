"""Healing on the trained model: against a dense reference, bit for bit, and where nothing helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.taps import ablation_taps, joined
from ggprune.arch.architecture import architecture_of
from ggprune.errors import ArchitectureError, DataError, LlamaError, VerificationError
from ggprune.files.locks import BESIDE
from ggprune.healing.leastsquares import relative_weights
from ggprune.healing.result import Fitted, HealOptions, is_aside
from ggprune.healing.walk import stages_of
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.estimates import Float32, Float64
from ggprune.metrics.text import Text, read_text
from ggprune.model.cut import Cut, parse_units
from ggprune.model.model import Model, open_model
from ggprune.model.newlayer import whole
from ggprune.model.unit import Unit
from ggprune.pipeline.heal import Healed, HealJob, heal
from ggprune.pipeline.lineage import kept_layers
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.compute import Compute
from ggprune.runtime.nodes import Handler, StreamNode
from ggprune.runtime.session import LlamaModel, Session
from ggprune.surgery.plan import make_plan
from tests.conftest import CALIBRATION, TINY
from tests.healing.test_leastsquares import dense
from tests.helpers import ONE_GRAPH, logits_of, pruned_copy, random_tokens

DROP = (2, 3, 5)
N_CHUNK = 16
OPTIONS = HealOptions(n_chunk=N_CHUNK, ridge=0.01, compute=Compute(n_threads=1))


@pytest.fixture(scope="module")
def text() -> Text:
    return read_text(CALIBRATION)


def job_of(
    model: Model, out: Path, text: Text, drop: tuple[int, ...] = DROP,
    options: HealOptions = OPTIONS,
) -> HealJob:  # fmt: skip
    return HealJob(
        base=model, out=out, plan=make_plan(model, drop), text=text, options=options,
        check_load=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory, text: Text) -> tuple[Healed, Model]:
    out = tmp_path_factory.mktemp("healed") / "healed.gguf"
    done = heal(job_of(open_model(TINY), out, text))
    return done, open_model(out)


def tensors_of(model: Model) -> dict[str, bytes]:
    return {t.name: t.path.read_bytes()[t.offset : t.offset + t.size_bytes] for t in model.tensors}


def test_comes_nearer_to_the_original(healed: tuple[Healed, Model]) -> None:
    result = healed[0].healing
    assert result.after.kld.value < 0.75 * result.before.kld.value
    assert result.base_ppl.value < result.after.ppl.value < result.before.ppl.value
    assert all(item.error < item.error_before for item in result.refitted)
    assert result.n_fitted == (N_CHUNK - 2) * 512


def test_only_what_is_listed_changes(
    healed: tuple[Healed, Model], tiny: Model, tmp_path: Path
) -> None:
    done, model = healed
    pruned = tensors_of(pruned_copy(tiny, DROP, tmp_path / "pruned.gguf"))
    changed = {name for name, raw in tensors_of(model).items() if raw != pruned[name]}
    assert changed == set(model.fields.texts("ggprune.heal.tensors"))
    assert len(changed) == len(done.healing.refitted) == 9
    assert model.fields.integer("ggprune.heal.tokens") == done.healing.n_fitted
    assert model.fields.text("ggprune.heal.text.sha256") == done.healing.text.sha256
    assert model.fields.number("ggprune.heal.kld.after") == pytest.approx(
        done.healing.after.kld.value, rel=1e-6
    )


def test_judges_the_very_file(
    healed: tuple[Healed, Model], tiny: Model, text: Text, tmp_path: Path
) -> None:
    """Perplexity and divergence in memory are those of the written files, to the last bit."""
    from ggprune.metrics.estimates import mean_estimate
    from ggprune.metrics.logits import base_logits

    done, model = healed
    pruned = pruned_copy(tiny, DROP, tmp_path / "pruned.gguf")
    kld: dict[Path, list[Float64]] = {model.path: [], pruned.path: []}
    with sessions([tiny.path, *kld]) as opened:
        chunks = make_chunks(text, opened[tiny.path].model.tokenize, 512, N_CHUNK)
        for chunk in (c for c in chunks if is_aside(c.number)):

            def scored(path: Path, chunk=chunk) -> Float32:  # type: ignore[no-untyped-def]
                whole = opened[path].chunk_logits(chunk.tokens[None], chunk.n_output)[0]
                return np.asarray(chunk.scored(whole).copy())

            base = base_logits(scored(tiny.path), chunk.targets)
            for path, values in kld.items():
                values.append(base.compare(scored(path), chunk.targets).kld)
    before, after = done.healing.before.kld, done.healing.after.kld
    assert mean_estimate(np.concatenate(kld[pruned.path])) == before
    assert mean_estimate(np.concatenate(kld[model.path])) == after


@contextmanager
def sessions(paths: list[Path]) -> Iterator[dict[Path, Session]]:
    models = {path: LlamaModel(path, ONE_GRAPH) for path in paths}
    opened = {path: Session(model, 512, compute=ONE_GRAPH) for path, model in models.items()}
    yield opened
    for session in opened.values():
        session.close()
    for model in models.values():
        model.close()


class Reference:
    """The method as it is written down: whole passes, dense sums, one matrix after the other."""

    def __init__(self, model: Model, drop: tuple[int, ...], text: Text) -> None:
        self.model, self.drop = model, drop
        self.places = architecture_of(model).places
        with LlamaModel(model.path, vocab_only=True) as vocabulary:
            chunks = make_chunks(text, vocabulary.tokenize, 512, N_CHUNK)
        self.chunks = [c.tokens for c in chunks if not is_aside(c.number)]

    def record(self, path: Path, drop: tuple[int, ...], names: list[str]) -> dict[str, Float32]:
        """Values of nodes, (n_token, n) each; sums of the stream before it is overwritten."""
        found: dict[str, list[Float32]] = {name: [] for name in names}

        def handler(name: str) -> Handler:
            def keep(node: StreamNode) -> None:
                found[name].append(node.read())

            return keep

        with LlamaModel(path, ONE_GRAPH) as model, Session(
            model, 512, compute=ONE_GRAPH, tapped=True
        ) as session:  # fmt: skip
            taps = {name.encode(): handler(name) for name in names}
            session.tap(joined(ablation_taps(self.places, drop), taps))
            for chunk in self.chunks:
                session.chunk_logits(chunk[None], 512)
        return {name: np.concatenate(rows) for name, rows in found.items()}


def matrix_of(model: Model, name: str) -> Float32:
    tensor = model.by_name[name]
    dtype = {"F16": np.float16, "F32": np.float32}[tensor.type.name]
    values = np.fromfile(tensor.path, dtype, tensor.n_element, offset=tensor.offset)
    return values.reshape(tensor.shape[1], tensor.shape[0]).astype(np.float32)


def test_equals_a_dense_reference(tiny: Model, text: Text, tmp_path: Path) -> None:
    """Every matrix, given those in front of it; stored without rounding."""
    drop = (3,)
    options = replace(OPTIONS, tensor_type="F32", n_layer=3)
    out = tmp_path / "healed.gguf"
    done = heal(job_of(tiny, out, text, drop, options)).healing
    model, reference = open_model(out), Reference(tiny, drop, text)
    original = reference.record(tiny.path, (), ["l_out-3", "ffn_inp-4", "l_out-4", "l_out-5"])
    assert [item.tensor for item in done.refitted[:3]] == [
        "blk.2.ffn_down.weight", "blk.4.attn_output.weight", "blk.4.ffn_down.weight",
    ]  # fmt: skip
    # in the pruned file layer 4 is block 3
    pruned = reference.record(
        model.path, (),
        ["ffn_inp-2", "ffn_swiglu-2", "l_out-2", "kqv_out-3", "ffn_inp-3", "ffn_swiglu-3"],
    )  # fmt: skip
    steps: Mapping[str, tuple[str, str, str]] = {
        "blk.2.ffn_down.weight": ("ffn_swiglu-2", "ffn_inp-2", "l_out-3"),
        "blk.4.attn_output.weight": ("kqv_out-3", "l_out-2", "ffn_inp-4"),
        "blk.4.ffn_down.weight": ("ffn_swiglu-3", "ffn_inp-3", "l_out-4"),
    }
    for name, (entering, added, target) in steps.items():
        weights = relative_weights(original[target])
        wanted = (original[target] - pruned[added]).astype(np.float32)
        start = matrix_of(tiny, name)
        want = dense(pruned[entering], wanted, weights, start, OPTIONS.ridge or 0)
        got = matrix_of(model, name.replace("blk.4", "blk.3"))
        assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want), name


def test_a_layer_that_does_nothing_leaves_nothing_to_heal(
    dead: Model, text: Text, tmp_path: Path
) -> None:
    out = tmp_path / "healed.gguf"
    job = job_of(dead, out, text, (4,))
    with pytest.raises(VerificationError, match=r"not written: no fitted matrix was better.*force"):
        heal(job)
    assert not list(tmp_path.iterdir())
    done = heal(replace(job, force=True))
    assert done.healing.before.kld.value == pytest.approx(0, abs=1e-6)
    assert done.healing.after == done.healing.before
    assert not done.healing.refitted
    plain = pruned_copy(dead, (4,), tmp_path / "plain.gguf")
    assert out.read_bytes() == plain.path.read_bytes()


def test_quantized_matrices_stay_of_their_type(tiny_q4: Model, text: Text, tmp_path: Path) -> None:
    out = tmp_path / "healed.gguf"
    done = heal(job_of(tiny_q4, out, text)).healing
    model = open_model(out)
    assert done.after.kld.value < 0.7 * done.before.kld.value
    plain = pruned_copy(tiny_q4, DROP, tmp_path / "plain.gguf")
    assert [t.type for t in model.tensors] == [t.type for t in plain.tensors]
    changed = [n for n, raw in tensors_of(model).items() if raw != tensors_of(plain)[n]]
    assert set(changed) == set(model.fields.texts("ggprune.heal.tensors"))
    assert {model.by_name[n].type.name for n in changed} <= {"Q4_K", "Q6_K", "Q5_0", "Q8_0"}


def test_fitted_matrices_can_be_stored_better(tiny_q4: Model, text: Text, tmp_path: Path) -> None:
    out = tmp_path / "healed.gguf"
    done = heal(job_of(tiny_q4, out, text, options=replace(OPTIONS, tensor_type="F16"))).healing
    model = open_model(out)
    for name in model.fields.texts("ggprune.heal.tensors"):
        assert model.by_name[name].type.name == "F16"
    tokens = random_tokens(1024, 64)
    assert np.isfinite(logits_of(out, tokens, 64)).all()
    assert done.after.kld.value < done.before.kld.value


def test_heals_a_file_that_is_pruned_already(
    healed: tuple[Healed, Model], tiny: Model, text: Text, tmp_path: Path
) -> None:
    """The same as pruning and healing at once: same bytes, same numbers."""
    pruned = pruned_copy(tiny, DROP, tmp_path / "pruned.gguf")
    job = HealJob(
        base=tiny, pruned=pruned, out=tmp_path / "healed.gguf", text=text, options=OPTIONS,
        check_load=False,
    )  # fmt: skip
    done = heal(job)
    assert done.healing.before == healed[0].healing.before
    assert done.healing.after == healed[0].healing.after
    assert (tmp_path / "healed.gguf").read_bytes() == healed[1].path.read_bytes()


def test_the_original_must_be_the_original(
    tiny: Model, dead: Model, text: Text, tmp_path: Path
) -> None:
    pruned = pruned_copy(tiny, DROP, tmp_path / "pruned.gguf")
    job = HealJob(base=dead, pruned=pruned, out=tmp_path / "o.gguf", text=text, options=OPTIONS)
    with pytest.raises(DataError, match="pruned from another model"):
        heal(job)
    with pytest.raises(DataError, match="not pruned by ggprune"):
        heal(replace(job, base=tiny, pruned=tiny))


def test_a_text_that_is_too_short_says_how_long_it_must_be(
    tiny: Model, text: Text, tmp_path: Path
) -> None:
    job = job_of(tiny, tmp_path / "o.gguf", text, options=replace(OPTIONS, n_ctx=16, n_chunk=40))
    with pytest.raises(DataError, match="leaves 560 tokens to fit, 1024 are needed"):
        heal(job)
    assert not list(tmp_path.iterdir())


def test_goes_on_where_it_was_ended(
    healed: tuple[Healed, Model], tiny: Model, text: Text, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Layers that are finished are not computed again, and the file is the same."""
    from ggprune.healing import heal as module
    from ggprune.healing.walk import Stage, Walk
    from ggprune.pipeline import heal as pipeline

    options = replace(OPTIONS, cache=tmp_path / "cache")
    job = job_of(tiny, tmp_path / "healed.gguf", text, options=options)
    computed: list[int] = []
    fit = Walk.fit

    def killed(self: Walk, stage: Stage, *, is_last: bool):  # type: ignore[no-untyped-def]
        if len(computed) == 3:
            computed.append(-1)
            raise LlamaError("killed")
        computed.append(stage.layer)
        return fit(self, stage, is_last=is_last)

    monkeypatch.setattr(Walk, "fit", killed)
    monkeypatch.setattr(pipeline, "isolated", lambda function, *args: function(*args))
    with pytest.raises(LlamaError, match="killed"):
        heal(job)
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left - {BESIDE} == {".bin", ".json"}
    done = heal(job)
    assert computed == [1, 4, 6, -1, 7, 8]
    assert module  # the module whose stages these are
    assert (tmp_path / "healed.gguf").read_bytes() == healed[1].path.read_bytes()
    assert done.healing.after == healed[0].healing.after
    assert not list((tmp_path / "cache").iterdir())


def test_parts_can_be_chosen(tiny: Model, text: Text, tmp_path: Path) -> None:
    options = replace(OPTIONS, fitted=Fitted.FFN, n_layer=2, memory_bytes=0)
    done = heal(job_of(tiny, tmp_path / "o.gguf", text, options=options)).healing
    assert [item.tensor for item in done.refitted] == [
        "blk.1.ffn_down.weight", "blk.4.ffn_down.weight",
    ]  # fmt: skip
    assert done.stored_bytes > 0
    assert {item.reason for item in done.left} == {"nothing has been cut in front of it",
                                                   "--refit ffn"}  # fmt: skip


@pytest.mark.parametrize("way", ["plan", "file", "quantized", "quantized last"])
def test_runs_of_units_are_healed(tiny: Model, text: Text, tmp_path: Path, way: str) -> None:
    """The layer that is made of two gets both matrices, and what is judged is the very file."""
    cut = parse_units("3f-4a", 9)
    plan, out = make_plan(tiny, cut), tmp_path / "out.gguf"
    job = HealJob(base=tiny, out=out, plan=plan, text=text, options=OPTIONS, check_load=False)
    if way == "file":
        pruned = pruned_copy(tiny, cut, tmp_path / "pruned.gguf")
        job = replace(job, plan=None, pruned=pruned)
    if way.startswith("quantized"):
        last = way.endswith("last")
        job = replace(job, quantize=QuantizeOptions("Q8_0"), quantize_last=last)
    done = heal(job).healing
    fitted = [item.tensor for item in done.refitted]
    assert fitted[:2] == ["blk.3.attn_output.weight", "blk.4.ffn_down.weight"]
    assert done.after.kld.value < 0.6 * done.before.kld.value
    assert done.refitted[0].layer == done.refitted[1].layer == 3
    written = open_model(out)
    assert written.n_layer == 8
    assert kept_layers(tiny, written) == cut.remaining(9)
    if way in ("plan", "file"):
        plain = tensors_of(pruned_copy(tiny, cut, tmp_path / "plain.gguf"))
        changed = {name for name, raw in tensors_of(written).items() if raw != plain[name]}
        assert changed == {plan.renamed(name) for name in fitted}


@pytest.mark.parametrize(("units", "way"), [
    ("3a=linear", "file"), ("3a=linear", "quantized last"), ("3a,5f", "plan"), ("3a,5f", "file"),
    ("0a", "plan"), ("7f", "quantized last"), ("2a,5f-6a,7f", "plan"),
])  # fmt: skip
def test_what_is_left_alone_is_healed(
    tiny: Model, text: Text, tmp_path: Path, units: str, way: str
) -> None:
    """The half that is there makes up for the other; nothing is fitted of zeros."""
    cut, out = parse_units(units, 9), tmp_path / "out.gguf"
    plan = make_plan(tiny, cut)
    job = HealJob(base=tiny, out=out, plan=plan, text=text, options=OPTIONS, check_load=False)
    if way == "file":
        pruned = pruned_copy(tiny, cut, tmp_path / "pruned.gguf")
        job = replace(job, plan=None, pruned=pruned)
    if way == "quantized last":
        job = replace(job, quantize=QuantizeOptions("Q8_0"), quantize_last=True)
    done = heal(job).healing
    fitted = [item.tensor for item in done.refitted]
    assert done.after.kld.value < 0.7 * done.before.kld.value
    first = next(layer for layer in plan.layers if not layer.is_whole)
    part = "ffn_down" if first.attn is None else "attn_output"
    if cut.linear:  # the matrix itself
        assert done.refitted[0].error < 0.8 * done.refitted[0].error_before
    assert fitted[0] == f"blk.{first.first}.{part}.weight"
    written = open_model(out)
    assert (written.arch, kept_layers(tiny, written)) == ("deci", cut.remaining(9))
    if way != "quantized last":
        plain = tensors_of(pruned_copy(tiny, cut, tmp_path / "plain.gguf"))
        changed = {name for name, raw in tensors_of(written).items() if raw != plain[name]}
        assert changed == {plan.renamed(name) for name in fitted}


def test_stages_of_what_is_left_alone() -> None:
    """3a,5f of seven: the first FFN that lacks its attention is led to what enters layer 4."""
    stages = stages_of(parse_units("3a,5f", 7).remaining(7), 7, shared=False)
    assert [(s.layer, s.ffn, s.missing, s.own, s.last, s.is_exact) for s in stages] == [
        (3, 3, Unit.ATTN, 3, 3, True), (4, 4, None, 4, 4, False), (5, 5, Unit.FFN, 5, 5, False),
        (6, 6, None, 6, 6, False),
    ]  # fmt: skip


def test_stages_of_a_run_of_units() -> None:
    """3f-4a of eight: the attention in front of the cut is fitted, its own stream enters it."""
    layers = parse_units("3f-4a", 8).remaining(8)
    stages = stages_of(layers, 8, shared=False)
    assert [(s.layer, s.ffn, s.own, s.last, s.is_exact) for s in stages] == [
        (3, 4, 3, 4, True), (5, 5, 4, 5, False), (6, 6, 5, 6, False), (7, 7, 6, 7, False),
    ]  # fmt: skip


def test_runs_of_units_are_not_trained(tiny: Model, text: Text, tmp_path: Path) -> None:
    plan = make_plan(tiny, parse_units("3f-4a", 9))
    job = HealJob(base=tiny, out=tmp_path / "o.gguf", plan=plan, text=text, options=OPTIONS)
    with pytest.raises(ArchitectureError, match=r"3a\+4f: only whole layers can be trained"):
        _ = job.keep


def test_stages_begin_in_front_of_the_first_cut() -> None:
    stages = stages_of(whole(0, 1, 4, 6), 8, shared=True)
    assert [(s.layer, s.own, s.last, s.is_exact) for s in stages] == [
        (1, 1, 3, True), (4, 4, 5, False), (6, 6, 7, False),
    ]  # fmt: skip
    assert [(s.layer, s.own) for s in stages_of(whole(0, 1, 4, 6), 8, shared=False)] == [
        (1, 1), (4, 2), (6, 3),
    ]  # fmt: skip
    first = stages_of(whole(1, 2), 3, shared=True)
    assert [(s.layer, s.is_exact) for s in first] == [(1, False), (2, False)]
    assert stages_of(whole(0, 1, 2), 3, shared=True) == ()


def test_nothing_dropped_is_nothing_to_heal(tiny: Model, text: Text, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="nothing to heal"):
        heal(job_of(tiny, tmp_path / "o.gguf", text, ()))


def test_a_failed_run_leaves_nothing_in_the_cache(tiny: Model, text: Text, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = replace(OPTIONS, cache=cache, n_ctx=16, n_chunk=40)
    with pytest.raises(DataError, match="are needed"):
        heal(job_of(tiny, tmp_path / "o.gguf", text, options=options))
    assert not list(cache.iterdir())


def test_what_a_run_works_on_is_not_taken_away(tmp_path: Path) -> None:
    from ggprune.errors import OutputError
    from ggprune.healing.patch import Patch, discard_unused

    path, index = tmp_path / "heal.bin", tmp_path / "heal.json"
    with Patch(path, index) as patch:
        with pytest.raises(OutputError, match="another run heals the same"):
            Patch(path, index)
        discard_unused(path, index)
        assert path.exists()
        patch.finish(3, [], [])
    discard_unused(path, index)
    assert path.exists()  # a layer is finished
    index.unlink()
    discard_unused(path, index)
    assert not path.exists()


@pytest.mark.parametrize("way", ["plan", "file"])
def test_a_model_that_lost_experts(tiny_moe: Model, tmp_path: Path, way: str) -> None:
    """Nothing is missing between the layers, but every FFN is another one."""
    text = read_text(CALIBRATION)
    cut = Cut.of_experts(dict.fromkeys(range(4), (3, 7, 11, 15)))
    job = HealJob(
        base=tiny_moe, out=tmp_path / "out.gguf", text=text, options=HealOptions(compute=ONE_GRAPH),
        plan=make_plan(tiny_moe, cut), check_load=False,
    )  # fmt: skip
    if way == "file":
        pruned = pruned_copy(tiny_moe, cut, tmp_path / "pruned.gguf")
        job = replace(job, plan=None, pruned=pruned)
    done = heal(job)
    assert done.healing.after.kld.value < 0.5 * done.healing.before.kld.value
    fitted = {refit.tensor for refit in done.healing.refitted}
    assert {f"blk.{n}.ffn_down_exps.weight" for n in range(4)} <= fitted
    out = open_model(tmp_path / "out.gguf")
    assert out.metadata["llama.expert_count"].decode() == 12
    assert out.by_name["blk.1.ffn_down_exps.weight"].type.name == "Q5_1"
