"""The adapter that healing writes, as llama.cpp computes with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import LlamaError, OutputError, UsageError, VerificationError
from ggprune.healing import heal as healing
from ggprune.healing.heal import Patient, Workplace
from ggprune.healing.result import HealOptions, is_aside
from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.estimates import Float32
from ggprune.metrics.logits import base_logits
from ggprune.metrics.text import read_texts
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model, open_model
from ggprune.model.newlayer import whole
from ggprune.model.types import tensor_type
from ggprune.pipeline.adapter import AdapterWriter
from ggprune.pipeline.heal import Healed, HealJob, heal
from ggprune.pipeline.job import Job, write
from ggprune.progress import Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.adapters import Adapter
from ggprune.runtime.session import LlamaModel, Logits, Session, Tokens
from ggprune.surgery.contents import Replacement
from ggprune.surgery.plan import make_plan
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, TINY
from tests.helpers import ONE_GRAPH, logits_of, pruned_copy, random_tokens

DROP, KEEP = (2, 3, 5), (0, 1, 4, 6, 7, 8)
N_CTX, N_CHUNK = 128, 24
OPTIONS = HealOptions(n_ctx=N_CTX, n_chunk=N_CHUNK, rank=32, compute=ONE_GRAPH)
TEXT = read_texts([CALIBRATION])


def job_of(tiny: Model, folder: Path, options: HealOptions = OPTIONS) -> HealJob:
    return HealJob(
        base=tiny, out=folder / "healed.gguf", lora=folder / "lora.gguf",
        plan=make_plan(tiny, DROP), text=TEXT, options=options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def done(tiny: Model, folder: Path) -> Healed:
    """`healed.gguf`, `lora.gguf` and, for it, `pruned.gguf` in the folder."""
    pruned_copy(tiny, DROP, folder / "pruned.gguf")
    return heal(job_of(tiny, folder))


def floats(tensor: Tensor) -> Float32:
    values = np.fromfile(tensor.path, np.float32, tensor.n_element, offset=tensor.offset)
    return values.reshape(tensor.shape[::-1])


def with_adapter(model: Path, adapter: Path, tokens: Tokens, n_output: int) -> Logits:
    """Logits of the last `n_output` tokens, (n_output, n_vocab), as any program computes them."""
    with (
        LlamaModel(model, ONE_GRAPH) as loaded,
        Adapter(loaded, adapter) as lora,
        Session(loaded, tokens.shape[1], compute=ONE_GRAPH) as session,
    ):
        lora.apply(session)
        logits: Logits = session.chunk_logits(tokens, n_output)[0].copy()
        return logits


def test_the_file_is_a_lora_for_the_pruned_model(tiny: Model, done: Healed) -> None:
    assert done.lora is not None
    model = open_model(done.lora.path)
    assert done.lora.size_bytes == model.size_bytes
    values = {key: value.decode() for key, value in model.metadata.items()}
    assert values["general.type"] == "adapter"
    assert values["adapter.type"] == "lora"
    assert values["general.architecture"] == "llama"
    assert values["adapter.lora.alpha"] == 32.0
    assert values["ggprune.dropped_layers"] == list(DROP)
    assert values["ggprune.source.fingerprint"] == tiny.fingerprint
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    expected = {}
    for item in done.healing.refitted:
        name = f"blk.{KEEP.index(item.layer)}.{item.tensor.split('.', 2)[2]}"
        expected[f"{name}.lora_a"] = (item.shape[0], 32)
        expected[f"{name}.lora_b"] = (32, item.shape[1])
    assert shapes == expected
    assert {tensor.type.name for tensor in model.tensors} == {"F32"}


def test_llama_cpp_adds_the_product_of_its_matrices(folder: Path, done: Healed) -> None:
    """The same as a model in which W + B A takes the place of W."""
    assert done.lora is not None
    pruned, lora = open_model(folder / "pruned.gguf"), open_model(done.lora.path)
    whole, raw = dict[str, Tensor](), folder / "sums.bin"
    with raw.open("wb") as file:
        for name in (t.name.removesuffix(".lora_a") for t in lora.tensors if "lora_a" in t.name):
            old, a, b = (m.by_name[n] for m, n in (
                (pruned, name), (lora, f"{name}.lora_a"), (lora, f"{name}.lora_b")
            ))  # fmt: skip
            half = np.fromfile(old.path, np.float16, old.n_element, offset=old.offset)
            total = half.reshape(old.shape[::-1]).astype(np.float32) + floats(b) @ floats(a)
            whole[name] = replace(
                old, type=tensor_type("F32"), path=raw, offset=file.tell(), size_bytes=total.nbytes
            )
            file.write(total.tobytes())
    merged = folder / "merged.gguf"
    write(Job(model=pruned, out=merged, replaced=Replacement(whole, {}), check_load=False))
    tokens = random_tokens(200, 64)
    plain, expected = (logits_of(path, tokens, 32) for path in (pruned.path, merged))
    found = with_adapter(pruned.path, lora.path, tokens, 32)
    assert np.abs(found - expected).max() < 0.02 * np.abs(found - plain).max()


def test_the_kld_is_that_of_the_files(tiny: Model, folder: Path, done: Healed) -> None:
    assert done.lora is not None
    assert done.healing.adapter is not None
    with LlamaModel(TINY, ONE_GRAPH) as model:
        chunks = make_chunks(TEXT, model.tokenize, N_CTX, N_CHUNK)
    klds = []
    for chunk in (chunk for chunk in chunks if is_aside(chunk.number)):
        tokens = chunk.tokens[None, :]
        original = base_logits(
            chunk.scored(logits_of(TINY, tokens, chunk.n_output)), chunk.targets, 1
        )
        logits = with_adapter(folder / "pruned.gguf", done.lora.path, tokens, chunk.n_output)
        klds.append(original.compare(chunk.scored(logits), chunk.targets, 1).kld)
    assert np.mean(klds) == pytest.approx(done.healing.adapter.kld.value, rel=1e-3)


def test_most_of_the_gain_is_in_the_adapter(done: Healed) -> None:
    result = done.healing
    assert result.adapter is not None
    assert result.adapter.rank == 32
    assert result.after.kld.value < result.adapter.kld.value
    gain = result.before.kld.value - result.after.kld.value
    assert result.before.kld.value - result.adapter.kld.value > 0.5 * gain


def test_the_merged_model_is_the_same_without_an_adapter(
    tiny: Model, tmp_path: Path, done: Healed
) -> None:
    job = job_of(tiny, tmp_path, replace(OPTIONS, rank=None))
    plain = heal(replace(job, lora=None))
    assert plain.healing.adapter is None
    assert plain.lora is None
    assert job.out.read_bytes() == done.files.paths[0].read_bytes()


def test_with_all_ranks_it_is_the_merged_model(tiny: Model, tmp_path: Path) -> None:
    """More than there are: what is stored still says 1000, llama.cpp divides by what is there."""
    done = heal(job_of(tiny, tmp_path, replace(OPTIONS, rank=1000)))
    assert done.lora is not None
    assert done.healing.adapter is not None
    assert done.healing.adapter.kld.value == pytest.approx(done.healing.after.kld.value, rel=0.02)
    assert max(t.shape[0] for t in open_model(done.lora.path).tensors if "_b" in t.name) == 256


def test_of_a_pruned_file(tiny: Model, tmp_path: Path, folder: Path, done: Healed) -> None:
    assert done.lora is not None
    pruned = open_model(folder / "pruned.gguf")
    again = heal(replace(job_of(tiny, tmp_path), plan=None, pruned=pruned))
    assert again.lora is not None
    assert again.healing.adapter is not None
    assert done.healing.adapter is not None
    assert again.healing.adapter.kld.value == pytest.approx(
        done.healing.adapter.kld.value, rel=0.02
    )
    names = [[t.name for t in open_model(p.path).tensors] for p in (done.lora, again.lora)]
    assert names[0] == names[1]


def test_of_matrices_that_change_their_type(tiny: Model, tmp_path: Path) -> None:
    """Fitted matrices in another type than the old ones, which come back for the adapter."""
    out = heal(job_of(tiny, tmp_path, replace(OPTIONS, tensor_type="Q4_0", rank=256)))
    assert out.healing.adapter is not None
    assert out.healing.adapter.kld.value == pytest.approx(out.healing.after.kld.value, rel=0.1)


def test_of_a_model_that_is_quantized_first(tiny: Model, tmp_path: Path) -> None:
    """The adapter goes with the pruned model in that type."""
    job = replace(job_of(tiny, tmp_path), quantize=QuantizeOptions("Q8_0", n_threads=1))
    done, pruned = heal(job), tmp_path / "pruned.gguf"
    write(replace(job.job, out=pruned, check_load=False))
    assert done.lora is not None
    tokens = random_tokens(200, 64)
    plain, healed = (logits_of(path, tokens, 32) for path in (pruned, job.out))
    found = with_adapter(pruned, done.lora.path, tokens, 32)
    assert np.square(found - healed).sum() < 0.3 * np.square(plain - healed).sum()


class Killed(Progress):
    """Ends the run after so many steps."""

    def __init__(self, n_step: int) -> None:
        self.left = n_step

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_resumed_run_has_what_the_first_one_made(
    tiny: Model, tmp_path: Path, done: Healed
) -> None:
    patch = tmp_path / "patch.bin"
    place = Workplace(tmp_path / "out", patch, tmp_path / "index.json", AdapterWriter(patch, 32))
    patient = Patient(tiny, whole(*KEEP))
    with pytest.raises(KeyboardInterrupt):
        healing.heal(patient, TEXT, OPTIONS, place, Killed(300))
    assert place.index is not None
    assert '"layer": 1' in place.index.read_text()
    assert '"layer": 8' not in place.index.read_text()
    result = healing.heal(patient, TEXT, OPTIONS, place)
    assert result.adapter == done.healing.adapter
    finished = healing.heal(patient, TEXT, OPTIONS, place)  # nothing is left to do
    assert finished.adapter == result.adapter
    assert [item.factors for item in finished.refitted] == [i.factors for i in result.refitted]


def test_outputs_are_refused_before_any_work(tiny: Model, tmp_path: Path) -> None:
    job = job_of(tiny, tmp_path)
    assert job.lora is not None
    job.lora.write_text("precious")
    with pytest.raises(OutputError, match=r"lora\.gguf: exists already"):
        heal(job)
    assert job.lora.read_text() == "precious"
    with pytest.raises(OutputError, match="twice"):
        heal(replace(job, lora=job.out))
    with pytest.raises(OutputError, match="is the input itself"):
        heal(replace(job, lora=TINY, force=True))
    with pytest.raises(UsageError, match="rank"):
        heal(replace(job, lora=None))
    assert not job.out.exists()


class Intruder(Progress):
    """Takes a name while the model is being copied."""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, ""

    def part(self, label: str) -> Progress:
        if label == "copy":
            self.path.write_text("precious")
        return Progress()


def test_both_files_or_none(tiny: Model, tmp_path: Path) -> None:
    job = job_of(tiny, tmp_path, replace(OPTIONS, n_layer=1))
    assert job.lora is not None
    with pytest.raises(OutputError, match="appeared meanwhile"):
        heal(job, Intruder(job.lora))
    assert [path.name for path in tmp_path.iterdir()] == ["lora.gguf"]
    job.lora.unlink()
    with pytest.raises(OutputError, match="appeared meanwhile"):
        heal(job, Intruder(job.out))
    assert [path.name for path in tmp_path.iterdir()] == ["healed.gguf"]


def test_without_a_change_there_is_no_adapter(tiny: Model, tmp_path: Path) -> None:
    """A ridge so large that no matrix gets better."""
    job = job_of(tiny, tmp_path, replace(OPTIONS, ridge=1e12, n_layer=1))
    with pytest.raises(VerificationError, match="no matrix was fitted"):
        heal(replace(job, force=True))
    assert not list(tmp_path.iterdir())


def test_what_is_no_adapter_is_not_loaded(folder: Path, done: Healed) -> None:
    with (
        LlamaModel(folder / "pruned.gguf", ONE_GRAPH) as model,
        pytest.raises(LlamaError, match=r"expect general\.type to be 'adapter'"),
    ):
        Adapter(model, TINY)


def test_the_command(tmp_path: Path) -> None:
    out, lora = tmp_path / "out.gguf", tmp_path / "lora.gguf"
    args = ("heal", TINY, out, "--prune-layers", "2,3,5", "-f", CALIBRATION, "-c", N_CTX,
            "--chunks", N_CHUNK, "-t", 1, "--refit-layers", 1, "--no-cache")  # fmt: skip
    failed = ggprune(*args, "--rank", 8)
    assert failed.returncode == 2
    assert "add --lora" in failed.stderr
    document = json.loads(succeed(*args, "--rank", 8, "--lora", lora, "--json"))
    assert document["healing"]["adapter"]["rank"] == 8
    assert document["lora"] == {"path": str(lora), "size_bytes": lora.stat().st_size}
    text = succeed(*args, "--rank", 8, "--lora", lora, "--force")
    (line,) = [line for line in text.splitlines() if line.startswith("adapter ")]
    assert "rank 8, " in line
    assert "(merged 0." in line
    assert line.endswith(f": {lora}")
    assert "costs decode speed" in text
    assert out.exists()
    assert open_model(lora).metadata["adapter.lora.alpha"].decode() == 8.0
    lora.unlink()
    out.unlink()
    succeed(*args, "--lora", lora, "--dry-run")
    assert not list(tmp_path.iterdir())
