"""Carries what belongs to a model over to the numbering of the pruned one.

Importance matrices (GGUF and legacy .dat), LoRA adapters and control vectors name layers by number.
The plan alone says what becomes of a number; the model is not needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.errors import DataError, FormatError
from ggprune.files.outputs import PendingFile, check_output
from ggprune.files.reading import read_bytes
from ggprune.model.gguf import MAGIC, Tensor
from ggprune.model.imatrix import SUMS, LegacyEntry, read_legacy_entries, select_parts
from ggprune.model.metadata import Value, scalar, string
from ggprune.model.model import Model, open_model
from ggprune.model.names import block_of
from ggprune.model.newlayer import NewLayer
from ggprune.model.unit import Unit
from ggprune.surgery.contents import ARCHITECTURE, Contents, OutTensor
from ggprune.surgery.layout import lay_out
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.rewrite import write_proved

ADAPTER_TYPE = "adapter.type"
CONTROL_VECTOR = "controlvector"
DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Remapped:
    """What a companion was and how many of its tensors or entries are left."""

    kind: str
    n_before: int
    n_after: int
    notes: tuple[str, ...] = ()


def remap(plan: PrunePlan, source: Path, out: Path, *, force: bool = False) -> Remapped:
    """Write the companion `source` of the unpruned model as one of the pruned model.

    Raises DataError if it is not a companion of such a model, OutputError if `out` cannot be
    written; then nothing is left behind.
    """
    check_output(out, [source], force=force)
    remap_kind = _remap_gguf if read_bytes(source, len(MAGIC)) == MAGIC else _remap_dat
    return remap_kind(plan, source, out, force)


def _remap_gguf(plan: PrunePlan, source: Path, out: Path, force: bool) -> Remapped:
    model = open_model(source)
    kind = _kind(model)
    if kind == "control vector":
        contents, notes = _control_vector(plan, model)
    else:
        contents, notes = _by_tensor_names(plan, model), plan.notes if kind == "LoRA" else ()
    if kind == "LoRA" and model.arch != plan.arch:
        raise DataError(f"{source}: an adapter for {model.arch}, the plan is for {plan.arch}")
    with PendingFile(out) as pending, pending.named():
        write_proved(contents, [lay_out(model, contents)], [pending])
        pending.commit(force=force)
    return Remapped(kind, len(model.tensors), len(contents.tensors), notes)


def _kind(model: Model) -> str:
    architecture = model.text(ARCHITECTURE)
    if any(tensor.name.endswith(".in_sum2") for tensor in model.tensors):
        return "imatrix"
    if model.text(ADAPTER_TYPE) == "lora":
        return "LoRA"
    if architecture == CONTROL_VECTOR:
        return "control vector"
    raise DataError(
        f"{model.path}: not an importance matrix, a LoRA adapter or a control vector"
        + (": models are pruned by ggprune prune" if f"{architecture}.block_count" in model.metadata
           else "")
    )  # fmt: skip


def _by_tensor_names(plan: PrunePlan, model: Model) -> Contents:
    names = _renamed(plan, [tensor.name for tensor in model.tensors], model.path)
    metadata = dict(model.metadata)
    if model.text(ARCHITECTURE) == plan.arch:
        metadata[ARCHITECTURE] = string(plan.out_arch)
    return _contents(plan, model, names, metadata)


def _renamed(plan: PrunePlan, names: Sequence[str], path: Path) -> dict[str, str]:
    """New names of what stays, by the old ones. Raises DataError for a layer that is none."""
    for name in names:
        block = block_of(name)
        if block is not None and block[1] >= dict(plan.stacks).get(block[0], 0):
            raise DataError(
                f"{path}: {name} belongs to no layer of a model of {plan.n_layer} layers"
            )
    renamed = {name: plan.renamed(name) for name in names}
    return {old: new for old, new in renamed.items() if new is not None}


def _control_vector(plan: PrunePlan, model: Model) -> tuple[Contents, tuple[str, ...]]:
    """`direction.N` is added behind layer N. llama.cpp refuses a vector that has one behind layer
    0, and leaves the one with the number of layers unused, which stays the last.
    """
    first, n_left = plan.stacks[0][0], len(plan.layers)
    names: dict[str, str] = {}
    notes: list[str] = []
    for tensor in model.tensors:
        match = DIRECTION.fullmatch(tensor.name)
        if match is None or int(match[1]) > plan.n_layer:
            raise DataError(f"{model.path}: {tensor.name} is not a direction of one of its layers")
        old = int(match[1])
        number = _behind(plan, first, old) if old < plan.n_layer else n_left
        if old == 0:
            notes.append(f"{tensor.name} is left out: llama.cpp takes none for the first layer")
        elif number == 0:
            notes.append(f"{tensor.name} is lost: its layer is the first now, which takes none")
        elif number is not None:
            names[tensor.name] = f"direction.{number}"
    metadata = dict(model.metadata)
    hint, count = f"{CONTROL_VECTOR}.model_hint", f"{CONTROL_VECTOR}.layer_count"
    if hint in metadata:
        metadata[hint] = string(plan.out_arch)
    if model.fields.integer(count, 0):
        metadata[count] = scalar(metadata[count].type, len(names))
    return _contents(plan, model, names, metadata), tuple(notes)


def _behind(plan: PrunePlan, stack: str, number: int) -> int | None:
    """The new layer behind which a direction comes in: that with the layer's FFN, or with its
    attention alone."""
    found = plan.new_number(stack, number, Unit.FFN)
    alone = NewLayer(number, None)
    return plan.layers.index(alone) if alone in plan.layers else found


def _contents(
    plan: PrunePlan, model: Model, names: Mapping[str, str], metadata: Mapping[str, Value]
) -> Contents:
    if not names:
        raise DataError(f"{model.path}: nothing of it belongs to a layer that stays")
    kept = (t for t in model.tensors if t.name in names)
    tensors = tuple(_out_tensor(plan, t, names[t.name]) for t in kept)
    return Contents(metadata, tensors, names)


def _out_tensor(plan: PrunePlan, tensor: Tensor, name: str) -> OutTensor:
    """Without the parts of experts that leave."""
    edit, shape = plan.expert_slice(tensor.name, tensor.shape), list(tensor.shape)
    if edit is not None:
        shape[edit.axis] = shape[edit.axis] // edit.n_group * len(edit.kept)
    return OutTensor(name, tensor.type, tuple(shape), tensor, edit=edit)


def _legacy_entry(plan: PrunePlan, entry: LegacyEntry, name: str) -> LegacyEntry:
    edit, values = plan.expert_slice(entry.name + SUMS, entry.values.shape), entry.values
    if edit is not None:
        values = select_parts(values, edit.n_group, edit.kept)
    return replace(entry, name=name, values=values)


def _remap_dat(plan: PrunePlan, source: Path, out: Path, force: bool) -> Remapped:
    try:
        entries, tail = read_legacy_entries(source)
    except (FormatError, struct.error, ValueError) as e:
        raise DataError(f"{source}: neither a GGUF nor a legacy importance matrix: {e}") from e
    names = _renamed(plan, [entry.name for entry in entries], source)
    kept = [
        _legacy_entry(plan, entry, names[entry.name]) for entry in entries if entry.name in names
    ]
    if not kept:
        raise DataError(f"{source}: nothing of it belongs to a layer that stays")
    with PendingFile(out) as pending:
        data = struct.pack("<i", len(kept)) + b"".join(entry.to_bytes() for entry in kept) + tail
        with open(pending.fd, "wb", closefd=False) as file:
            file.write(data)
        pending.commit(force=force)
    return Remapped("imatrix", len(entries), len(kept))
