"""llama.cpp's quantizer pads to 32 bytes whatever a file says: such files are never given to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.errors import LlamaError
from ggprune.metrics.text import read_text
from ggprune.model import Model, open_model
from ggprune.model.gguf import read_gguf
from ggprune.pipeline import AutoOptions, Job, auto, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.scoring import DropRequest, Goal, Target
from ggprune.surgery import make_plan
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.gguf_files import FakeTensor, build, kv, kv_u32


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    """The trained model with its tensors aligned to 64 bytes."""
    file, data = read_gguf(TINY), TINY.read_bytes()
    kvs = [kv(k, v.type, bytes(v.raw)) for k, v in file.metadata.items()]
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in file.tensors
    ]
    source = tmp_path / "wide.gguf"
    source.write_bytes(build([*kvs, kv_u32("general.alignment", 64)], tensors, alignment=64))
    return open_model(source)


def test_another_alignment_is_pruned_but_not_quantized(wide: Model, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    plan, q8 = make_plan(wide, (2,)), QuantizeOptions("Q8_0")
    with pytest.raises(LlamaError, match="alignment = 64"):
        write(Job(model=wide, plan=plan, out=out, quantize=q8))
    with pytest.raises(LlamaError, match="alignment = 64"):
        write(Job(model=wide, out=out, quantize=q8))
    assert not out.exists()
    write(Job(model=wide, plan=plan, out=out))
    assert open_model(out).alignment == 64


def test_auto_leaves_the_rivals_out(wide: Model, tmp_path: Path) -> None:
    request = DropRequest(Target(Goal.LAYERS, 1))
    options = AutoOptions(request=request, n_ctx=128, n_chunk=2, n_prompt=8, n_gen=2, n_repeat=1)
    report = auto(
        wide,
        tmp_path / "out.gguf",
        options,
        calibration=read_text(CALIBRATION),
        evaluation=read_text(EVALUATION),
    )
    assert [row.name for row in report.rows] == ["base", "1 layer pruned"]
