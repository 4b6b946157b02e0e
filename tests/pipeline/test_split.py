"""Split models, in and out."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import FormatError, OutputError
from ggprune.model.gguf import read_gguf
from ggprune.model.model import SPLIT_SET, Model, open_model
from ggprune.pipeline.job import AS_INPUT, Job, planned, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.surgery.layout import Split, shard_names
from ggprune.surgery.plan import make_plan
from tests.conftest import TINY
from tests.gguf_files import FakeTensor, build, kv, kv_str
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.split import split
from tests.systems import kills

DROP = (2, 5)


def same_content(a: Model, b: Model) -> bool:
    data = {path: path.read_bytes() for path in {t.path for t in (*a.tensors, *b.tensors)}}

    def contents(model: Model) -> list[tuple[str, bytes]]:
        return [(t.name, data[t.path][t.offset : t.offset + t.size_bytes]) for t in model.tensors]

    return contents(a) == contents(b) and dict(a.metadata) == dict(b.metadata)


@pytest.mark.parametrize("limit", [Split(max_tensors=20), Split(max_bytes=2_000_000)])
def test_shards_are_the_whole(tiny: Model, tmp_path: Path, limit: Split) -> None:
    job = Job(model=tiny, plan=make_plan(tiny, DROP), out=tmp_path / "out.gguf", split=limit)
    done = write(job)  # llama.cpp loads it as well
    n = len(done.paths)
    assert n > 2
    names = [f"out-{i + 1:05}-of-{n:05}.gguf" for i in range(n)]
    assert [path.name for path in done.paths] == names
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    whole = pruned_copy(tiny, DROP, tmp_path / "whole.gguf")
    shards = open_model(done.paths[1])
    assert same_content(whole, shards)
    assert done.size_bytes == sum(path.stat().st_size for path in done.paths)
    assert planned(job) == done
    for file in shards.files:
        n_byte = sum(t.size_bytes for t in file.tensors)
        assert len(file.tensors) <= (limit.max_tensors or 1000)
        assert len(file.tensors) == 1 or n_byte <= (limit.max_bytes or n_byte)
    tokens = random_tokens(100, 64)
    assert np.array_equal(logits_of(done.paths[0], tokens, 32), logits_of(whole.path, tokens, 32))


def test_the_inputs_division_is_kept_and_empty_shards_vanish(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shards = split(tiny.path, tmp_path / "in", 8)
    model = open_model(shards[0])
    third = {model.layer_of(t.name) for t in model.files[3].tensors} - {None}
    drop = tuple(sorted(n for n in third if n is not None))
    plan, out = make_plan(model, drop), tmp_path / "out.gguf"
    done = write(Job(model=model, plan=plan, out=out, split=AS_INPUT))
    assert 1 < len(done.paths) < len(shards)
    whole = pruned_copy(tiny, drop, tmp_path / "whole.gguf")
    assert [t.name for t in open_model(done.paths[0]).tensors] == [t.name for t in whole.tensors]


def test_quantized_and_split(tiny: Model, tmp_path: Path) -> None:
    whole = Job(model=tiny, plan=make_plan(tiny, DROP), out=tmp_path / "whole.gguf",
                quantize=QuantizeOptions("Q8_0"))  # fmt: skip
    done = write(replace(whole, out=tmp_path / "out.gguf", split=Split(max_tensors=30)))
    write(whole)
    assert len(done.paths) == 3
    assert same_content(open_model(tmp_path / "whole.gguf"), open_model(done.paths[0]))


def test_no_shard_is_overwritten_or_left_alone(tiny: Model, tmp_path: Path) -> None:
    plan, out = make_plan(tiny, DROP), tmp_path / "out.gguf"
    job = Job(model=tiny, plan=plan, out=out, split=Split(max_tensors=30))
    names = planned(job).paths
    names[-1].write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        write(job)
    assert [p.name for p in tmp_path.iterdir()] == [names[-1].name]
    assert names[-1].read_text() == "mine"
    write(replace(job, force=True))
    assert open_model(names[0]).n_layer == 7


def test_a_requantized_split_never_replaces_its_input(tiny: Model, tmp_path: Path) -> None:
    shards = split(tiny.path, tmp_path, 2)
    before = [shard.read_bytes() for shard in shards]
    model = open_model(shards[0])
    job = Job(
        model=model, plan=make_plan(model, (4,)), out=tmp_path / "model.gguf",
        quantize=QuantizeOptions("Q8_0"), split=AS_INPUT, force=True,
    )  # fmt: skip
    with pytest.raises(OutputError, match="is the input itself"):
        write(job)
    assert [shard.read_bytes() for shard in shards] == before
    done = write(replace(job, out=tmp_path / "q8.gguf", force=False))
    assert len(done.paths) == len(shards)
    where = {
        t.name: i for i, file in enumerate(open_model(done.paths[0]).files) for t in file.tensors
    }
    assert (where["token_embd.weight"], where["blk.0.attn_q.weight"]) == (0, 0)
    assert (where["output_norm.weight"], where["blk.7.attn_q.weight"]) == (1, 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from ggprune.files.outputs import PendingFile
from ggprune.model.model import open_model
from ggprune.pipeline.job import Job, write
from ggprune.surgery.layout import Split
from ggprune.surgery.plan import make_plan

def killed(file, *, force, publish=PendingFile.publish):
    if file.target.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    publish(file, force=force)

if __name__ == "__main__":
    PendingFile.publish = killed
    model = open_model(sys.argv[1])
    write(Job(
        model=model, plan=make_plan(model, (2,)), out=Path(sys.argv[2]),
        split=Split(max_tensors=30), force=True, check_load=False,
    ))
"""


