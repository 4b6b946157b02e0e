"""A model described from its header alone: no llama.cpp, no tensor data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ggprune.arch import layer_traits, shortest_runs
from ggprune.errors import ArchitectureError
from ggprune.model import Model, Tensor
from ggprune.model.layers import format_layers
from ggprune.report.table import markdown_table
from ggprune.report.units import count, size


def model_document(model: Model) -> dict[str, Any]:
    """`inspect --json`."""
    outside = [tensor for tensor in model.tensors if model.layer_of(tensor.name) is None]
    runs, reason = removable_layers(model)
    traits = layer_traits(model)
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
            {
                "layer": i,
                "traits": list(traits[i]),
                "removable": runs[i] == (i,),
                "removable_with": list(runs[i] or ()),
                **_group(tensors),
            }
            for i, tensors in enumerate(model.layers)
        ],
        "refused": reason,
        "outside": _group(outside),
    }


def removable_layers(model: Model) -> tuple[tuple[tuple[int, ...] | None, ...], str | None]:
    """For every layer the shortest run that can go with it, and why none can if that is so."""
    try:
        return shortest_runs(model), None
    except ArchitectureError as e:
        return (None,) * model.n_layer, str(e).removeprefix(f"{model.path}: ")


def _removal_line(runs: Sequence[tuple[int, ...] | None], reason: str | None) -> str:
    if reason is not None:
        return reason
    alone = [n for n, run in enumerate(runs) if run == (n,)]
    together = [n for n, run in enumerate(runs) if run is not None and len(run) > 1]
    never = [n for n, run in enumerate(runs) if run is None]
    if len(alone) == len(runs):
        return "every layer alone"
    groups = (("alone", alone), ("only with others", together), ("never", never))
    return "; ".join(f"{what}: {format_layers(layers)}" for what, layers in groups if layers)


def _removal_cell(layer: int, run: tuple[int, ...] | None) -> str:
    if run is None:
        return "never"
    others = [n for n in run if n != layer]
    return f"with {format_layers(others)}" if others else "alone"


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
    runs, reason = removable_layers(model)
    lines = [
        f"file          {model.path}" + _shards(model),
        f"name          {name or '-'}",
        f"architecture  {model.arch}",
        f"layers        {model.n_layer}",
        f"parameters    {count(model.n_param)}",
        f"size          {size(model.size_bytes)} ({model.bits_per_weight:.2f} bits per weight)",
        f"types         {shares or '-'}",
        f"removable     {_removal_line(runs, reason)}",
        f"fingerprint   {model.fingerprint}",
    ]
    rows = [
        _layer_row(str(i), tensors, layer_kind(tensors, words), _removal_cell(i, run))
        for i, (tensors, words, run) in enumerate(
            zip(model.layers, layer_traits(model), runs, strict=True)
        )
    ]
    if outside:
        rows.append(_layer_row("-", outside, "not in a layer", ""))
    headers = ("layer", "kind", "goes", "tensors", "types", "params", "size")
    return "\n".join(lines) + "\n\n" + markdown_table(headers, rows, left=(1, 2, 4))


def _shards(model: Model) -> str:
    return f" (+ {len(model.files) - 1} more shards)" if len(model.files) > 1 else ""


def _layer_row(label: str, tensors: Sequence[Tensor], kind: str, goes: str) -> tuple[str, ...]:
    types = Counter(tensor.type.name for tensor in tensors)
    return (
        label,
        kind,
        goes,
        str(len(tensors)),
        ", ".join(f"{n} {name}" for name, n in types.most_common()),
        count(sum(t.n_element for t in tensors)),
        size(sum(t.size_bytes for t in tensors)),
    )


def layer_kind(tensors: Sequence[Tensor], traits: Sequence[str] = ()) -> str:
    """What a layer is made of, from its tensors, and what its place makes it: `attention + MoE`."""
    names = " ".join(tensor.name for tensor in tensors)
    parts = []
    if "recurrent" in traits or re.search(r"\.ssm_|\.time_mix|shortconv", names):
        parts.append("recurrent")
    if "recurrent" not in traits and re.search(r"attn_(output|out|o)\.", names):
        parts.append("attention")
    if "_exps" in names:
        parts.append("MoE")
    elif ".ffn_" in names or "channel_mix" in names:
        parts.append("FFN")
    more = [trait for trait in traits if trait != "recurrent"]
    return ", ".join([" + ".join(parts) or "other", *more])
