"""A model described from its header alone: no llama.cpp, no tensor data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ggprune.arch import architecture_of, legal_drop
from ggprune.errors import ArchitectureError
from ggprune.model import Model, Tensor
from ggprune.report.table import markdown_table
from ggprune.report.units import count, size
from ggprune.surgery import format_layers


def model_document(model: Model) -> dict[str, Any]:
    """`inspect --json`."""
    outside = [tensor for tensor in model.tensors if model.layer_of(tensor.name) is None]
    removable, reason = removable_layers(model)
    return {
        "model": {
            "path": str(model.path),
            "files": [str(file.path) for file in model.files],
            "fingerprint": model.fingerprint,
            "name": model.text("general.name"),
            "arch": model.arch,
            "n_layer": model.n_layer,
            "n_param": model.n_param,
            "size_bytes": model.size_bytes,
            "bits_per_weight": model.bits_per_weight,
            "types": dict(_type_bytes(model).most_common()),
        },
        "layers": [
            {"layer": i, "removable": i in removable, **_group(tensors)}
            for i, tensors in enumerate(model.layers)
        ],
        "refused": reason,
        "outside": _group(outside),
    }


def removable_layers(model: Model) -> tuple[tuple[int, ...], str | None]:
    """Layers that can be removed alone, and why none can if the architecture is refused."""
    try:
        architecture_of(model)
    except ArchitectureError as e:
        return (), str(e).removeprefix(f"{model.path}: ")
    return tuple(n for n in range(model.n_layer) if legal_drop(model, (n,))), None


def _removal_line(model: Model) -> str:
    removable, reason = removable_layers(model)
    if reason is not None:
        return reason
    if len(removable) == model.n_layer:
        return "any layers, alone or together"
    alone = format_layers(removable) or "none"
    return f"alone: {alone}; the others only together with others, if at all"


def _group(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {
        "kind": layer_kind(tensors),
        "n_tensor": len(tensors),
        "n_param": sum(t.n_element for t in tensors),
        "size_bytes": sum(t.size_bytes for t in tensors),
        "types": dict(Counter(t.type.name for t in tensors).most_common()),
    }


def _type_bytes(model: Model) -> Counter[str]:
    mix = Counter[str]()
    for tensor in model.tensors:
        mix[tensor.type.name] += tensor.size_bytes
    return mix


def render_model(model: Model) -> str:
    """`inspect`: the model, then a line per layer."""
    total, mix = max(model.tensor_bytes, 1), _type_bytes(model).most_common()
    shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in mix)
    name = model.text("general.name")
    outside = [tensor for tensor in model.tensors if model.layer_of(tensor.name) is None]
    lines = [
        f"file          {model.path}" + _shards(model),
        f"name          {name or '-'}",
        f"architecture  {model.arch}",
        f"layers        {model.n_layer}",
        f"parameters    {count(model.n_param)}",
        f"size          {size(model.size_bytes)} ({model.bits_per_weight:.2f} bits per weight)",
        f"types         {shares or '-'}",
        f"removable     {_removal_line(model)}",
        f"fingerprint   {model.fingerprint}",
    ]
    rows = [_layer_row(str(i), tensors) for i, tensors in enumerate(model.layers)]
    if outside:
        rows.append(_layer_row("-", outside, kind="not in a layer"))
    headers = ("layer", "kind", "tensors", "types", "params", "size")
    return "\n".join(lines) + "\n\n" + markdown_table(headers, rows, left=(1, 3))


def _shards(model: Model) -> str:
    return f" (+ {len(model.files) - 1} more shards)" if len(model.files) > 1 else ""


def _layer_row(label: str, tensors: Sequence[Tensor], kind: str | None = None) -> tuple[str, ...]:
    types = Counter(tensor.type.name for tensor in tensors)
    return (
        label,
        kind or layer_kind(tensors),
        str(len(tensors)),
        ", ".join(f"{n} {name}" for name, n in types.most_common()),
        count(sum(t.n_element for t in tensors)),
        size(sum(t.size_bytes for t in tensors)),
    )


def layer_kind(tensors: Sequence[Tensor]) -> str:
    """What a layer is made of, from the names of its tensors: `attention + MoE`."""
    names = " ".join(tensor.name for tensor in tensors)
    parts = []
    if "attn_output" in names or ".attn_out." in names:
        parts.append("attention")
    if ".ssm_" in names or ".time_mix" in names or "shortconv" in names:
        parts.append("recurrent")
    if "_exps" in names:
        parts.append("MoE")
    elif ".ffn_" in names or "channel_mix" in names:
        parts.append("FFN")
    return " + ".join(parts) or "other"
