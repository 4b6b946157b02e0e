"""Settles before any work which type every tensor gets, and with which patterns to ask for it.

What a pattern matches is for llama.cpp's own regular expressions to say: they are run on the names
of the original model in dry runs, and the matches carried over to the new layer numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.errors import LlamaError, UsageError
from ggprune.model import Tensor
from ggprune.model.imatrix import Imatrix
from ggprune.model.names import block_of
from ggprune.model.types import tensor_type
from ggprune.quantize.options import QuantizeOptions, TensorTypeRule
from ggprune.quantize.quantizer import DryRun, dry_run, listen_to_lines

# A pattern's match is logged where its type is not the mixture's default: with two mixtures that
# have different defaults, every match is logged at least once.
PROBES = ("Q8_0", "Q4_0")

_MATCH_LINE = re.compile(r"\w+: (?P<name>.+?)\s+- applying manual override: \S+ -> (?P<new>\S+)\n")
_SPECIAL = re.compile(r"([\\^$.|?*+()\[\]{}/])")


@dataclass(frozen=True)
class Origin:
    """The model that a pruned file came from."""

    path: Path
    names: Mapping[str, str]  # new tensor names by old ones
    interface: frozenset[str]  # new names of the tensors in the blocks beside a cut


@dataclass(frozen=True)
class Settled:
    """The outcome, and the options that lead to it on the file at hand."""

    options: QuantizeOptions
    outcome: DryRun
    n_raised: int  # tensors of interface blocks that got a better type


def settle(
    source: Path,
    tensors: tuple[Tensor, ...],
    options: QuantizeOptions,
    imatrix: Imatrix | None,
    origin: Origin | None,
) -> Settled:
    """Work out what the quantizer will make of the file at `source`; its header is enough.

    Raises UsageError if no pattern matches anything, LlamaError with the quantizer's reason.
    """
    if options.tensor_types:
        options = _numbered(source, tensors, options, origin)
    outcome, n_raised = dry_run(source, tensors, options, imatrix), 0
    if options.bump_interface is not None and origin is not None:
        raised = _raised(tensors, outcome, origin.interface, options.bump_interface)
        n_raised = len(raised)
        if raised:
            wanted = _mixture(tensors, outcome) | raised
            options = replace(options, tensor_types=exact_rules(wanted))
            outcome = dry_run(source, tensors, options, imatrix)
    return Settled(options, outcome, n_raised)


def _numbered(
    source: Path, tensors: tuple[Tensor, ...], options: QuantizeOptions, origin: Origin | None
) -> QuantizeOptions:
    """The options with patterns that match in the file what the user's match where they look."""
    looks_at_file = origin is None or options.new_numbers
    path = source if looks_at_file or origin is None else origin.path
    matches = match_rules(path, options.tensor_types)
    if not matches:
        raise UsageError("no pattern of --tensor-type matches a tensor that can be quantized")
    if looks_at_file or origin is None:
        return options
    kept = {origin.names[name]: made for name, made in matches.items() if name in origin.names}
    return replace(options, tensor_types=exact_rules(kept))


def match_rules(path: Path, rules: Sequence[TensorTypeRule]) -> dict[str, str]:
    """Type by name of every tensor that the rules speak of; the first match counts.

    Raises LlamaError for a pattern that is no regular expression.
    """
    found: dict[str, str] = {}

    def collect(match: re.Match[str]) -> None:
        found[match["name"]] = match["new"].upper()

    for probe in PROBES:
        options = QuantizeOptions(probe, tensor_types=tuple(rules))
        try:
            with listen_to_lines(_MATCH_LINE, collect):
                dry_run(path, (), options, None)
        except LlamaError as e:
            told = str(e).replace(f"cannot be quantized to {probe}", "--tensor-type fails")
            raise LlamaError(told) from e
    return found


def exact_rules(types: Mapping[str, str]) -> tuple[TensorTypeRule, ...]:
    """Rules that match these names and no others: one for all blocks of a kind."""
    kinds: dict[tuple[str, str, str], list[int]] = {}
    others: list[TensorTypeRule] = []
    for name, made in types.items():
        block = block_of(name)
        if block is None:
            others.append(TensorTypeRule(f"^{_escape(name)}$", made))
            continue
        stack, number = block
        rest = name.removeprefix(f"{stack}blk.{number}.")
        kinds.setdefault((stack, rest, made), []).append(number)
    grouped = [
        TensorTypeRule(rf"^{_escape(stack)}blk\.({'|'.join(map(str, n))})\.{_escape(rest)}$", made)
        for (stack, rest, made), n in kinds.items()
    ]
    return (*others, *grouped)


def _escape(text: str) -> str:
    """For ECMAScript expressions, which std::regex reads."""
    return _SPECIAL.sub(r"\\\1", text)


def _mixture(tensors: tuple[Tensor, ...], outcome: DryRun) -> dict[str, str]:
    """The types of all quantized tensors. All are pinned when some are raised: the quantizer
    counts layers by the tensors it decides on, so that one pattern shifts the mixture behind it."""
    types = {tensor.name: outcome.types[tensor.name] for tensor in tensors}
    return {name: made for name, made in types.items() if tensor_type(made).block_size > 1}


def _raised(
    tensors: tuple[Tensor, ...], outcome: DryRun, names: frozenset[str], better: str
) -> dict[str, str]:
    """Tensors of these names that would be stored in fewer bits than `better`."""
    least = _bits(better)
    return {
        tensor.name: better
        for tensor in tensors
        if tensor.name in names
        and tensor_type(outcome.types[tensor.name]).block_size > 1
        and _bits(outcome.types[tensor.name]) < least
    }


def _bits(name: str) -> float:
    kind = tensor_type(name)
    return 8 * kind.block_bytes / kind.block_size
