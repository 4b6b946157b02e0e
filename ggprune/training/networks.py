"""The original model and the pruned one as torch modules that share what they have in common.

transformers reads the GGUF file of the original. The student is a second tree of modules with the
same parameters, without the layers that were dropped; only what differs has memory of its own:
tensors that healing or quantizing changed, adapters, and with full training the layers themselves.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from ggprune.errors import ArchitectureError
from ggprune.metrics.estimates import Float32
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model
from ggprune.model.types import TensorType
from ggprune.runtime.convert import Dequantizer
from ggprune.training.layout import LAYER, Layout, Parameter, find_layouts

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def load(model: Model, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model, frozen, as transformers reads it from one GGUF file.

    Raises ArchitectureError if it cannot.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = model.path
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # bars of its own
            network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, local_files_only=True
            )
    except Exception as e:  # whatever another library raises for what it does not know
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise ArchitectureError(
            f"{path}: transformers cannot read this {model.arch} model, which torch is needed for "
            f"(ggprune heal without --train can repair it): {reason}"
        ) from e
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # both models are to say the same every time
    return network.requires_grad_(False).to(device)


@dataclass
class Pair:
    """The original, and the pruned model that is trained."""

    teacher: PreTrainedModel
    student: PreTrainedModel | PeftModel
    layouts: Mapping[str, Layout | None]  # by role
    keep: tuple[int, ...]
    prefix: str  # of names of a layer's parameters, in front of its number

    def role(self, name: str) -> tuple[str, int | None]:
        """A parameter's name with `{}` in place of its layer's number, and that number."""
        return _role(name, self.prefix)

    def layout(self, name: str) -> tuple[Layout, str]:
        """How a parameter of the student lies in the pruned file, and in which tensor.

        Raises ArchitectureError if it has been found nowhere.
        """
        role, layer = self.role(name)
        layout = self.layouts.get(role)
        if layout is None:
            raise ArchitectureError(
                f"{role}: no tensor of the file has the values of this parameter, or several have: "
                "it cannot be trained"
            )
        return layout, layout.name(layer)


def make_pair(
    base: Model, pruned: Model, keep: Sequence[int], n_layer: int,
    dtype: torch.dtype, device: torch.device,
) -> Pair:  # fmt: skip
    """Nothing of it is trained yet. Raises ArchitectureError for what cannot be proved right."""
    teacher = load(base, dtype, device)
    prefix = layers_name(teacher, n_layer, base.path)
    parameters = _parameters(teacher, prefix)
    pair = Pair(
        teacher=teacher, student=without_layers(teacher, prefix, keep, n_layer),
        layouts=find_layouts(parameters, base, read_values), keep=tuple(keep), prefix=prefix,
    )  # fmt: skip
    _take_over(pair, base, pruned)
    return pair


def read_values(tensor: Tensor) -> Float32:
    """All values of a tensor, rows first."""
    raw = np.fromfile(tensor.path, np.uint8, tensor.size_bytes, offset=tensor.offset)
    return decoded(raw, tensor.type, tensor.shape)


def decoded(raw: np.ndarray, kind: TensorType, shape: Sequence[int]) -> Float32:
    floats = np.empty(math.prod(shape), np.float32)
    Dequantizer(kind)(raw, floats)
    return floats.reshape(shape[::-1])


def _role(name: str, prefix: str) -> tuple[str, int | None]:
    if not name.startswith(prefix + "."):
        return name, None
    number, rest = name[len(prefix) + 1 :].split(".", 1)
    return f"{prefix}.{{}}.{rest}", int(number)


def layers_name(network: PreTrainedModel, n_layer: int, path: Path) -> str:
    lists = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layer
    ]
    if len(lists) != 1:
        raise ArchitectureError(
            f"{path}: {len(lists)} lists of {n_layer} layers in {type(network).__name__}, expected "
            "one: torch cannot be used with it"
        )
    return str(lists[0])


def _parameters(network: nn.Module, prefix: str) -> Iterator[Parameter]:
    def reader(values: torch.Tensor) -> Callable[[], Float32]:
        return lambda: to_numpy(values)

    for name, values in network.named_parameters():
        role, layer = _role(name, prefix)
        yield Parameter(role, layer, tuple(values.shape), reader(values))


def to_numpy(values: torch.Tensor) -> Float32:
    result: Float32 = values.detach().to("cpu", torch.float32).numpy()
    return result


def same_modules(network: PreTrainedModel) -> PreTrainedModel:
    """Another tree of modules with the same parameters; what is changed of it stays its own."""
    shared = {id(t): t for part in (network.parameters(), network.buffers()) for t in part}
    return copy.deepcopy(network, shared)


def without_layers(
    teacher: PreTrainedModel, prefix: str, keep: Sequence[int], n_layer: int
) -> PreTrainedModel:
    """The same modules with the same parameters; lists in the configuration follow the layers."""
    student = same_modules(teacher)
    layers = student.get_submodule(prefix)
    assert isinstance(layers, nn.ModuleList)
    kept = nn.ModuleList(layers[n] for n in keep)
    parent, _, name = prefix.rpartition(".")
    setattr(student.get_submodule(parent), name, kept)
    for number, layer in enumerate(kept):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number
    for config in {id(c): c for c in (student.config, student.config.get_text_config())}.values():
        for key, value in list(vars(config).items()):
            if isinstance(value, list | tuple) and len(value) == n_layer:
                setattr(config, key, type(value)(value[n] for n in keep))
        config.num_hidden_layers = len(keep)
    return student


def _take_over(pair: Pair, base: Model, pruned: Model) -> None:
    """Give the student tensors of its own where the pruned file has other ones than the base."""
    found = {layout.tensor: role for role, layout in pair.layouts.items() if layout is not None}
    for tensor in pruned.tensors:
        match = LAYER.match(tensor.name)
        layer = int(match[1]) if match else None
        if layer is not None and layer >= len(pair.keep):
            continue  # blocks for multi-token prediction
        name = f"blk.{{}}.{match[2]}" if match else tensor.name
        own = base.by_name.get(name.format(pair.keep[layer]) if layer is not None else name)
        if own is not None and _is_equal(own, tensor):
            continue
        role = found.get(name)
        layout = pair.layouts[role] if role is not None else None
        if own is None or role is None or layout is None:
            raise ArchitectureError(
                f"{pruned.path}: {tensor.name} is not the original's, and no parameter in torch "
                "has its values: it cannot be trained"
            )
        values = layout.to_torch(read_values(tensor))
        exchange(pair.student, role.format(layer), values)
    pair.student.tie_weights()


def _is_equal(a: Tensor, b: Tensor) -> bool:
    if (a.type, a.shape) != (b.type, b.shape):
        return False
    first, second = (np.memmap(t.path, np.uint8, "r", t.offset, (t.size_bytes,)) for t in (a, b))
    return bool(np.array_equal(first, second))


def exchange(network: nn.Module, name: str, values: Float32) -> None:
    """Give a network a parameter of its own, frozen, where it shared one."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    old = getattr(module, leaf)
    new = torch.from_numpy(np.ascontiguousarray(values)).to(old.device, old.dtype)
    setattr(module, leaf, nn.Parameter(new, requires_grad=False))


