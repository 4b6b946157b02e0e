"""Names of the tensors that belong to a layer: `blk.N.*`."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]*)\.(.+)", re.DOTALL)


def block_of(name: str) -> int | None:
    """Layer number of a tensor, None if it belongs to no layer."""
    match = _BLOCK.fullmatch(name)
    return int(match[1]) if match else None


def rename_block(name: str, layer: int) -> str:
    """The same tensor in another layer: `blk.7.attn_q.weight`, 5 -> `blk.5.attn_q.weight`."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} belongs to no layer")
    return f"blk.{layer}.{match[2]}"
