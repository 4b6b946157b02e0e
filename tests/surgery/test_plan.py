from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import to_text
from ggprune.model.cut import Cut, Piece, parse_units
from ggprune.model.model import Model, open_model
from ggprune.model.newlayer import NewLayer, whole
from ggprune.model.unit import Unit
from ggprune.pipeline.job import Job, planned
from ggprune.surgery.plan import load_plan, make_plan, read_plan
from tests.gguf_files import (
    I32,
    build,
    kv,
    kv_array,
    kv_str,
    kv_u32,
    layer_tensors,
    llama_kvs,
)


def test_a_plan_survives_json(tmp_path: Path, tiny: Model) -> None:
    plan = make_plan(tiny, (5, 2))
    assert (plan.drop, plan.keep) == ((2, 5), (0, 1, 3, 4, 6, 7, 8))
    path = tmp_path / "plan.json"
    path.write_text(to_text(plan))
    assert load_plan(path, tiny) == plan


def test_what_a_plan_says_is_looked_at_again(tmp_path: Path, tiny: Model) -> None:
    plan = make_plan(tiny, Cut.of((2, 5)))
    assert plan == make_plan(tiny, (5, 2))
    assert json.loads(to_text(plan))["drop"] == [2, 5]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(to_text(plan)) | {"drop": [2, "5f"]}))
    assert read_plan(path).cut == Cut((Piece(2), Piece(5, Unit.FFN)))
    assert load_plan(path, tiny).out_arch == "deci"
    path.write_text(json.dumps(json.loads(to_text(plan)) | {"drop": [2, "5e1"]}))
    with pytest.raises(DataError, match="layer 5 cannot lose 1 experts of n_expert = 0"):
        load_plan(path, tiny)
    path.write_text(json.dumps(json.loads(to_text(plan)) | {"drop": [2, "5e1"], "n_expert": 4}))
    with pytest.raises(ArchitectureError, match="not exact for llama: it has no experts"):
        load_plan(path, tiny)


def test_a_run_of_units_is_a_plan(tmp_path: Path, tiny: Model) -> None:
    """The layer in its place has the attention of the one and the FFN of the other."""
    plan = make_plan(tiny, parse_units("1,3f-5a", 9))
    assert json.loads(to_text(plan))["drop"] == [1, "3f", 4, "5a"]
    path = tmp_path / "plan.json"
    path.write_text(to_text(plan))
    assert load_plan(path, tiny) == plan
    assert plan.layers == (*whole(0, 2), NewLayer(3, 5), *whole(6, 7, 8))
    assert plan.renamed("blk.3.attn_q.weight") == "blk.2.attn_q.weight"
    assert plan.renamed("blk.5.ffn_norm.weight") == "blk.2.ffn_norm.weight"
    assert plan.renamed("blk.3.ffn_up.weight") is plan.renamed("blk.4.attn_norm.weight") is None
    assert plan.renamed("output_norm.weight") == "output_norm.weight"
    with pytest.raises(ArchitectureError, match="only whole layers can be dropped"):
        _ = plan.drop


def test_both_halves_of_a_layer_are_the_layer(tiny: Model) -> None:
    halves = Cut.of([4], Unit.ATTN) | Cut.of([4], Unit.FFN)
    assert make_plan(tiny, halves) == make_plan(tiny, (4,))


def test_a_plan_is_for_one_model(tmp_path: Path, tiny: Model, dead: Model) -> None:
    path = tmp_path / "plan.json"
    path.write_text(to_text(make_plan(dead, (4,))))
    with pytest.raises(DataError, match="another model"):
        load_plan(path, tiny)


