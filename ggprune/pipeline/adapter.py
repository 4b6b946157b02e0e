"""What healing changed as a LoRA adapter: a GGUF that is written, proved and tried.

It belongs to the pruned model as it was before. Keys and names are those that llama.cpp's
src/llama-adapter.cpp reads; factors come from the file where fitted matrices wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ggprune.files.outputs import PendingFile
from ggprune.healing.result import Refitted
from ggprune.model.gguf import Tensor
from ggprune.model.metadata import Value, ValueType, scalar, string
from ggprune.model.model import Model
from ggprune.model.types import tensor_type
from ggprune.pipeline.files import header_only
from ggprune.pipeline.synth.write import NEW
from ggprune.runtime.adapters import check_adapter_loads
from ggprune.runtime.isolate import isolated
from ggprune.surgery.contents import ARCHITECTURE, Contents, OutTensor, contents_of
from ggprune.surgery.layout import lay_out
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.remap import ADAPTER_TYPE
from ggprune.surgery.rewrite import write_proved

FLOAT = tensor_type("F32")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was written."""

    path: Path
    size_bytes: int


def adapter_file(path: Path) -> AdapterFile:
    """One that has its name."""
    return AdapterFile(path, path.stat().st_size)


def adapter_metadata(arch: str, alpha: float) -> dict[str, Value]:
    """What llama.cpp reads: it scales B A by alpha over the rank."""
    return {
        ARCHITECTURE: string(arch),
        "general.type": string("adapter"),
        ADAPTER_TYPE: string("lora"),
        "adapter.lora.alpha": scalar(ValueType.FLOAT32, alpha),
    }


@dataclass(frozen=True)
class AdapterWriter:
    """Writes adapters of one rank, of what a file keeps of fitted matrices."""

    patch: Path
    rank: int
    metadata: Mapping[str, Value] = field(default_factory=dict)  # where it comes from

    def __call__(self, target: PendingFile, arch: str, fitted: Mapping[str, Refitted]) -> None:
        """For a model of an architecture; `fitted` by its tensor names.

        Raises VerificationError if it cannot be read back, OSError if the disk is full.
        """
        metadata = {**adapter_metadata(arch, self.rank), **self.metadata}
        tensors = tuple(
            OutTensor(tensor.name, tensor.type, tensor.shape, tensor)
            for name, item in fitted.items() for tensor in self._factors(name, item)
        )  # fmt: skip
        contents = Contents(metadata, tensors, {})
        write_proved(contents, [lay_out(NEW, contents)], [target])

    def _factors(self, name: str, item: Refitted) -> Iterator[Tensor]:
        assert item.factors is not None
        (n_in, n_out), rank, offset = item.shape, item.factors.rank, item.factors.offset
        for suffix, shape in ((".lora_a", (n_in, rank)), (".lora_b", (rank, n_out))):
            size_bytes = FLOAT.size_bytes(shape)
            yield Tensor(
                name=name + suffix, type=FLOAT, shape=shape, path=self.patch, offset=offset,
                size_bytes=size_bytes,
            )  # fmt: skip
            offset += size_bytes


def check_fits(
    target: PendingFile, pruned: Model | None, base: Model, plan: PrunePlan | None
) -> None:
    """Let llama.cpp load an adapter beside the pruned model that it belongs to.

    Where there is none, beside what it would be, without its weights. Raises LlamaError.
    """
    with contextlib.ExitStack() as stack:
        model = pruned or stack.enter_context(header_only(lay_out(base, contents_of(base, plan))))
        stack.enter_context(target.named())
        isolated(check_adapter_loads, [file.path for file in model.files], target.path)
