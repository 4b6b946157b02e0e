"""A model: one GGUF file, or all the shards of a split one, seen as one set of tensors.

The metadata is the first shard's, without the `split.*` keys. Knows which tensors belong to which
layer, not what a layer's position means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ggprune.errors import FormatError
from ggprune.model.fields import Fields
from ggprune.model.fingerprint import fingerprint, known_fingerprint
from ggprune.model.gguf import GGUFFile, Tensor, read_gguf
from ggprune.model.metadata import Value
from ggprune.model.names import block_of
from ggprune.progress import Progress

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS = "split.tensors.count"
SPLIT_SET = "ggprune.split.set"  # in every shard that ggprune writes: the whole's fingerprint
SPLIT_KEYS = (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS, SPLIT_SET)
MAX_LAYERS = 512  # of a stack, to llama.cpp: LLAMA_MAX_LAYERS in src/llama-hparams.h

# llama.cpp knows shards by names in lower case only: runtime finds the others for it.
SHARD = re.compile(
    r"(?P<stem>.*)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<suffix>\.gguf)", re.IGNORECASE
)


@dataclass(frozen=True)
class Model:
    """Metadata and tensors of a model, whatever number of files it is stored in."""

    files: tuple[GGUFFile, ...]
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[tuple[Path, ...], str | None]]:
        """Sent to another process as its paths: maps stay where they are, and are made anew."""
        return _open_again, (tuple(file.path for file in self.files), vars(self).get("fingerprint"))

    @property
    def path(self) -> Path:
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def alignment(self) -> int:
        return self.files[0].alignment

    @cached_property
    def fields(self) -> Fields:
        return Fields(self.path, self.metadata)

    @cached_property
    def arch(self) -> str:
        return self.fields.text("general.architecture")

    @cached_property
    def stacks(self) -> tuple[tuple[str, int], ...]:
        """Name prefix and number of blocks of each stack: one, or an encoder and a decoder.

        Raises FormatError for a number that the tensors cannot make true.
        """
        n_block = self._n_block(f"{self.arch}.block_count")
        prefixes = {block[0] for block in (block_of(t.name) for t in self.tensors) if block}
        if "dec." in prefixes:
            key = f"{self.arch}.decoder_block_count"
            n_decoder = self._n_block(key) if key in self.metadata else n_block
            return (("enc.", n_block), ("dec.", n_decoder))
        return (("enc." if "enc." in prefixes else "", n_block),)

    def _n_block(self, key: str) -> int:
        n_block, n_tensor = self.fields.integer(key), len(self.tensors)
        if not 0 < n_block <= max(n_tensor, MAX_LAYERS):
            raise FormatError(f"{self.path}: {key} = {n_block}, but there are {n_tensor} tensors")
        return n_block

    @cached_property
    def n_layer(self) -> int:
        """Layers of all stacks, as the metadata says; `layers` compares it with the tensors."""
        return sum(n for _, n in self.stacks)

    @cached_property
    def n_mtp(self) -> int:
        """Multi-token-prediction (MTP) blocks behind all other layers, in the file or not."""
        key = f"{self.arch}.nextn_predict_layers"
        return self.fields.integer(key, 0, most=self.n_layer)

    def layer_of(self, name: str) -> int | None:
        """The layer that a tensor belongs to. A decoder's layers come after the encoder's.

        None if it belongs to no layer. Raises FormatError for a layer that does not exist.
        """
        block, first = block_of(name), 0
        if block is None:
            return None
        for prefix, n_block in self.stacks:
            if prefix == block[0] and block[1] < n_block:
                return first + block[1]
            first += n_block
        raise FormatError(f"{self.path}: {name} is behind {self.arch}.block_count = {self.n_layer}")

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def n_param(self) -> int:
        return sum(tensor.n_element for tensor in self.tensors)

    @cached_property
    def tensor_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / self.n_param if self.n_param else 0.0

    @cached_property
    def layers(self) -> tuple[tuple[Tensor, ...], ...]:
        """Tensors of each layer. Raises FormatError if a layer has none that should have some."""
        if not 0 < self.n_layer <= max(len(self.tensors), 1):
            raise FormatError(
                f"{self.path}: {self.arch}.block_count = {self.n_layer}, "
                f"but there are {len(self.tensors)} tensors"
            )
        layers: list[list[Tensor]] = [[] for _ in range(self.n_layer)]
        for tensor in self.tensors:
            layer = self.layer_of(tensor.name)
            if layer is not None:
                layers[layer].append(tensor)
        n_full = self.n_layer - self.n_mtp  # those behind may be announced and left out
        empty = [n for n in range(n_full) if not layers[n] and not self._is_hollow(n)]
        if empty:
            raise FormatError(
                f"{self.path}: block_count is {self.n_layer}, but layers {empty} have no tensors"
            )
        return tuple(tuple(tensors) for tensors in layers)

    def _is_hollow(self, layer: int) -> bool:
        """Is the layer stated to have neither attention heads nor a feed-forward part?"""
        keys = (f"{self.arch}.attention.head_count", f"{self.arch}.feed_forward_length")
        stated = [self.fields.integers(key) for key in keys if self.fields.is_array(key)]
        return len(stated) == 2 and all(layer < len(x) and x[layer] == 0 for x in stated)

    def text(self, key: str, default: str = "") -> str:
        """A text, `default` where the key is missing. Raises FormatError if it is none."""
        return self.fields.text(key, default)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what the model computes: see `model.fingerprint`."""
        return fingerprint(self.metadata, self.tensors)

    def read_fingerprint(self, progress: Progress) -> str:
        """The same; `progress` is told of bytes, should they have to be read now."""
        if "fingerprint" not in vars(self):
            vars(self)["fingerprint"] = fingerprint(self.metadata, self.tensors, progress)
        return self.fingerprint

    @property
    def known_fingerprint(self) -> str | None:
        """The same where nothing has to be read for it."""
        return vars(self).get("fingerprint") or known_fingerprint(self.metadata, self.tensors)