def test_a_plan_is_not_carried_out_on_another_model(
    tmp_path: Path, tiny: Model, dead: Model
) -> None:
    with pytest.raises(DataError, match="made for another model"):
        planned(Job(model=tiny, plan=make_plan(dead, (4,)), out=tmp_path / "out.gguf"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ggprune_plan": 1}, DataError),
        ({"drop": "3"}, DataError),
        ({"drop": ["3"]}, DataError),
        ({"drop": ["x"]}, DataError),
        ({"drop": [-1]}, UsageError),
        ({"drop": [True]}, DataError),
        ({"drop": [9]}, UsageError),
        ({"drop": [1, 1]}, UsageError),
        ({"drop": list(range(9))}, UsageError),
    ],
)
def test_a_damaged_plan_is_refused(
    tmp_path: Path, tiny: Model, change: dict[str, object], error: type[Exception]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(to_text(make_plan(tiny, (1,)))) | change))
    with pytest.raises(error):
        load_plan(path, tiny)


def test_what_is_no_plan_at_all(tmp_path: Path, tiny: Model) -> None:
    for content in ("", "[]", '{"drop": [1]}'):
        path = tmp_path / "plan.json"
        path.write_text(content)
        with pytest.raises(DataError, match="not a ggprune plan"):
            load_plan(path, tiny)
    with pytest.raises(DataError, match="cannot be read"):
        load_plan(tmp_path / "missing.json", tiny)


@pytest.mark.parametrize(
    ("arch", "extra", "reason"),
    [
        ("kimi-k3", [], "bank of earlier residuals"),
        ("no-such-arch", [], "nothing is known about architecture no-such-arch"),
        ("hrm_text", [], "used several times over"),
        ("glm4", [kv_u32("glm4.nextn_predict_layers", 2)], "MTP.*stay or go together"),
        ("minimax-01", [], "decay"),
        (
            "llama",
            [kv_array("llama.new_thing", I32, 3, bytes(12))],
            "llama.new_thing has one entry per layer",
        ),
    ],
)
def test_architectures_that_are_not_known_to_be_safe_are_refused(
    tmp_path: Path, arch: str, extra: list[bytes], reason: str
) -> None:
    path = tmp_path / "model.gguf"
    kvs = [kv_str("general.architecture", arch), kv_u32(f"{arch}.block_count", 3), *extra]
    path.write_bytes(build(kvs, layer_tensors(3)))
    with pytest.raises(ArchitectureError, match=reason):
        make_plan(open_model(path), (1,))


def test_nothing_to_drop_needs_no_knowledge(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build(llama_kvs(2), layer_tensors(2)))
    assert make_plan(open_model(path), ()).keep == (0, 1)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ('"n_layer": 9', '"n_layer": 1e999'),
        ('"n_layer": 9', '"n_layer": NaN'),
        ('"n_layer": 9', '"n_layer": ' + "9" * 5000),
        ('"n_layer": 9', '"n_layer": 8'),
        ('"n_layer": 9', '"n_layer": ' + str(2**31)),
        ('"arch": "llama"', '"arch": "\\ud800"'),
        ('"arch": "llama"', '"arch": ' + "[" * 200_000),
        ('"ggprune_plan": 2', '"ggprune_plan": Infinity'),
    ],
)
def test_values_that_no_plan_has_are_one_error(
    tmp_path: Path, tiny: Model, place: str, text: str
) -> None:
    path, right = tmp_path / "plan.json", to_text(make_plan(tiny, (1,)))
    assert place in right
    path.write_text(right.replace(place, text))
    with pytest.raises(DataError, match=r"plan\.json: "):
        read_plan(path)


def test_a_plan_without_its_model_has_layers_that_are_there(tmp_path: Path, tiny: Model) -> None:
    """`remap` has no model to find it out."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(to_text(make_plan(tiny, (1,)))) | {"drop": [9]}))
    with pytest.raises(UsageError, match=r"\[9\] are not distinct layers of 0 to 8"):
        read_plan(path)


def test_an_architecture_whose_name_is_not_utf_8_survives_json(tmp_path: Path) -> None:
    source, path = tmp_path / "model.gguf", tmp_path / "plan.json"
    named = [kv_str("general.architecture", b"x\xff"), kv(b"x\xff.block_count", 4, b"\3\0\0\0")]
    source.write_bytes(build(named, layer_tensors(3)))
    model = open_model(source)
    plan = make_plan(model, (1,), trust=True)
    path.write_bytes(to_text(plan).encode("utf-8"))
    assert load_plan(path, model) == plan
