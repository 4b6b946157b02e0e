"""What the pruned model consists of: its metadata and its tensors, before they have places.

Follows from the model and the plan alone. Where the bytes come to lie is `layout`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
from gguf.utility import size_label

from ggprune.arch.change import Change, Edit, Slice
from ggprune.arch.experts import EXPERT_COUNT
from ggprune.errors import DataError, FormatError, UsageError
from ggprune.files.documents import decode, parse_json
from ggprune.model.cut import Cut, parse_units
from ggprune.model.fields import MAX_U64, Fields
from ggprune.model.gguf import ALIGNMENT, DEFAULT_ALIGNMENT, Tensor, plain_shape
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import SCALAR_FORMATS, Value, ValueType, array, scalar, string
from ggprune.model.model import Model
from ggprune.model.names import Role, roles_of
from ggprune.model.types import TensorType, tensor_type
from ggprune.surgery.plan import PrunePlan
from ggprune.version import __version__

TENSOR_ALIGNMENT = 32  # ggml/src/ggml-impl.h
ARCHITECTURE = "general.architecture"
SIZE_LABEL = "general.size_label"
PARAMETER_COUNT = "general.parameter_count"
TENSOR_EXTRA = "general.tensor_extra."  # llama.cpp: src/llama-model.cpp, load_stats

DROPPED_LAYERS = "ggprune.dropped_layers"
DROPPED_UNITS = "ggprune.dropped_units"  # as users write them, where they are no whole layers
SOURCE_FINGERPRINT = "ggprune.source.fingerprint"
SOURCE_BLOCK_COUNT = "ggprune.source.block_count"
SOURCE_ARCHITECTURE = "ggprune.source.architecture"
VERSION = "ggprune.version"
HISTORY = "ggprune.history"


@dataclass(frozen=True)
class OutTensor:
    """A tensor of the result: bytes of a source tensor, edited or not, or values of its own."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # ggml order
    source: Tensor | None
    _: KW_ONLY
    edit: Edit | None = None
    values: tuple[float, ...] = ()  # F32; only without a source, which is zeros without them

    @property
    def size_bytes(self) -> int:
        return self.type.size_bytes(self.shape)

    @property
    def n_element(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """All of a model but the place of its bytes. `names`: new tensor names by old ones."""

    metadata: Mapping[str, Value]
    tensors: tuple[OutTensor, ...]
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def alignment(self) -> int:
        stated = self.metadata.get(ALIGNMENT)
        return DEFAULT_ALIGNMENT if stated is None else int(stated.decode())

    def followed(self, imatrix: Imatrix) -> Imatrix:
        """The importance matrix of the unpruned model, as that of this one. Of new matrices, which
        are zeros, all inputs count the same; a copy has what it is one of."""
        experts = {
            t.source.name: (t.edit.n_group, t.edit.kept)
            for t in self.tensors
            if t.source is not None and isinstance(t.edit, Slice)
            and Role.EXPERTS in roles_of(t.source.name)
        }  # fmt: skip
        renamed, known = imatrix.renamed(self.names, experts), frozenset(self.names.values())
        new = {
            t.name: np.ones(t.shape[0], np.float32) if t.source is None
            else imatrix.entries.get(t.source.name)
            for t in self.tensors if t.name not in known and len(t.shape) > 1
        }  # fmt: skip
        found = {name: values for name, values in new.items() if values is not None}
        return replace(renamed, entries=found | dict(renamed.entries))

    def realigned(self, alignment: int, why: str) -> Contents:
        """Stored with another alignment; `why` is told to the user."""
        if self.alignment == alignment:
            return self
        metadata = {**self.metadata, ALIGNMENT: scalar(ValueType.UINT32, alignment)}
        note = f"{ALIGNMENT} is {alignment} now, it was {self.alignment}: {why}"
        return replace(self, metadata=metadata, notes=(*self.notes, note))


@dataclass(frozen=True)
class Replacement:
    """Tensors whose bytes come from elsewhere, by their names in the source; added metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Value]

    def apply(self, contents: Contents) -> Contents:
        """Raises KeyError for a tensor that is not there."""
        taken = {contents.names[name]: tensor for name, tensor in self.tensors.items()}
        tensors = tuple(
            replace(t, source=taken[t.name], type=taken[t.name].type) if t.name in taken else t
            for t in contents.tensors
        )
        metadata = {**contents.metadata, **self.metadata}
        return replace(contents, metadata=metadata, tensors=tensors)


def contents_of(model: Model, plan: PrunePlan | None) -> Contents:
    """The model without what the plan drops; all of it without a plan.

    Tensors keep their order, added ones come last. Raises DataError if the plan was made for
    another model.
    """
    if plan is not None and plan.fingerprint != model.fingerprint:
        raise DataError(f"{model.path}: the plan was made for another model")
    if plan is None or not plan.cut:
        return unchanged_contents(model)
    change = plan.change(model)
    tensors, names = _kept_tensors(model, plan, change)
    tensors += [  # of no more dimensions than llama.cpp itself would write
        OutTensor(name, tensor_type(new.type), plain_shape(new.shape), None, values=new.values)
        for name, new in change.added.items()
    ]
    copied = {name: model.by_name[old] for name, old in change.copied.items()}
    tensors += [OutTensor(name, t.type, t.shape, t) for name, t in copied.items()]
    gone = {*change.gone, DROPPED_LAYERS, DROPPED_UNITS}  # in the history from now on
    metadata = {key: value for key, value in model.metadata.items() if key not in gone}
    metadata |= {
        **change.values,
        **_size_values(model, tensors, _n_expert(model, change)),
        **_tensor_extra(model, names),
        **_provenance(model, plan, change),
    }
    if change.arch is not None:  # the keys of one architecture under another one's name
        metadata = {
            change.arch + key[len(model.arch) :] if key.startswith(f"{model.arch}.") else key: value
            for key, value in metadata.items()
        } | {ARCHITECTURE: string(change.arch)}
    return _loadable(Contents(metadata, tuple(tensors), names, change.notes))


def unchanged_contents(model: Model) -> Contents:
    tensors = tuple(OutTensor(t.name, t.type, t.shape, t) for t in model.tensors)
    return _loadable(Contents(model.metadata, tensors, {t.name: t.name for t in model.tensors}))


def _loadable(contents: Contents) -> Contents:
    """llama.cpp maps files, and needs what it computes with at multiples of TENSOR_ALIGNMENT.

    With a smaller one in the file it depends on the length of the header whether it loads.
    """
    wide = max(contents.alignment, TENSOR_ALIGNMENT)
    return contents.realigned(wide, "llama.cpp loads a file of less only by luck")


def _kept_tensors(
    model: Model, plan: PrunePlan, change: Change
) -> tuple[list[OutTensor], dict[str, str]]:
    """The tensors that stay, and their new names by their old ones."""
    tensors, names = [], {}
    for tensor in model.tensors:
        name = change.moved.get(tensor.name) or plan.renamed(tensor.name)
        if name is None or tensor.name in change.dropped:
            continue
        shape, edit = list(tensor.shape), change.edits.get(tensor.name)
        if isinstance(edit, Slice):
            shape[edit.axis] = shape[edit.axis] // edit.n_group * len(edit.kept)
        names[tensor.name] = name
        tensors.append(OutTensor(name, tensor.type, tuple(shape), tensor, edit=edit))
    return tensors, names


def _n_expert(model: Model, change: Change) -> int:
    """Experts of a layer afterwards; refuses a count that is no number (llama.cpp takes none)."""
    key = EXPERT_COUNT.replace("{arch}", model.arch)
    stated = model.fields.integer(key, 0)
    return int(change.values[key].decode()) if key in change.values else stated


def _size_values(model: Model, kept: Sequence[OutTensor], n_expert: int) -> dict[str, Value]:
    """Parameter counts, where the source states them."""
    n_param = sum(tensor.n_element for tensor in kept)
    values: dict[str, Value] = {}
    if model.fields.integer(PARAMETER_COUNT, 0, most=MAX_U64):
        values[PARAMETER_COUNT] = scalar(model.metadata[PARAMETER_COUNT].type, n_param)
    if SIZE_LABEL in model.metadata:
        values[SIZE_LABEL] = string(_label(kept, n_param, n_expert))
    return values


def _label(kept: Sequence[OutTensor], n_param: int, n_expert: int) -> str:
    """`7B` or `8x7B`, by the formula of gguf-py that made the original label."""
    if not n_expert:
        return str(size_label(n_param, 0, 0, 0))
    n_in_experts = sum(t.n_element for t in kept if Role.EXPERTS in roles_of(t.name))
    return str(size_label(n_param, n_param - n_in_experts, n_in_experts // n_expert, n_expert))


def _tensor_extra(model: Model, names: Mapping[str, str]) -> dict[str, Value]:
    """`general.tensor_extra.*`: parallel arrays about tensors, one of which names them."""
    listed = model.fields.texts(TENSOR_EXTRA + "name", ())
    if not listed:
        return {}
    kept = [i for i, name in enumerate(listed) if name in names]
    values = {
        key: value.select(kept)
        for key, value in model.metadata.items()
        if key.startswith(TENSOR_EXTRA)
        and value.array_len == len(listed)
        and value.element_type in SCALAR_FORMATS
    }
    renamed = array(ValueType.STRING, [names[listed[i]] for i in kept])
    return {**values, TENSOR_EXTRA + "name": renamed}


@dataclass(frozen=True)
class Pruning:
    """One of the prunings that a file has behind it."""

    drop: Cut
    fingerprint: str  # of what it was pruned from


def prunings_of(model: Model) -> tuple[Pruning, ...]:
    """The first one first. Raises FormatError if the file does not say it as this program does."""
    fields = model.fields
    if not is_pruned(model):
        return ()
    earlier = tuple(_pruning(fields, record) for record in fields.texts(HISTORY, ()))
    return (*earlier, _pruning(fields, json.dumps(_record(fields))))


def is_pruned(model: Model) -> bool:
    """Does the file say what was dropped to make it?"""
    return any(key in model.metadata for key in (DROPPED_LAYERS, DROPPED_UNITS))


def _pruning(fields: Fields, record: str) -> Pruning:
    try:
        said = decode(dict[str, object], parse_json(record))
        if DROPPED_UNITS in said:
            depth = decode(int, said[SOURCE_BLOCK_COUNT])
            drop = parse_units(decode(str, said[DROPPED_UNITS]), depth)
        else:
            drop = Cut.of(decode(tuple[int, ...], said[DROPPED_LAYERS]))
        return Pruning(drop, decode(str, said.get(SOURCE_FINGERPRINT, "")))
    except (ValueError, KeyError, UsageError) as e:
        raise FormatError(f"{fields.path}: {HISTORY} is not what ggprune writes") from e


def _record(fields: Fields) -> dict[str, object]:
    """What an earlier pruning has said of itself."""
    readers: dict[str, Callable[[str], object]] = {
        DROPPED_LAYERS: fields.integers, DROPPED_UNITS: fields.text,
        SOURCE_FINGERPRINT: fields.text, SOURCE_BLOCK_COUNT: fields.integer,
        SOURCE_ARCHITECTURE: fields.text, VERSION: fields.text,
    }  # fmt: skip
    return {key: read(key) for key, read in readers.items() if key in fields.values}


def dropped_values(cut: Cut) -> dict[str, Value]:
    """Metadata that says what was dropped."""
    if cut.is_whole:
        return {DROPPED_LAYERS: array(ValueType.INT32, cut.layers)}
    return {DROPPED_UNITS: string(str(cut))}


def _provenance(model: Model, plan: PrunePlan, change: Change) -> dict[str, Value]:
    """Where the file came from. A second pruning moves the first one's record to the history."""
    values = {
        **dropped_values(plan.cut),
        SOURCE_FINGERPRINT: string(plan.fingerprint),
        SOURCE_BLOCK_COUNT: scalar(ValueType.UINT32, plan.n_layer),
        VERSION: string(__version__),
    }
    if change.arch is not None:
        values[SOURCE_ARCHITECTURE] = string(model.arch)
    if is_pruned(model):
        before = model.fields.texts(HISTORY, ())
        values[HISTORY] = array(ValueType.STRING, [*before, json.dumps(_record(model.fields))])
    return values
