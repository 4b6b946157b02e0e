"""Files without the multi-token-prediction (MTP) block that their metadata announces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.hparams import mtp_blocks
from ggprune.model.cut import parse_cut
from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import Value
from ggprune.model.model import Model, open_model
from ggprune.surgery.contents import prunings_of
from tests.arch.families import NEXTN, Family, flags, u32
from tests.cli.test_cli import succeed
from tests.conftest import CALIBRATION, TINY
from tests.gguf_files import FakeTensor, build, kv
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.quantize.test_quantizer import legacy_imatrix

TOKENIZER = {
    key: value for key, value in read_gguf(TINY).metadata.items() if key.startswith("tokenizer.")
}
CHANGES: Mapping[str, Value | None] = {
    **TOKENIZER,
    "tokenizer.ggml.token_type_count": None,
    "tokenizer.ggml.scores": None,
    "{arch}.vocab_size": u32(len(TOKENIZER["tokenizer.ggml.tokens"].decode())),
    NEXTN: u32(1),
}
DONORS = {
    "glm4moe": "qwen3moe",
    "hy_v3": "qwen3moe",
    "deepseek2": "deepseek32",
    "deepseek32": "deepseek32",
    "glm-dsa": "deepseek32",
    "cohere2moe": "cohere2moe",
    "mimo2": "gemma3",
}
MEASURE = ("-f", CALIBRATION, "-c", 64, "--chunks", 2, "-t", 1)


def trunk_only(arch: str, folder: Path) -> Model:
    """Random weights of eleven layers; the twelfth, an MTP block, is announced and left out."""
    indexers = flags(*[1] * 11)  # glm-dsa's, of all layers but the MTP block
    changes = {**CHANGES, "{arch}.attention.indexer.types": indexers}
    whole = Family(arch, DONORS[arch], arch, changes).make(folder)
    stored = whole.path.read_bytes()
    tensors = [
        FakeTensor(t.name, stored[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in whole.tensors
        if whole.layer_of(t.name) != 11
    ]
    path = folder / f"{arch}.gguf"
    path.write_bytes(
        build([kv(k, v.type, bytes(v.raw)) for k, v in whole.metadata.items()], tensors)
    )
    return open_model(path)


@pytest.mark.parametrize("arch", DONORS)
def test_it_computes_without_its_layers_as_it_would_without_the_block(
    arch: str, tmp_path: Path
) -> None:
    model = trunk_only(arch, tmp_path)
    assert list(mtp_blocks(model)) == [11]
    assert model.layers[11] == ()
    kept = pruned_copy(model, (3, 7), tmp_path / "kept.gguf")
    assert (kept.n_layer, kept.n_mtp, kept.layers[-1]) == (10, 1, ())
    dropped = pruned_copy(model, (3, 7, 11), tmp_path / "dropped.gguf")
    assert (dropped.n_layer, dropped.n_mtp) == (9, 0)
    tokens = random_tokens(1024, 64)
    logits = [logits_of(m.path, tokens, 32) for m in (model, kept, dropped)]
    assert np.array_equal(logits[1], logits[2])
    assert not np.array_equal(logits[0], logits[1])


def test_every_command_takes_it(tmp_path: Path) -> None:
    model = trunk_only("deepseek2", tmp_path)
    path, out = model.path, tmp_path / "out.gguf"
    assert "not in the file, MTP" in succeed("inspect", path)
    succeed("prune", path, out, "--prune-layers", 2)
    assert open_model(out).n_mtp == 1
    succeed("prune", path, out, "--prune-layers", 2, "--drop-mtp", "--force")
    assert open_model(out).n_mtp == 0
    ranking = tmp_path / "scores.json"
    succeed("rank", path, *MEASURE, "--drop", 1, "-o", ranking)
    dropped = parse_cut(json.loads(ranking.read_text("utf-8"))["chosen"]["drop"])
    succeed("prune", path, out, "--scores", ranking, "--drop", 1, "--force")
    (pruning,) = prunings_of(open_model(out))
    assert pruning.drop == dropped
    succeed("choose", ranking, "--drop", 2, "--strategy", "greedy")
    imatrix = legacy_imatrix(tmp_path / "imatrix.dat", model)
    succeed("quantize", path, out, "Q8_0", "--imatrix", imatrix, "--force")
    assert open_model(out).n_mtp == 1
    succeed("bench", path, "--roofline", "-p", 8, "-n", 2, "-r", 1, "-t", 1)
    auto = ("auto", path, out, *MEASURE, "--drop", 1, "--strategy", "greedy", "--type", "Q8_0")
    succeed(*auto, "-p", 8, "-n", 2, "-r", 1, "--eval-chunks", 4, "--force")
    assert (open_model(out).n_layer, open_model(out).n_mtp) == (11, 1)
