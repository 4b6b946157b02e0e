"""Files whose tensors are aligned to other than 32 bytes, which are all that llama.cpp maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.metrics.text import read_text
from ggprune.model.fingerprint import fingerprint
from ggprune.model.gguf import read_gguf
from ggprune.model.model import Model, open_model
from ggprune.pipeline.auto import auto
from ggprune.pipeline.job import Job, write
from ggprune.pipeline.options import AutoOptions
from ggprune.quantize.options import QuantizeOptions
from ggprune.scoring.target import DropRequest, Goal, Target
from ggprune.surgery.layout import Split
from ggprune.surgery.plan import make_plan
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.gguf_files import FakeTensor, build, kv, kv_u32


def aligned(folder: Path, alignment: int) -> Model:
    """The trained model with another alignment."""
    file, data = read_gguf(TINY), TINY.read_bytes()
    kvs = [kv(k, v.type, bytes(v.raw)) for k, v in file.metadata.items()]
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in file.tensors
    ]
    path = folder / f"aligned-{alignment}.gguf"
    stated = kv_u32("general.alignment", alignment)
    path.write_bytes(build([*kvs, stated], tensors, alignment=alignment))
    return open_model(path)


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return aligned(tmp_path, 64)


def test_another_alignment_is_kept_until_it_is_quantized(wide: Model, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    plan, q8 = make_plan(wide, (2,)), QuantizeOptions("Q8_0")
    assert not write(Job(model=wide, plan=plan, out=out)).notes
    assert open_model(out).alignment == 64
    done = write(Job(model=wide, plan=plan, out=tmp_path / "pruned.gguf", quantize=q8))
    assert done.notes[0].startswith("general.alignment is 32 now, it was 64")
    assert open_model(done.paths[0]).alignment == 32
    done = write(Job(model=wide, out=tmp_path / "whole.gguf", quantize=q8))
    write(Job(model=open_model(TINY), out=tmp_path / "same.gguf", quantize=q8))
    written, expected = open_model(done.paths[0]), open_model(tmp_path / "same.gguf")
    assert fingerprint({}, written.tensors) == fingerprint({}, expected.tensors)


@pytest.mark.parametrize("alignment", [8, 16])
@pytest.mark.parametrize("drop", [(), (2,), (3, 4), (1, 2, 3), (1, 5)])
def test_a_model_that_loads_gives_one_that_loads(
    tmp_path: Path, alignment: int, drop: tuple[int, ...]
) -> None:
    narrow = aligned(tmp_path, alignment)
    done = write(Job(model=narrow, plan=make_plan(narrow, drop), out=tmp_path / "out.gguf"))
    result = open_model(done.paths[0])
    assert result.alignment == 32
    assert result.files[0].data_offset % 32 == 0
    assert done.notes[0].startswith("general.alignment is 32 now")


@pytest.mark.parametrize("alignment", [16, 64, 4096])
def test_shards_say_how_they_are_aligned(tmp_path: Path, alignment: int) -> None:
    model = aligned(tmp_path, alignment)
    job = Job(
        model=model, plan=make_plan(model, (2,)), out=tmp_path / "s.gguf", split=Split(None, 30)
    )
    done = write(job)
    assert len(done.paths) == 3
    shards = [read_gguf(path) for path in done.paths]
    assert {shard.alignment for shard in shards} == {max(alignment, 32)}
    one = write(Job(model=model, plan=make_plan(model, (2,)), out=tmp_path / "one.gguf"))
    assert open_model(done.paths[1]).fingerprint == open_model(one.paths[0]).fingerprint


def test_auto_has_rivals(wide: Model, tmp_path: Path) -> None:
    request = DropRequest(Target(Goal.LAYERS, 1))
    options = AutoOptions(request=request, n_ctx=128, n_chunk=2, n_prompt=8, n_gen=2, n_repeat=1)
    report = auto(
        wide,
        tmp_path / "out.gguf",
        options,
        calibration=read_text(CALIBRATION),
        evaluation=read_text(EVALUATION),
    )
    assert [row.name for row in report.rows][:1] == ["base"]
