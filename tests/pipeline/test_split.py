"""Split models, in and out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import OutputError
from ggprune.model import Model, open_model
from ggprune.pipeline import AS_INPUT, Job, planned, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.surgery import make_plan
from ggprune.surgery.layout import Split
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.split import split

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
