"""How torch's parameters lie in a GGUF file, found by comparing values.

A parameter is a tensor of the file as it is, transposed, with its rows in another order (Q and K of
llama), or shifted by a number (norms of gemma). No table of names says which: a tensor of the same
size whose values are the same is it, in the same way in every layer. Knows nothing of torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggprune.metrics.estimates import Float32
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model

TOLERANCE = 2.0**-7  # of the largest value: what rounding to bf16 changes, and no more
SHIFTS = (0.0, 1.0)
LAYER = re.compile(r"^blk\.(\d+)\.(.*)$")  # of the file
Read = Callable[[Tensor], Float32]  # all values, (n_row, n), or (n,)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a parameter is: values of the tensor = those of the parameter, rearranged, + shift."""

    tensor: str  # with `{}` in place of the layer's number
    transposed: bool = False
    rows: NDArray[np.intp] | None = None  # row i of the parameter is row rows[i] of the tensor
    shift: float = 0.0

    def to_torch(self, values: Float32) -> Float32:
        """From the tensor's values to those of the parameter."""
        taken = values if self.rows is None else values[self.rows]
        result: Float32 = np.subtract(taken.T if self.transposed else taken, np.float32(self.shift))
        return result

    def to_gguf(self, values: Float32) -> Float32:
        """From the parameter's values to those of the tensor."""
        ordered = self.ordered(values.T if self.transposed else values)
        result: Float32 = np.add(ordered, np.float32(self.shift))
        return result

    def ordered(self, rows: Float32) -> Float32:
        """Rows (n_out, ...) in the parameter's order -> in that of the tensor."""
        if self.rows is None:
            return rows
        result = np.empty_like(rows)
        result[self.rows] = rows
        return result

    def name(self, layer: int | None) -> str:
        return self.tensor.format(layer)


@dataclass(frozen=True)
class Parameter:
    """A parameter of torch: which one, and its values."""

    role: str  # its name with `{}` in place of the layer's number
    layer: int | None  # None: it belongs to no layer
    shape: tuple[int, ...]
    read: Callable[[], Float32]


def find_layouts(
    parameters: Iterable[Parameter], model: Model, read: Read
) -> dict[str, Layout | None]:
    """By role. None where no tensor has these values, in one way for all layers, or several do."""
    tensors = _by_layer(model)
    by_role: dict[str, list[Parameter]] = defaultdict(list)
    for parameter in parameters:
        by_role[parameter.role].append(parameter)
    return {role: _find(members, tensors, read) for role, members in by_role.items()}


def _by_layer(model: Model) -> Mapping[int | None, Mapping[str, Tensor]]:
    """Tensors by layer, and by name with `{}` in place of its number."""
    result: dict[int | None, dict[str, Tensor]] = defaultdict(dict)
    for tensor in model.tensors:
        match = LAYER.match(tensor.name)
        if match:
            result[int(match[1])]["blk.{}." + match[2]] = tensor
        else:
            result[None][tensor.name.replace("{", "{{").replace("}", "}}")] = tensor
    return result


def _find(
    members: Sequence[Parameter], tensors: Mapping[int | None, Mapping[str, Tensor]], read: Read
) -> Layout | None:
    first, found = members[0], list[Layout]()
    for name, tensor in tensors[first.layer].items():
        if not _may_be(first.shape, tensor.shape[::-1]):
            continue
        if any(name not in tensors[member.layer] for member in members):
            continue
        pairs = [(member, tensors[member.layer][name]) for member in members]
        same = (
            layout for layout in _candidates(name, pairs, read)
            if all(_is_same(layout, member, read(own)) for member, own in pairs)
        )  # fmt: skip
        found += [layout for layout in (next(same, None),) if layout is not None]
    return found[0] if len(found) == 1 else None


def _may_be(parameter: tuple[int, ...], tensor: tuple[int, ...]) -> bool:
    bare = tuple(n for n in tensor if n != 1)
    own = tuple(n for n in parameter if n != 1)
    return len(own) <= 2 and own in (bare, bare[::-1])


def _candidates(
    name: str, pairs: Sequence[tuple[Parameter, Tensor]], read: Read
) -> Iterator[Layout]:
    """The plainest first. Rows that are alike in one layer have their order from another."""
    parameter, tensor = pairs[0]
    shape = tensor.shape[::-1]
    for transposed in (False, True):
        if parameter.shape != (shape[::-1] if transposed else shape):
            continue
        for shift in SHIFTS:
            yield Layout(name, transposed, None, shift)
        if transposed:
            continue
        for member, own in pairs:
            order = _order(member.read(), read(own))
            if order is not None:
                yield Layout(name, rows=order)


def _order(parameter: Float32, tensor: Float32) -> NDArray[np.intp] | None:
    """Which row of the tensor every row of the parameter is; None if there is no order.

    Rows are told apart by their products with random vectors.
    """
    rows, own = tensor.reshape(len(tensor), -1), parameter.reshape(len(parameter), -1)
    if rows.shape[1] == 1:  # of a bias every number is a row: equal ones cannot be told apart
        return None
    vector = np.random.default_rng(0).standard_normal(rows.shape[1]).astype(np.float32)
    order = np.empty(len(rows), np.intp)
    order[np.argsort(own @ vector, kind="stable")] = np.argsort(rows @ vector, kind="stable")
    return order if _near(own, rows[order]) else None


def _is_same(layout: Layout, parameter: Parameter, values: Float32) -> bool:
    wanted = layout.to_torch(values)
    own = parameter.read()
    return wanted.shape == own.shape and _near(own, wanted)


def _near(own: Float32, wanted: Float32) -> bool:
    """Row by row, so that a small row is not lost beside a large one."""
    if not own.size:
        return True
    a, b = own.reshape(len(own), -1), wanted.reshape(len(wanted), -1)
    largest = np.abs(b).max(axis=1) if a.shape[1] > 1 else np.abs(b).max()
    return bool((np.abs(a - b).max(axis=1) <= TOLERANCE * largest).all())
