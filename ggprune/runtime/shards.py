"""Loading a model's files: llama.cpp looks for shards beside the first one, under its own names."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from ggprune.files.passing import passing_folder
from ggprune.files.system import link_or_symlink
from ggprune.model.model import SHARD, shard_name, shard_paths
from ggprune.runtime.lastwords import announce, model_limit_s, time_limit
from ggprune.runtime.library import Llama

SUFFIX = ".gguf"


@contextlib.contextmanager
def findable(path: Path) -> Iterator[Path]:
    """The path, or for a while another one of the same model: llama.cpp knows no `.GGUF`.

    Where names differ by case alone the small letters find the very file.
    """
    match = SHARD.fullmatch(path.name)
    if match is None or match["suffix"] == SUFFIX:
        yield path
        return
    n_shard = int(match["count"])
    small = path.with_name(shard_name(match["stem"], int(match["no"]) - 1, n_shard))
    if small.exists() and small.samefile(path):
        yield small
        return
    with passing_folder() as folder:
        links = [folder / shard_name("model", i, n_shard) for i in range(n_shard)]
        for link, shard in zip(links, shard_paths(path, n_shard), strict=True):
            link_or_symlink(link, shard.resolve())
        yield links[0]


def load_files(lib: Llama, path: Path, shards: Sequence[Path], params: ctypes.Structure) -> object:
    """llama.cpp's handle of a model, None if it cannot be loaded; `shards` are all of its files, in
    order, if their names say nothing.
    """
    announce(path)
    n_byte = sum(file.stat().st_size for file in shards or [path] if file.exists())
    with time_limit(model_limit_s(n_byte), f"{path}: loading it in llama.cpp"):
        return _load(lib, path, shards, params)


def _load(lib: Llama, path: Path, shards: Sequence[Path], params: ctypes.Structure) -> object:
    if len(shards) > 1:
        names = (ctypes.c_char_p * len(shards))(*map(os.fsencode, shards))
        return cast(object, lib.llama_model_load_from_splits(names, len(shards), params))
    with findable(path) as first:
        return cast(object, lib.llama_model_load_from_file(os.fsencode(first), params))