def projections(pair: Pair) -> list[str]:
    """Names of all matrices inside the student's layers that an adapter can be put on."""
    return [
        name
        for name, module in pair.student.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(pair.prefix + ".")
    ]


def add_adapters(pair: Pair, rank: int, alpha: float) -> PeftModel:
    """LoRA on all projections of the layers. Raises ArchitectureError for one that is not found."""
    names = projections(pair)
    for name in names:
        pair.layout(f"{name}.weight")
    kinds = {type(pair.student.get_submodule(name)) for name in names}
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none",
        fan_in_fan_out=Conv1D in kinds,
    )  # fmt: skip
    adapted: PeftModel = get_peft_model(pair.student, config)
    return adapted


def free_layers(pair: Pair) -> None:
    """Train the layers themselves: copies of all their parameters, in 32-bit floats.

    Raises ArchitectureError for a parameter that is not found.
    """
    for name, values in list(pair.student.named_parameters()):
        if name.startswith(pair.prefix + "."):
            pair.layout(name)
            path, _, leaf = name.rpartition(".")
            own = nn.Parameter(values.detach().clone().float())
            setattr(pair.student.get_submodule(path), leaf, own)


def logits_of(network: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(n_row, n_ctx) -> (n_row, n_ctx, n_vocab)."""
    logits: torch.Tensor = network(input_ids=tokens, use_cache=False).logits
    return logits
