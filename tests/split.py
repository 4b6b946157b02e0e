"""Splits a GGUF file into shards with gguf-py, the way llama-gguf-split does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from gguf.constants import GGUFValueType


def split(source: Path, folder: Path, n_shard: int) -> list[Path]:
    """Shards of about equal numbers of tensors; all metadata is in the first."""
    reader = gguf.GGUFReader(source)
    step = -(-len(reader.tensors) // n_shard)
    paths = [folder / f"model-{i + 1:05}-of-{n_shard:05}.gguf" for i in range(n_shard)]
    for i, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        writer.kv_data[0].clear()
        if i == 0:
            _copy_metadata(reader, writer)
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", n_shard)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[i * step : (i + 1) * step]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _copy_metadata(reader: Any, writer: Any) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=element)
