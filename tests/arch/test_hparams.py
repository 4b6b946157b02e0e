"""Numbers and arrays of the metadata are what the rules take them for, or the file is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ggprune.arch.hparams import Hparams
from ggprune.errors import FormatError
from ggprune.model.model import open_model
from tests.gguf_files import BOOL, F32, build, kv, kv_array, kv_str, kv_u32, layer_tensors

KEY = "{arch}.some_key"


def hparams_of(tmp_path: Path, *kvs: bytes) -> Hparams:
    path = tmp_path / "model.gguf"
    head = [kv_str("general.architecture", "llama"), kv_u32("llama.block_count", 2)]
    path.write_bytes(build([*head, *kvs], layer_tensors(2)))
    return Hparams(open_model(path))


def test_what_is_missing_has_the_default(tmp_path: Path) -> None:
    missing = hparams_of(tmp_path)
    assert (missing.integer(KEY, 3), missing.number(KEY, 0.5)) == (3, 0.5)
    assert missing.per_layer(KEY) is None


def test_an_array_says_something_of_each_layer(tmp_path: Path) -> None:
    flags = hparams_of(tmp_path, kv_array("llama.some_key", BOOL, 2, b"\1\0"))
    assert flags.per_layer(KEY) == (True, False)
    with pytest.raises(FormatError, match=r"an array of 2 x BOOL, expected a whole number"):
        flags.integer(KEY, 3)


def test_an_array_shorter_than_the_model_is_refused(tmp_path: Path) -> None:
    flags = hparams_of(tmp_path, kv_array("llama.some_key", BOOL, 1, b"\1"))
    with pytest.raises(FormatError, match=r"some_key has 1 entries, expected block_count = 2"):
        flags.per_layer(KEY)


def test_there_are_no_more_mtp_blocks_than_layers(tmp_path: Path) -> None:
    hparams = hparams_of(tmp_path, kv_u32("llama.nextn_predict_layers", (1 << 31) - 1))
    with pytest.raises(FormatError, match=r"is 2147483647, expected 0 to 2"):
        _ = hparams.n_trunk


@pytest.mark.parametrize("number", [2.5, float("inf"), float("nan")])
def test_a_fraction_is_no_whole_number(number: float, tmp_path: Path) -> None:
    hparams = hparams_of(tmp_path, kv("llama.some_key", F32, struct.pack("<f", number)))
    with pytest.raises(FormatError, match=r"llama\.some_key is .*, expected a whole number"):
        hparams.integer(KEY)


def test_text_is_no_number(tmp_path: Path) -> None:
    hparams = hparams_of(tmp_path, kv_str("llama.some_key", "many"))
    with pytest.raises(FormatError, match=r"llama\.some_key is 'many', expected a whole number"):
        hparams.integer(KEY)


def test_fractions_are_no_flags(tmp_path: Path) -> None:
    fractions = kv_array("llama.some_key", F32, 2, struct.pack("<2f", 0.0, 1.0))
    with pytest.raises(FormatError, match="expected an array of whole numbers"):
        hparams_of(tmp_path, fractions).per_layer(KEY)
