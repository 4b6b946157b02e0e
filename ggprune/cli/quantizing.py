"""The options that say how to quantize, named as llama-quantize names them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli.completion import rule_of
from ggprune.cli.options import tensor_types
from ggprune.errors import UsageError
from ggprune.files.reading import name_of, seekable
from ggprune.model.imatrix import Imatrix, read_imatrix
from ggprune.quantize.options import (
    QuantizeOptions,
    parse_overrides,
    parse_rule,
    parse_tensor_type,
    parse_type,
    read_rules,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quantizing:
    """How to quantize what layers were dropped from."""

    # fmt: off
    imatrix: Annotated[Path | None, Option(
        "--imatrix", help="Importance matrix of the unpruned model (GGUF or .dat) for quantizing."
    )] = None
    include_weights: Annotated[list[str] | None, Option(
        "--include-weights", metavar="NAME",
        help="Use the importance matrix only for tensors with this in their original name. "
        "Repeatable.",
    )] = None
    exclude_weights: Annotated[list[str] | None, Option(
        "--exclude-weights", metavar="NAME",
        help="... for all but tensors with this in their original name. Repeatable.")] = None
    tensor_types: Annotated[list[str] | None, Option(
        "--tensor-type", metavar="REGEX=TYPE", autocompletion=rule_of(tensor_types),
        help="Store tensors whose names match in this type: attn_v=q8_0. Repeatable; the first "
        "match counts. Layer numbers are those of the input.",
    )] = None
    tensor_type_file: Annotated[Path | None, Option(
        help="The same from a file, separated by spaces or lines.")] = None
    new_numbers: Annotated[bool, Option(
        "--new-numbers",
        help="--tensor-type sees the layer numbers of the pruned model, not of the original.",
    )] = False
    output_tensor_type: Annotated[str | None, Option(
        "--output-tensor-type", metavar="TYPE", autocompletion=tensor_types,
        help="Type of output.weight.")] = None
    token_embedding_type: Annotated[str | None, Option(
        "--token-embedding-type", metavar="TYPE", autocompletion=tensor_types,
        help="Type of the token embeddings.")] = None
    leave_output_tensor: Annotated[bool, Option(
        "--leave-output-tensor", help="Leave output.weight as it is.")] = False
    pure: Annotated[bool, Option("--pure", help="No mixture: all tensors in one type.")] = False
    bump_interface: Annotated[str | None, Option(
        "--bump-interface", metavar="TYPE", autocompletion=tensor_types,
        help="Store the layers on both sides of a cut in this type at least. The next larger "
        "--type gains more for the same bytes (docs/benchmarks.md).",
    )] = None
    allow_requantize: Annotated[bool, Option(
        "--allow-requantize", help="Quantize tensors that are quantized already.")] = False
    # fmt: on
    override_kv: list[str] | None = None  # an option where the model keeps its layers

    @property
    def files(self) -> tuple[Path | None, ...]:
        """What is read, and must not be written over."""
        return self.imatrix, self.tensor_type_file

    def matrix(self) -> Imatrix | None:
        return given_imatrix(self.imatrix)

    def used(self) -> list[str]:
        """The options that were given, in the order in which they are complained about."""
        given = {
            "--imatrix": self.imatrix, "--allow-requantize": self.allow_requantize,
            "--tensor-type": self.tensor_types, "--tensor-type-file": self.tensor_type_file,
            "--output-tensor-type": self.output_tensor_type, "--pure": self.pure,
            "--token-embedding-type": self.token_embedding_type,
            "--include-weights": self.include_weights,
            "--leave-output-tensor": self.leave_output_tensor,
            "--exclude-weights": self.exclude_weights, "--bump-interface": self.bump_interface,
            "--new-numbers": self.new_numbers,
        }  # fmt: skip
        return [option for option, value in given.items() if value]

    def options(self, type_name: str | None, threads: int | None) -> QuantizeOptions | None:
        """None without a type. Raises UsageError where one option misses another."""
        if type_name is None:
            if used := self.used():
                raise UsageError(f"{used[0]} says how to quantize: add --type")
            return None
        return self.to_type(type_name, threads)

    def to_type(
        self, type_name: str, threads: int | None, max_buffer_mib: int | None = None
    ) -> QuantizeOptions:
        used = self.used()
        for option in ("--include-weights", "--exclude-weights"):
            if option in used and "--imatrix" not in used:
                raise UsageError(f"{option} chooses from an importance matrix: add --imatrix")
        if "--new-numbers" in used and not {"--tensor-type", "--tensor-type-file"} & set(used):
            raise UsageError("--new-numbers says what --tensor-type sees: add --tensor-type")
        rules = [parse_rule(text) for text in self.tensor_types or ()]
        rules += read_rules(self.tensor_type_file) if self.tensor_type_file is not None else ()
        return QuantizeOptions(
            parse_type(type_name), n_threads=threads,
            output_tensor_type=_tensor_type(self.output_tensor_type),
            token_embedding_type=_tensor_type(self.token_embedding_type),
            tensor_types=tuple(rules), include_weights=tuple(self.include_weights or ()),
            exclude_weights=tuple(self.exclude_weights or ()),
            overrides=parse_overrides(self.override_kv or ()),
            bump_interface=_tensor_type(self.bump_interface), max_buffer_mib=max_buffer_mib,
            allow_requantize=self.allow_requantize, new_numbers=self.new_numbers,
            leave_output_tensor=self.leave_output_tensor, pure=self.pure,
        )  # fmt: skip


def given_imatrix(path: Path | None) -> Imatrix | None:
    """The user's importance matrix; it may come out of a pipe."""
    if path is None:
        return None
    with seekable(path) as file:
        return replace(read_imatrix(file), path=Path(name_of(path)))


def _tensor_type(name: str | None) -> str | None:
    return parse_tensor_type(name) if name is not None else None