@kills
@pytest.mark.parametrize("made_by", ["ggprune", "others"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_between_two_renames_is_noticed(
    tiny: Model, tmp_path: Path, number: int, made_by: str
) -> None:
    """Shards of another pruning are there; the run that replaces them is killed at one."""
    out, folder = tmp_path / "out" / "model.gguf", tmp_path / "out"
    folder.mkdir()
    job = Job(model=tiny, plan=make_plan(tiny, (5,)), out=out, split=Split(max_tensors=30))
    names = planned(job).paths
    assert len(names) == 3
    if made_by == "ggprune":
        write(job)
    else:
        split(pruned_copy(tiny, (5,), tmp_path / "whole.gguf").path, folder, 3)
    before = {path: path.read_bytes() for path in names}
    open_model(names[0])
    at = names[number - 1].name
    done = subprocess.run([sys.executable, "-c", KILLED, TINY, out, at], check=False)
    assert done.returncode == -signal.SIGKILL
    changed = {path for path in names if path.read_bytes() != before[path]}
    assert changed == set(names[number:])
    if changed:
        with pytest.raises(FormatError, match="a run that replaced the shards was ended"):
            open_model(names[0])
    else:
        assert open_model(names[0]).n_layer == 8
    again = replace(job, plan=make_plan(tiny, (2,)), force=True)
    write(again)
    assert sorted(folder.iterdir()) == list(names)
    whole = pruned_copy(tiny, (2,), tmp_path / "expected.gguf")
    assert open_model(names[0]).fingerprint == whole.fingerprint


def test_shards_name_the_fingerprint_of_the_whole(tiny: Model, tmp_path: Path) -> None:
    job = Job(model=tiny, plan=make_plan(tiny, DROP), out=tmp_path / "o.gguf", split=Split(None, 9))
    paths = write(job).paths
    named = {read_gguf(path).metadata[SPLIT_SET].decode() for path in paths}
    assert named == {open_model(paths[0]).fingerprint}
    assert SPLIT_SET not in open_model(paths[0]).metadata


def test_what_others_divided_again_is_still_opened(tiny: Model, tmp_path: Path) -> None:
    """llama-gguf-split copies the first shard's metadata: our mark with it, which is void then."""
    shards = split(TINY, tmp_path, 3)
    file = read_gguf(shards[0])
    data = shards[0].read_bytes()
    kvs = [kv(k, v.type, bytes(v.raw)) for k, v in file.metadata.items()]
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in file.tensors
    ]
    shards[0].write_bytes(build([*kvs, kv_str(SPLIT_SET, "f" * 64)], tensors))
    assert open_model(shards[1]).fingerprint == tiny.fingerprint


def test_a_name_that_is_a_shards_stands_for_the_set(tmp_path: Path) -> None:
    def names(name: str, n: int) -> list[str]:
        return [path.name for path in shard_names(tmp_path / name, n)]

    assert names("x-00001-of-00003.gguf", 2) == ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]
    assert names("x-00002-of-00003.GGUF", 2) == names("x.gguf", 2) == names("x.GGUF", 2)
    assert names("x.bin", 2)[0] == "x.bin-00001-of-00002.gguf"
    assert names("x-00001-of-00003.gguf", 1) == ["x-00001-of-00003.gguf"]


def test_shards_with_names_in_capitals(tiny: Model, tmp_path: Path) -> None:
    for path in split(TINY, tmp_path, 3):
        path.rename(path.with_name(path.name.replace(".gguf", ".GGUF")))
    model = open_model(tmp_path / "model-00002-of-00003.GGUF")
    assert same_content(model, tiny)
    tokens = random_tokens(1024, 8)
    assert np.array_equal(logits_of(model.path, tokens, 8), logits_of(TINY, tokens, 8))
    out, other = tmp_path / "out.gguf", tmp_path / "other.gguf"
    write(Job(model=model, out=out, quantize=QuantizeOptions("Q8_0")))
    write(Job(model=tiny, out=other, quantize=QuantizeOptions("Q8_0")))
    assert same_content(open_model(out), open_model(other))
