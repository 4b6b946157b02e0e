"""The options that say how to quantize, named as llama-quantize names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggprune.errors import UsageError

if TYPE_CHECKING:
    from ggprune.quantize.options import QuantizeOptions

TypeOption = Annotated[
    str | None,
    typer.Option("--type", show_default=False, help="Requantize as well: Q4_K_M, Q8_0, ..."),
]
TensorTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type",
        metavar="REGEX=TYPE",
        show_default=False,
        help="Store tensors whose names match in this type: attn_v=q8_0. Repeatable; the first "
        "match counts. Layer numbers are those of the input.",
    ),
]
TensorTypeFile = Annotated[
    Path | None,
    typer.Option(show_default=False, help="The same from a file, separated by spaces or lines."),
]
NewNumbers = Annotated[
    bool,
    typer.Option(
        "--new-numbers",
        help="--tensor-type sees the layer numbers of the pruned model, not of the original.",
    ),
]
OutputTensorType = Annotated[
    str | None,
    typer.Option("--output-tensor-type", metavar="TYPE", show_default=False,
                 help="Type of output.weight."),
]  # fmt: skip
TokenEmbeddingType = Annotated[
    str | None,
    typer.Option("--token-embedding-type", metavar="TYPE", show_default=False,
                 help="Type of the token embeddings."),
]  # fmt: skip
LeaveOutputTensor = Annotated[
    bool, typer.Option("--leave-output-tensor", help="Leave output.weight as it is.")
]
Pure = Annotated[bool, typer.Option("--pure", help="No mixture: all tensors in one type.")]
IncludeWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--include-weights",
        metavar="NAME",
        show_default=False,
        help="Use the importance matrix only for tensors with this in their original name. "
        "Repeatable.",
    ),
]
ExcludeWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-weights",
        metavar="NAME",
        show_default=False,
        help="... for all but tensors with this in their original name. Repeatable.",
    ),
]
BumpInterface = Annotated[
    str | None,
    typer.Option(
        "--bump-interface",
        metavar="TYPE",
        show_default=False,
        help="Store the layers on both sides of a cut in this type at least. The next larger "
        "--type gains more for the same bytes (docs/benchmarks.md).",
    ),
]
OverrideKv = Annotated[
    list[str] | None,
    typer.Option(
        "--override-kv",
        metavar="KEY=TYPE:VALUE",
        show_default=False,
        help="Set a metadata value; TYPE is int, float, bool or str. Repeatable.",
    ),
]
MaxBufferSize = Annotated[
    int | None,
    typer.Option(
        "--max-buffer-size",
        metavar="MIB",
        min=1,
        show_default="8192",
        help="Keep at most so much of one tensor in memory.",
    ),
]


def quantize_options(
    type_name: str | None,
    *,
    threads: int | None,
    imatrix: Path | None,
    tensor_types: list[str] | None,
    tensor_type_file: Path | None,
    output_tensor_type: str | None,
    token_embedding_type: str | None,
    include_weights: list[str] | None,
    exclude_weights: list[str] | None,
    override_kv: list[str] | None = None,
    bump_interface: str | None = None,
    max_buffer_size: int | None = None,
    **flags: bool,
) -> QuantizeOptions | None:
    """The options of one call, None without a type.

    `flags` are fields of QuantizeOptions. Raises UsageError where one option misses another.
    """
    from ggprune.quantize.options import (
        QuantizeOptions,
        parse_overrides,
        parse_rule,
        parse_tensor_type,
        parse_type,
        read_rules,
    )

    given: dict[str, Any] = {
        "--imatrix": imatrix, "--allow-requantize": flags.get("allow_requantize"),
        "--tensor-type": tensor_types, "--tensor-type-file": tensor_type_file,
        "--output-tensor-type": output_tensor_type, "--pure": flags.get("pure"),
        "--token-embedding-type": token_embedding_type, "--include-weights": include_weights,
        "--leave-output-tensor": flags.get("leave_output_tensor"),
        "--exclude-weights": exclude_weights, "--bump-interface": bump_interface,
        "--new-numbers": flags.get("new_numbers"),
    }  # fmt: skip
    used = [option for option, value in given.items() if value]
    if type_name is None:
        if used:
            raise UsageError(f"{used[0]} says how to quantize: add --type")
        return None
    _check_pairs(used)
    rules = [parse_rule(text) for text in tensor_types or ()]
    rules += read_rules(tensor_type_file) if tensor_type_file is not None else ()

    def tensor_type(name: str | None) -> str | None:
        return parse_tensor_type(name) if name is not None else None

    return QuantizeOptions(
        parse_type(type_name),
        n_threads=threads,
        output_tensor_type=tensor_type(output_tensor_type),
        token_embedding_type=tensor_type(token_embedding_type),
        tensor_types=tuple(rules),
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        overrides=parse_overrides(override_kv or ()),
        bump_interface=tensor_type(bump_interface),
        max_buffer_mib=max_buffer_size,
        **flags,
    )


def _check_pairs(used: list[str]) -> None:
    """Options that would do nothing without another one."""
    for option in ("--include-weights", "--exclude-weights"):
        if option in used and "--imatrix" not in used:
            raise UsageError(f"{option} chooses from an importance matrix: add --imatrix")
    if "--new-numbers" in used and not {"--tensor-type", "--tensor-type-file"} & set(used):
        raise UsageError("--new-numbers says what --tensor-type sees: add --tensor-type")