def open_model(path: Path | str) -> Model:
    """Open a GGUF file, or with it all shards of a split model.

    Raises FormatError if a file is missing, damaged, or the shards do not belong together.
    """
    path = Path(path)
    first = read_gguf(path)
    n_shard = first.fields.integer(SPLIT_COUNT, 0)
    if n_shard <= 1:
        return _join((first,))
    paths = shard_paths(path, n_shard)
    missing = [p.name for p in paths if not p.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = ", ".join(missing[:3])
        raise FormatError(f"{path}: shards are missing beside it: {names}{more}")
    return open_shards(paths)


def open_shards(paths: Sequence[Path]) -> Model:
    """Open the shards of a model, all of them and in order, whatever their names.

    Raises FormatError if they do not belong together.
    """
    files = tuple(read_gguf(path) for path in paths)
    if len(files) == 1:
        return _join(files)
    for i, file in enumerate(files):
        no, count = file.fields.integer(SPLIT_NO, 0), file.fields.integer(SPLIT_COUNT, 0)
        if (no, count) != (i, len(files)):
            raise FormatError(
                f"{file.path}: says it is shard {no} of {count}, its place is {i} of {len(files)}"
            )
    _check_one_set(files)
    return _join(files)


def _check_one_set(files: Sequence[GGUFFile]) -> None:
    """Shards are replaced from the last to the first, so that a mixture has a newer one behind.

    Raises FormatError for a mixture. What only the first one says is what a tool that joined and
    divided the model again has left of it.
    """
    sets = [file.metadata.get(SPLIT_SET) for file in files]
    odd = next((i for i in range(1, len(sets)) if any(sets[1:]) and sets[i] != sets[0]), None)
    if odd is not None:
        raise FormatError(
            f"{files[odd].path}: does not belong to {files[0].path.name}: a run that replaced the "
            "shards was ended before it was done; do it again, or delete them all"
        )


def _open_again(paths: Sequence[Path], known: str | None) -> Model:
    """In another process, which is not to read all bytes once more."""
    model = open_shards(paths)
    if known is not None:
        vars(model)["fingerprint"] = known
    return model


def shard_paths(path: Path, n_shard: int) -> tuple[Path, ...]:
    """Paths of all shards, given any one of them. Raises FormatError if the name does not fit."""
    match = SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != n_shard:
        raise FormatError(
            f"{path}: one of {n_shard} shards, but not named like model-00001-of-{n_shard:05}.gguf"
        )
    names = (shard_name(match["stem"], i, n_shard, match["suffix"]) for i in range(n_shard))
    return tuple(path.with_name(name) for name in names)


def shard_name(stem: str, i: int, n_shard: int, suffix: str = ".gguf") -> str:
    """Of shard `i`, counted from 0."""
    return f"{stem}-{i + 1:05}-of-{n_shard:05}{suffix}"


def _join(files: tuple[GGUFFile, ...]) -> Model:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor.name in tensors:
                raise FormatError(f"{file.path}: tensor {tensor.name} is in another shard as well")
            tensors[tensor.name] = tensor
    expected = files[0].fields.integer(SPLIT_TENSORS, 0)
    if len(files) > 1 and expected != len(tensors):
        count = f"{len(tensors)} tensors in all shards"
        raise FormatError(f"{files[0].path}: {count}, expected {expected}")
    metadata = {k: v for k, v in files[0].metadata.items() if k not in SPLIT_KEYS}
    return Model(files, metadata, tuple(tensors.values()))
