"""Models with random weights: the right sizes, types and bytes, and numbers that behave."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from ggprune.errors import LlamaError, OutputError, UsageError
from ggprune.files import system
from ggprune.metrics.text import read_text
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model, open_model
from ggprune.model.types import tensor_type
from ggprune.pipeline.synth import (
    Shape,
    count_parameters,
    depth_profile,
    find_shape,
    known_shapes,
    make_blueprint,
    make_tensors,
    synthesize,
)
from ggprune.pipeline.synth.tensors import BLOCKS, Weights, rope_factors
from ggprune.pipeline.synth.weights import STEP_BYTES, weight_bytes
from ggprune.pipeline.synth.write import WITH_IMATRIX
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize
from ggprune.runtime.session import LlamaModel
from tests.conftest import CALIBRATION
from tests.helpers import ONE_GRAPH, logits_of, random_tokens
from tests.scoring.ranked import ranked

# As the model cards and the headers of the published safetensors files count them.
PUBLISHED = {
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-8b": 8_190_735_360,
    "tinyllama-1.1b": 1_100_048_384,
}
LARGEST_OF_ARCH = {shape.arch: shape for shape in known_shapes()}


def small(arch: str, n_layer: int = 6) -> Shape:
    """A shape of that architecture with few numbers in it."""
    shape = LARGEST_OF_ARCH[arch]
    dense = replace(
        shape, n_vocab=512, n_embd=256, n_layer=n_layer, n_ff=512, n_head=4,
        n_head_kv=4 if arch == "gpt2" else 2, head_dim=64, n_ctx=512,
    )  # fmt: skip
    return replace(dense, n_expert=4, n_expert_used=2, n_ff_expert=256) if dense.n_expert else dense


def write(shape: Shape, type_name: str, path: Path, seed: int = 0) -> Model:
    blueprint = make_blueprint(shape, type_name, seed=seed)
    written = synthesize(blueprint, path, force=True, check_load=False)
    assert blueprint.size_bytes == written.size_bytes == path.stat().st_size
    return open_model(path)


def types_of(model: Model) -> dict[str, str]:
    return {tensor.name: tensor.type.name for tensor in model.tensors}


def test_parameter_counts_are_the_published_ones() -> None:
    assert {s.name: count_parameters(make_tensors(s)) for s in known_shapes()} == PUBLISHED
    assert {shape.arch for shape in known_shapes()} == set(BLOCKS)


def test_another_depth() -> None:
    full, half = find_shape("TinyLlama-1.1B"), find_shape("tinyllama-1.1b", 11)
    in_layers = sum(w.n_element for w in make_tensors(full) if w.name.startswith("blk."))
    assert count_parameters(make_tensors(half)) == PUBLISHED[full.name] - in_layers // 2
    with pytest.raises(UsageError, match=r"0 layers: llama\.cpp loads 1 to 512"):
        find_shape("gpt2", 0)


def test_what_is_tied_normed_and_biased() -> None:
    names = {s.name: {w.name for w in make_tensors(s)} for s in known_shapes()}
    tied = {name for name in names if "output.weight" not in names[name]}
    assert tied == {"gpt2", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-0.5b", "qwen3-0.6b"}
    assert {n for n in names if "blk.0.attn_q_norm.weight" in names[n]} == {
        "qwen3-0.6b", "qwen3-8b", "qwen3-30b-a3b"
    }  # fmt: skip
    assert {n for n in names if "blk.0.attn_k.bias" in names[n]} == {"qwen2.5-0.5b", "qwen2.5-7b"}


def test_the_profile_of_the_depth() -> None:
    assert depth_profile(1) == (1.0,)
    assert depth_profile(5) == pytest.approx((1.0, 0.4, 0.2, 0.4, 1.0))
    profile = depth_profile(32)
    assert profile == pytest.approx(profile[::-1])
    assert list(profile[:16]) == sorted(profile[:16], reverse=True)
    sigmas = {w.name: w.sigma for w in make_tensors(small("llama", 5))}
    for i, factor in enumerate(depth_profile(5)):
        assert sigmas[f"blk.{i}.attn_output.weight"] == pytest.approx(factor / 16)
        assert sigmas[f"blk.{i}.attn_q.weight"] == 1 / 16


def test_rope_factors_of_llama_3() -> None:
    """Short waves stay, long ones are slowed down; wavelengths of the border by hand."""
    scaling = find_shape("llama-3.2-1b").rope_scaling
    assert scaling is not None
    factors = rope_factors(scaling, 500_000.0, 64)
    assert len(factors) == 32
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(32)
    waves = 8192 / (2 * np.pi * 500_000.0 ** (32 / 64))  # of pair 16 in the original context
    smooth = (waves - 1) / 3
    assert 0 < smooth < 1
    assert factors[16] == pytest.approx(1 / ((1 - smooth) / 32 + smooth))


@pytest.mark.parametrize("arch", BLOCKS)
def test_llama_cpp_computes_finite_logits(arch: str, tmp_path: Path) -> None:
    shape = small(arch)
    model = write(shape, "Q4_K_M", tmp_path / "out.gguf")
    logits = logits_of(model.path, random_tokens(shape.n_vocab, 64), 64)
    assert logits.shape == (64, shape.n_vocab)
    assert np.isfinite(logits).all()
    assert 0.3 < logits.std() < 3  # neither a vanished nor an exploded stream


@pytest.mark.parametrize(
    ("arch", "name"),
    [("llama", "Q4_K_M"), ("llama", "Q2_K_S"), ("qwen2", "Q5_K_M"),
     ("qwen3moe", "Q4_K_M"), ("qwen3moe", "MXFP4_MOE"), ("gpt2", "Q6_K"), ("qwen3", "BF16")],
)  # fmt: skip
def test_types_are_those_of_the_quantizer(arch: str, name: str, tmp_path: Path) -> None:
    """The mixture depends on the architecture, the depth and whether matrices are tied."""
    source = write(small(arch), "F16", tmp_path / "f16.gguf")
    out = tmp_path / "out.gguf"
    quantize(source.path, out, QuantizeOptions(name), flat_imatrix(source, name))
    theirs, ours = open_model(out), write(small(arch), name, tmp_path / "ours.gguf")
    assert types_of(ours) == types_of(theirs)
    for key in ("general.file_type", "general.quantization_version"):
        assert ours.metadata[key] == theirs.metadata[key]


def flat_imatrix(model: Model, name: str) -> Imatrix | None:
    entries = {t.name: np.ones(t.shape[0], np.float32) for t in model.tensors}
    imatrix = Imatrix(path=Path("flat"), entries=entries, dataset="", n_chunk=0)
    return imatrix if name in WITH_IMATRIX else None


def test_types_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'Q9' is not a quantization type"):
        make_blueprint(small("llama"), "Q9")
    with pytest.raises(UsageError, match="COPY is not a type"):
        make_blueprint(small("llama"), "copy")
    narrow = replace(small("llama"), n_ff=544)
    with pytest.raises(LlamaError, match=r"^llama-\S+ cannot be quantized to Q1_0: no tensor type"):
        make_blueprint(replace(narrow, name="llama-x:"), "Q1_0")


def test_the_seed_decides(tmp_path: Path) -> None:
    shape = small("llama", 2)
    one, two = tmp_path / "1.gguf", tmp_path / "2.gguf"
    write(shape, "Q4_0", one, seed=7)
    write(shape, "Q4_0", two, seed=7)
    assert one.read_bytes() == two.read_bytes()
    other = write(shape, "Q4_0", two, seed=8)
    data, before = two.read_bytes(), one.read_bytes()
    drawn = {w.name for w in make_tensors(shape) if w.sigma}
    for t in other.tensors:
        place = slice(t.offset, t.offset + t.size_bytes)
        assert (data[place] != before[place]) == (t.name in drawn), t.name
    assert other.fields.integer("ggprune.synth.seed") == 8


def test_numbers_are_normal_and_rows_differ() -> None:
    """Of a tensor larger than the pool that it is drawn from."""
    weights = Weights("blk.0.ffn_up.weight", (1024, 4096), sigma=0.05)
    data = b"".join(bytes(b) for b in weight_bytes(weights, tensor_type("F32"), 0))
    values = np.frombuffer(data, np.float32).reshape(4096, 1024)
    assert values.std() == pytest.approx(0.05, rel=0.01)
    assert abs(values.mean()) < 5e-4
    assert len(np.unique(values, axis=0)) == 4096
    angles = values[:64] @ values[64:128].T / (1024 * 0.05**2)
    assert abs(angles.mean()) < 0.01
    other = replace(weights, name="blk.1.ffn_up.weight")
    assert bytes(next(weight_bytes(other, tensor_type("F32"), 0))) != data[:STEP_BYTES]


class Pass(NamedTuple):
    """What went by while a tensor was generated."""

    n_byte: int
    longest: int
    peak_bytes: int


def run_through(blocks: Iterator[memoryview]) -> Pass:
    tracemalloc.start()
    try:
        sizes = [len(block) for block in blocks]
        return Pass(sum(sizes), max(sizes), tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_memory_does_not_grow_with_the_tensor(name: str) -> None:
    embedding = next(w for w in make_tensors(find_shape("llama-3.2-1b")) if "token_embd" in w.name)
    kind = tensor_type(name)
    done = run_through(weight_bytes(embedding, kind, 0))
    assert done.n_byte == kind.size_bytes(embedding.shape) > 128 << 20
    assert done.longest <= STEP_BYTES
    assert done.peak_bytes < 24 << 20


def test_layers_matter_most_at_both_ends(tmp_path: Path) -> None:
    model = write(small("llama", 9), "Q8_0", tmp_path / "out.gguf")
    scores = ranked(model, read_text(CALIBRATION), n_ctx=64, n_chunk=4, compute=ONE_GRAPH)
    klds = [score.kld.value for score in scores.layers]
    assert scores.order[-1] == 0
    assert 3 <= scores.order[0] <= 6
    assert klds[8] > 2 * min(klds)


def test_any_text_is_tokenized(tmp_path: Path) -> None:
    model = write(small("qwen2", 1), "Q8_0", tmp_path / "out.gguf")
    names = model.fields.texts("tokenizer.ggml.tokens")
    assert len(names) == len(set(names)) == 512
    with LlamaModel(model.path, ONE_GRAPH) as llama:
        tokens = [names[token] for token in llama.tokenize("A b\nä")]
    assert tokens == ["<s>", "\u2581", "A", "\u2581", "b", "<0x0A>", "<0xC3>", "<0xA4>"]


def test_nothing_is_overwritten_or_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, blueprint = tmp_path / "out.gguf", make_blueprint(small("llama", 1), "Q4_0")
    out.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        synthesize(blueprint, out)
    synthesize(blueprint, out, force=True)  # llama.cpp loads it as well
    assert open_model(out).n_layer == 1
    out.unlink()
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(OutputError, match="1000 are free"):
            synthesize(blueprint, out)
    monkeypatch.setattr(system, "_write", fail)
    with pytest.raises(OutputError, match="the disk is full; nothing was kept"):
        synthesize(blueprint, out)
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, whole, pieces = small("llama", 1), tmp_path / "1.gguf", tmp_path / "2.gguf"
    write(shape, "Q4_0", whole)
    monkeypatch.setattr(system, "_write", write_some)
    write(shape, "Q4_0", pieces)
    assert pieces.read_bytes() == whole.read_bytes()


WRITE = system._write


def write_some(fd: int, data: memoryview, offset: int) -> int:
    return WRITE(fd, data[:10_000], offset)


def fail(*_: object) -> int:
    raise OSError(errno.ENOSPC, "")


def ggprune(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggprune", "synth", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ("--shape", "gpt2", "--layers", 1, "--type", "q4_0")
    announced = json.loads(ggprune(*args, "--dry-run", "--json").stdout)
    assert announced["shape"]["n_param"] == PUBLISHED["gpt2"] - 11 * 7_087_872
    done = ggprune(*args, out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "params   46473216 (46.47 M)" in done.stdout
    assert str(out.stat().st_size) in done.stdout
    assert announced["out"] == {
        "path": None, "size_bytes": out.stat().st_size, "written": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shape", "gpt5", "x.gguf"], "'gpt5' is not a known shape: gpt2, llama-2-7b"),
        (["--shape", "gpt2"], "name the file to write"),
        (["x.gguf"], "--list prints those that are known"),
    ],
)
def test_wrong_calls_are_one_line(args: list[str], message: str, tmp_path: Path) -> None:
    done = ggprune(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_list_names_every_shape() -> None:
    lines = ggprune("--list").stdout.splitlines()
    assert [line.split()[1] for line in lines[2:]] == sorted(PUBLISHED)
