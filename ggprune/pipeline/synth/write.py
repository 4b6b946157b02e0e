"""The job of `ggprune synth`: shape -> tensors -> types -> layout -> streamed bytes -> published.

Which type each tensor gets is for llama.cpp's quantizer to say: it is shown the header of the F16
model and asked what it would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggprune.errors import LlamaError, UsageError
from ggprune.files.copy import start_writeback
from ggprune.files.outputs import PendingFile, check_output, disk_errors
from ggprune.files.system import write_at
from ggprune.model.gguf import DEFAULT_ALIGNMENT, VERSIONS, GGUFFile
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import Value, ValueType, scalar
from ggprune.model.model import Model, open_model
from ggprune.model.types import tensor_type
from ggprune.pipeline.files import OutputFiles, header_only, publish
from ggprune.pipeline.synth.metadata import make_metadata
from ggprune.pipeline.synth.shapes import Shape
from ggprune.pipeline.synth.tensors import Weights, count_parameters, make_tensors
from ggprune.pipeline.synth.weights import weight_bytes
from ggprune.progress import SILENT, Progress
from ggprune.quantize.options import COPY, FILE_TYPES, QuantizeOptions, parse_type
from ggprune.quantize.quantizer import dry_run
from ggprune.runtime.isolate import isolated
from ggprune.surgery.contents import Contents, OutTensor
from ggprune.surgery.layout import Layout, lay_out
from ggprune.surgery.rewrite import write_header
from ggprune.surgery.verify import verify_structure

# The version and alignment of files that do not come from another one.
_NO_FILE = GGUFFile(
    path=Path(), version=VERSIONS[-1], alignment=DEFAULT_ALIGNMENT, metadata={}, tensors=(),
    data_offset=0, size_bytes=0,
)  # fmt: skip
NEW = Model((_NO_FILE,), {}, ())
QUANTIZATION_VERSION = 2  # ggml/include/ggml.h, GGML_QNT_VERSION
# Types that llama-quantize makes with an importance matrix only (src/llama-quant.cpp,
# tensor_requires_imatrix). One changes the mixture of other types: those are asked for without.
WITH_IMATRIX = (
    "Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A synthetic model before its numbers are drawn: every byte has its place."""

    shape: Shape
    type: str
    seed: int
    weights: tuple[Weights, ...]
    contents: Contents
    layout: Layout

    @property
    def n_param(self) -> int:
        return count_parameters(self.weights)

    @property
    def size_bytes(self) -> int:
        return self.layout.size_bytes


def make_blueprint(shape: Shape, type_name: str, *, seed: int = 0) -> Blueprint:
    """Work out the model's tensors, their types and its exact size; writes nothing.

    Raises UsageError for a type that does not exist, LlamaError for one that the shape's rows do
    not fit into.
    """
    name = parse_type(type_name)
    if name == COPY:
        raise UsageError(f"{COPY} is not a type that a model can be made in")
    weights, metadata = make_tensors(shape), make_metadata(shape, seed)
    types = _types(shape, weights, metadata, name)
    metadata |= {
        "general.quantization_version": scalar(ValueType.UINT32, QUANTIZATION_VERSION),
        "general.file_type": scalar(ValueType.UINT32, FILE_TYPES[name]),
    }
    contents = _contents(weights, metadata, types)
    layout = lay_out(NEW, contents)
    return Blueprint(
        shape=shape, type=name, seed=seed, weights=weights, contents=contents, layout=layout
    )


def synthesize(
    blueprint: Blueprint,
    out: Path,
    *,
    force: bool = False,
    check_load: bool = True,
    progress: Progress = SILENT,
) -> OutputFiles:
    """Write the model. Raises OutputError before any work if `out` must not or cannot be written.

    Memory holds a few MiB of the model at a time; the same blueprint gives the same bytes.
    """
    check_output(out, (), force=force, size_bytes=blueprint.size_bytes)
    with disk_errors(out), PendingFile(out) as result:
        with result.named():
            _write(blueprint, result.fd, progress.part("generate"))
            verify_structure(blueprint.contents, open_model(result.path))
        return publish([result], force=force, check_load=check_load)


def _write(blueprint: Blueprint, fd: int, progress: Progress) -> None:
    done, total = 0, sum(tensor.size_bytes for tensor in blueprint.contents.tensors)
    write_header(blueprint.layout, fd)
    for weights, place in zip(blueprint.weights, blueprint.layout.placements, strict=True):
        offset = place.offset
        for data in weight_bytes(weights, place.tensor.type, blueprint.seed):
            write_at(fd, data, offset)
            start_writeback(fd, offset, len(data))
            offset, done = offset + len(data), done + len(data)
            progress.step(done, total)


def _types(
    shape: Shape, weights: tuple[Weights, ...], metadata: Mapping[str, Value], name: str
) -> dict[str, str]:
    """Type of every tensor in llama-quantize's mixture of that name."""
    source = _contents(weights, metadata, {w.name: w.source_type for w in weights})
    imatrix = None
    if name in WITH_IMATRIX:  # enough for a dry run, which looks whether there is one
        imatrix = Imatrix(
            path=Path("none"), entries={weights[0].name: np.ones(1, np.float32)}, dataset="",
            n_chunk=0,
        )  # fmt: skip
    with header_only(lay_out(NEW, source)) as model:
        try:
            return isolated(dry_run, model, QuantizeOptions(name), imatrix)
        except LlamaError as e:
            raise LlamaError(str(e).replace(str(model.path), shape.name)) from e


def _contents(
    weights: tuple[Weights, ...], metadata: Mapping[str, Value], types: Mapping[str, str]
) -> Contents:
    tensors = tuple(OutTensor(w.name, tensor_type(types[w.name]), w.shape, None) for w in weights)
    return Contents(metadata, tensors, {})
