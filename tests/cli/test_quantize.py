"""`ggprune quantize`, and how `prune` and `auto` are told to quantize."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.model.model import open_model
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, EVALUATION, TINY


def made(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.type.name for tensor in open_model(path).tensors}


def test_all_that_can_be_said_in_one_call(tmp_path: Path) -> None:
    rules, out = tmp_path / "rules.txt", tmp_path / "out.gguf"
    rules.write_text("attn_k=q6_k\nffn_gate=q5_k")
    args = (
        "quantize", TINY, out, "15", "--tensor-type", r"blk\.0\.attn_k=q8_0",
        "--tensor-type-file", rules, "--token-embedding-type", "q4_k", "--override-kv",
        "general.name=str:small", "--max-buffer-size", "1", "-t", "1", "--json",
    )  # fmt: skip
    announced = json.loads(succeed(*args, "--dry-run"))["out"]
    assert not out.exists()
    written = json.loads(succeed(*args, "--no-verify"))
    assert written["out"] == announced | {"written": True}
    assert (written["type"], written["out"]["size_bytes"]) == ("Q4_K_M", out.stat().st_size)
    types = made(out)
    assert (types["blk.0.attn_k.weight"], types["blk.1.attn_k.weight"]) == ("Q8_0", "Q6_K")
    assert (types["blk.3.ffn_gate.weight"], types["token_embd.weight"]) == ("Q5_K", "Q4_K")
    assert open_model(out).text("general.name") == "small"


def test_prune_takes_them_too(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = (
        "--prune-layers", "3-4", TINY, out, "--type", "q4_k_s", "--tensor-type",
        r"blk\.5\.attn_k=q8_0", "--bump-interface", "q5_k", "--no-verify",
    )  # fmt: skip
    shown = succeed(*args)
    assert "tensors beside the cuts are stored in Q5_K instead of less" in shown
    assert str(out.stat().st_size) in shown
    types = made(out)
    assert types["blk.3.attn_k.weight"] == "Q8_0"
    assert types["blk.2.ffn_up.weight"] == types["blk.3.ffn_up.weight"] == "Q5_K"
    assert types["blk.1.ffn_up.weight"] == types["blk.4.ffn_up.weight"] == "Q4_K"


def test_auto_takes_them_too(tmp_path: Path) -> None:
    out, texts = tmp_path / "out.gguf", (tmp_path / "a.txt", tmp_path / "b.txt")
    for path, long in zip(texts, (CALIBRATION, EVALUATION), strict=True):
        path.write_text(long.read_text()[:3000])
    succeed(
        "auto", TINY, out, "--drop", "1", "--strategy", "oneshot", "-f", texts[0], "--eval-file",
        texts[1], "-c", "128", "-p", "8", "-n", "2", "-r", "1", "--json", "-t", "1", "--type",
        "Q4_K_S", "--tensor-type", r"blk\.8\.attn_k=q8_0",
    )  # fmt: skip
    assert made(out)["blk.7.attn_k.weight"] == "Q8_0"


def test_llama_quantizes_command_lines(tmp_path: Path) -> None:
    """Without a name, by a type's number, and with threads behind the type."""
    source = tmp_path / "in.gguf"
    source.write_bytes(TINY.read_bytes())
    succeed("quantize", source, "7", "2", "--no-verify")
    named = tmp_path / "named.gguf"
    succeed("quantize", TINY, named, "q8_0", "1", "--no-verify")
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["ggml-model-Q8_0.gguf", "in.gguf", "named.gguf"]
    assert (tmp_path / "ggml-model-Q8_0.gguf").read_bytes() == named.read_bytes()


def test_words_that_make_no_sense_to_quantize(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    for words, said in (
        ((out,), "say the type behind"), ((out, "Q9_9"), "not a quantization type"),
        ((out, "Q8_0", "many"), "behind the type comes the number of threads"),
        ((out, "Q8_0", "8", "9"), "behind the type comes the number of threads"),
        ((out, "Q8_0", "8", "-t", "2"), "-t 2 or 8 behind the type, not both"),
        ((out, "Q8_0", "--prune-layers", "3"), "ggprune prune --prune-layers ... --type TYPE"),
    ):  # fmt: skip
        done = ggprune("quantize", TINY, *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("quantize", "Q8_0", "--tensor-type", "nonsense"), "write REGEX=TYPE"),
        (("quantize", "Q8_0", "--tensor-type", "a=Q9"), "'Q9' is not a type of tensors"),
        (("quantize", "Q8_0", "--output-tensor-type", "Q4_K_M"), "not a type of tensors"),
        (("quantize", "Q8_0", "--override-kv", "a=int:-1"), "stored as u32"),
        (("quantize", "Q8_0", "--include-weights", "a"), "add --imatrix"),
        (("quantize", "F16", "--tensor-type", "a=q8_0"), "no effect on F16"),
        (("prune", "--override-kv", "a=int:1"), "ggprune quantize OUT.gguf NEW.gguf COPY"),
        (("prune", "--pure"), "--pure says how to quantize: add --type"),
        (("auto", "--drop", "1", "--bump-interface", "q6_k"), "add --type"),
        (("prune", "--type", "Q8_0", "--new-numbers"), "add --tensor-type"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    command, *rest = args
    layers = ("--prune-layers", "1") if command == "prune" else ()
    done = ggprune(command, TINY, tmp_path / "out.gguf", *layers, *rest)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
