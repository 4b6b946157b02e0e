from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ggprune.errors import FormatError
from ggprune.model.model import Model, open_model
from ggprune.model.names import block_of, rename_block
from tests.conftest import TINY
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32, layer_tensors, llama_kvs
from tests.split import split

NEXTN = "llama.nextn_predict_layers"


def test_names_of_layers() -> None:
    assert block_of("blk.12.attn_q.weight") == ("", 12)
    assert block_of("token_embd.weight") is None
    assert block_of("enc.blk.1.attn_q.weight") == ("enc.", 1)
    assert block_of("v.blk.1.attn_q.weight") is None
    assert rename_block("blk.12.ffn_down.scale", 3) == "blk.3.ffn_down.scale"


def test_a_split_model_is_the_same_model(tmp_path: Path, tiny: Model) -> None:
    shards = split(TINY, tmp_path, 3)
    for shard in shards:
        model = open_model(shard)
        assert [t.name for t in model.tensors] == [t.name for t in tiny.tensors]
        assert dict(model.metadata) == dict(tiny.metadata)
        assert model.fingerprint == tiny.fingerprint


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = split(TINY, tmp_path, 3)
    shards[1].unlink()
    with pytest.raises(FormatError, match=shards[1].name):
        open_model(shards[0])


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    shards = split(TINY, tmp_path, 2)
    shutil.move(shards[0], tmp_path / "renamed.gguf")
    with pytest.raises(FormatError, match="not named like"):
        open_model(tmp_path / "renamed.gguf")


def test_shards_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    first, second = split(TINY, tmp_path, 2)
    swap = tmp_path / "swap"
    first.rename(swap)
    second.rename(first)
    swap.rename(second)
    with pytest.raises(FormatError, match="says it is shard"):
        open_model(first)


def test_the_last_blocks_may_be_announced_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build([*llama_kvs(4), kv_u32(NEXTN, 2)], layer_tensors(2)))
    model = open_model(path)
    assert (model.n_layer, model.n_mtp) == (4, 2)
    assert [len(tensors) for tensors in model.layers] == [2, 2, 0, 0]


@pytest.mark.parametrize(
    ("kvs", "n_layer", "reason"),
    [
        ([kv_str("general.name", "x")], 1, "no general.architecture"),
        ([kv_str("general.architecture", "llama")], 1, "no llama.block_count"),
        (
            [kv_str("general.architecture", "llama"), kv_str("llama.block_count", "1")],
            1,
            "expected a whole number",
        ),
        (llama_kvs(1), 2, "behind llama.block_count"),
        (llama_kvs(3), 2, r"layers \[2\] have no tensors"),
        ([*llama_kvs(4), kv_u32(NEXTN, 1)], 2, r"layers \[2\] have no tensors"),
        ([*llama_kvs(2), kv_u32(NEXTN, 3)], 2, "nextn_predict_layers is 3, expected 0 to"),
        ([*llama_kvs(2), kv_u32(NEXTN, 0xFFFFFFFF)], 2, "expected 0 to 2"),
        ([*llama_kvs(2), kv_str(NEXTN, "1")], 2, "is '1', expected a whole number"),
        (llama_kvs(1 << 30), 2, "but there are 6 tensors"),
        ([kv_u32("general.architecture", 1), *llama_kvs(1)[1:]], 1, "expected a text"),
    ],
)
def test_layers_that_do_not_fit_the_metadata(
    tmp_path: Path, kvs: list[bytes], n_layer: int, reason: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build(kvs, layer_tensors(n_layer)))
    with pytest.raises(FormatError, match=reason):
        _ = open_model(path).layers


def test_sizes_of_quantized_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    q4_k = FakeTensor("t", bytes(144 * 2), shape=(256, 2), type=12)
    path.write_bytes(build([], [q4_k]))
    (tensor,) = open_model(path).tensors
    assert (tensor.size_bytes, tensor.n_element) == (288, 512)


def test_a_tensor_of_a_layer_with_5000_digits_is_behind_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    odd = FakeTensor(f"blk.{'9' * 5000}.attn_q.weight", bytes(32))
    path.write_bytes(build(llama_kvs(2), [*layer_tensors(2), odd]))
    with pytest.raises(FormatError, match=r"is behind llama\.block_count = 2"):
        _ = open_model(path).layers


@pytest.mark.parametrize("n_layer", [0, 513, 2**31 - 1, 2**32 - 1])
def test_a_depth_that_lies_is_seen_before_anything_is_built_of_it(
    tmp_path: Path, n_layer: int
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build(llama_kvs(n_layer)))
    with pytest.raises(FormatError, match=f"block_count = {n_layer}, but there are 0 tensors"):
        _ = open_model(path).n_layer


@pytest.mark.parametrize("key", ["split.count", "split.no", "split.tensors.count"])
def test_what_shards_say_is_a_number(tmp_path: Path, key: str) -> None:
    paths = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for i, path in enumerate(paths):
        said = {"split.count": kv_u32("split.count", 2), "split.no": kv_u32("split.no", i),
                "split.tensors.count": kv_u32("split.tensors.count", 2)}  # fmt: skip
        said[key] = kv_str(key, "2")
        path.write_bytes(build([*llama_kvs(1), *said.values()], [FakeTensor(f"t{i}", bytes(32))]))
    with pytest.raises(FormatError, match=f"{key} is '2', expected a whole number"):
        open_model(paths[0])


def test_many_missing_shards_are_named_in_a_few_words(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-65535.gguf"
    path.write_bytes(build([*llama_kvs(1), kv_u32("split.count", 65535)], layer_tensors(1)))
    with pytest.raises(FormatError, match=r"m-00002-of-65535\.gguf, .* and 65531 more$"):
        open_model(path)
