"""Names of the tensors that belong to a layer: `blk.N.*`, or `enc.blk.N.*` and `dec.blk.N.*`."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(enc\.|dec\.|)blk\.(0|[1-9][0-9]*)\.(.+)", re.DOTALL)


def block_of(name: str) -> tuple[str, int] | None:
    """Stack ("" for the only one, "enc." or "dec.") and number of a tensor's block.

    None if the tensor belongs to no block.
    """
    match = _BLOCK.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def rename_block(name: str, number: int) -> str:
    """The same tensor in another block: `blk.7.attn_q.weight`, 5 -> `blk.5.attn_q.weight`."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} belongs to no block")
    return f"{match[1]}blk.{number}.{match[3]}"
