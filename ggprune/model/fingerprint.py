"""Identity of what a model computes: all metadata that can change a number, and every byte of every
tensor.

A name, a license or a chat template changes no number, nor does the order of tensors or the way in
which a model is split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from blake3 import blake3

from ggprune.files.digests import Part, digests, remembered
from ggprune.model.gguf import Tensor
from ggprune.model.metadata import Value, ValueType, encode_text
from ggprune.progress import SILENT, Progress

# What llama.cpp reads without computing anything of it. All other keys count.
_SILENT_KEYS = re.compile(
    r"general\.(?!architecture$|tensor_extra\.).*|tokenizer\.chat_template.*|tokenizer\.huggingface\..*"
    r"|ggprune\..*|quantize\..*|split\..*"
)
NAME = "general.name"
# Names that change how text becomes tokens (src/llama-vocab.cpp, `_contains_any(model_name`).
TELLING_NAMES = ("phi-3", "phi3", "modern-bert")


def fingerprint(
    metadata: Mapping[str, Value], tensors: Sequence[Tensor], progress: Progress = SILENT
) -> str:
    """64 hexadecimal digits (BLAKE3). `progress` is told of bytes.

    Raises FormatError if a file cannot be read, or became shorter.
    """
    total, so_far = sum(tensor.size_bytes for tensor in tensors), [0]

    def heard(n: int) -> None:
        so_far[0] += n
        progress.step(so_far[0], total)

    made: dict[str, str] = {}
    for path, inside in _by_file(tensors).items():
        names = [tensor.name for tensor in inside]
        made |= zip(names, digests(path, _parts(inside), heard), strict=True)
    return joined(metadata, tensors, made)


def known_fingerprint(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> str | None:
    """The same where all files were read before and have not changed since; nothing is read."""
    made: dict[str, str] = {}
    for path, inside in _by_file(tensors).items():
        known = remembered(path, _parts(inside))
        if known is None:
            return None
        made |= zip((tensor.name for tensor in inside), known, strict=True)
    return joined(metadata, tensors, made)


def _by_file(tensors: Sequence[Tensor]) -> Mapping[Path, list[Tensor]]:
    """In the order of their bytes: files are read from the start to the end."""
    files: dict[Path, list[Tensor]] = {}
    for tensor in sorted(tensors, key=lambda t: t.offset):
        files.setdefault(tensor.path, []).append(tensor)
    return files


def _parts(tensors: Sequence[Tensor]) -> list[Part]:
    return [(tensor.offset, tensor.size_bytes) for tensor in tensors]


def joined(
    metadata: Mapping[str, Value], tensors: Sequence[Tensor], made: Mapping[str, str]
) -> str:
    """The same, from digests of the tensors' bytes by name."""
    digest = blake3()
    for piece in _pieces(metadata, tensors, made):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _pieces(
    metadata: Mapping[str, Value], tensors: Sequence[Tensor], made: Mapping[str, str]
) -> Iterator[bytes]:
    named = metadata.get(NAME)
    name = named.decode().lower() if named is not None and named.type == ValueType.STRING else ""
    yield encode_text(name) if any(word in name for word in TELLING_NAMES) else b""
    for key in sorted(metadata):
        if not _SILENT_KEYS.fullmatch(key):
            value = metadata[key]
            yield encode_text(key)
            yield bytes([value.type]) + bytes(value.raw)
    for tensor in sorted(tensors, key=lambda t: t.name):
        yield encode_text(tensor.name)
        yield f"{tensor.type.id} {tensor.shape} {made[tensor.name]}".encode()
