"""What llama.cpp makes of sources and results: who is blamed, and what is written then."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import LlamaAbortError, LlamaError, OutputError, VerificationError
from ggprune.files.outputs import PendingFile
from ggprune.model.gguf import read_gguf
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, write
from ggprune.progress import Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.isolate import isolated
from ggprune.runtime.probe import Sense, probe
from ggprune.surgery.contents import Replacement
from ggprune.surgery.plan import make_plan
from tests.conftest import TINY
from tests.gguf_files import F32, FakeTensor, build, kv

Q4 = QuantizeOptions("Q4_K_M")


def edited(path: Path, metadata: dict[str, bytes] | None = None, *more: FakeTensor) -> Model:
    """The trained model with other metadata, or with tensors besides."""
    file, data = read_gguf(TINY), TINY.read_bytes()
    kvs = {k: kv(k, v.type, bytes(v.raw)) for k, v in file.metadata.items()} | (metadata or {})
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in file.tensors
    ]
    path.write_bytes(build(list(kvs.values()), [*tensors, *more]))
    return open_model(path)


class NoWork(Progress):
    def step(self, done: int, total: int) -> None:
        raise AssertionError("something is copied")


@pytest.mark.parametrize("is_pruned", [True, False])
def test_quantizing_does_not_hide_what_is_not_finite(tmp_path: Path, is_pruned: bool) -> None:
    key = "llama.rope.freq_base"
    model = edited(tmp_path / "in.gguf", {key: kv(key, F32, struct.pack("<f", np.nan))})
    plan = make_plan(model, (2,)) if is_pruned else None
    job = Job(model=model, out=tmp_path / "out.gguf", plan=plan, quantize=Q4)
    with pytest.raises(VerificationError, match=r"in\.gguf: its logits are not finite"):
        write(job, NoWork())
    with pytest.raises(VerificationError, match=r"in\.gguf: its logits are not finite"):
        write(replace(job, quantize=None))
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


@pytest.mark.parametrize("quantize", [None, Q4])
def test_a_source_that_llama_cpp_refuses_is_blamed_before_any_work(
    tmp_path: Path, quantize: QuantizeOptions | None
) -> None:
    model = edited(tmp_path / "in.gguf", None, FakeTensor("v.patch_embd.weight", bytes(32)))
    job = Job(
        model=model, out=tmp_path / "out.gguf", plan=make_plan(model, (2,)), quantize=quantize
    )
    with pytest.raises(LlamaError, match=r"in\.gguf: llama\.cpp cannot load it"):
        write(job, NoWork())
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


def test_a_source_that_ends_llama_cpp_is_blamed(tmp_path: Path) -> None:
    key = "llama.attention.layer_norm_rms_epsilon"
    model = edited(tmp_path / "in.gguf", {key: kv(key, F32, struct.pack("<f", -1.0))})
    with pytest.raises(LlamaAbortError, match=r"in\.gguf: llama\.cpp was ended by SIGABRT"):
        write(Job(model=model, out=tmp_path / "out.gguf", plan=make_plan(model, (2,))))
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


def zeros(tiny: Model, name: str, path: Path) -> Replacement:
    """The tensor with zeros in place of its values."""
    tensor = tiny.by_name[name]
    path.write_bytes(bytes(tensor.size_bytes))
    return Replacement({name: replace(tensor, path=path, offset=0)}, {})


def test_logits_that_are_all_the_same_are_not_kept(tmp_path: Path, tiny: Model) -> None:
    out = tmp_path / "out.gguf"
    job = Job(model=tiny, out=out, replaced=zeros(tiny, "output_norm.weight", tmp_path / "zeros"))
    with pytest.raises(VerificationError, match=r"not kept.*the same for all tokens"):
        write(job)
    assert not out.exists()
    write(replace(job, check_load=False))
    assert isolated(probe, [out]) is Sense.CONSTANT
    silent = open_model(out)  # of such a model the result may be such a one
    write(Job(model=silent, out=tmp_path / "pruned.gguf", plan=make_plan(silent, (2,))))
    write(Job(model=silent, out=tmp_path / "q4.gguf", quantize=Q4))


def test_what_is_published_with_a_model_fails_with_it(tmp_path: Path, tiny: Model) -> None:
    beside = tmp_path / "adapter.gguf"
    with PendingFile(beside) as adapter:
        beside.write_bytes(b"somebody else's")
        with pytest.raises(OutputError, match=r"adapter\.gguf: appeared meanwhile"):
            write(Job(model=tiny, out=tmp_path / "out.gguf", check_load=False), also=[adapter])
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.gguf"]
    assert beside.read_bytes() == b"somebody else's"
