"""Options of llama.cpp's tools that stand in people's scripts, and that ggprune does not have.

One that asks for what happens anyway is taken and does nothing; for any other one line says what
there is instead. None is ignored. Two letters behind one dash would else be read as two options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from typer.core import TyperCommand

from ggprune.cli.help import Described
from ggprune.errors import UsageError

GPUS = "layers are divided between all GPUs; CUDA_VISIBLE_DEVICES chooses among them"
DOWNLOAD = "nothing is downloaded: give the path of a file"


@dataclass(frozen=True)
class Foreign:
    """An option that ggprune does without."""

    names: str
    instead: str
    usual: tuple[str, ...] = ()  # values that ask for what happens anyway
    has_value: bool = True
    is_met: bool = False  # an option without a value that asks for it


def _flag(names: str, instead: str, *, is_met: bool = False) -> Foreign:
    return Foreign(names, instead, has_value=False, is_met=is_met)


OVERRIDE = Foreign(
    "--override-kv",
    "write the file first, then: ggprune quantize OUT.gguf NEW.gguf COPY --override-kv ...",
)
MODEL = Foreign("-m --model", "name the model alone, without an option in front")

# tools/llama-bench/llama-bench.cpp, and options that older ones had; tools/quantize/quantize.cpp;
# common/arg.cpp
OPTIONS: Mapping[str, tuple[Foreign, ...]] = {
    "bench": (
        Foreign("-mmp --mmap", "weights are mapped always", ("1",)),
        Foreign("-dio --direct-io", "weights are mapped always", ("0",)),
        Foreign("-lm --load-mode", "weights are mapped always", ("auto", "mmap")),
        Foreign("-lzm --lazy-mode", "weights are loaded as llama.cpp does by default", ("auto",)),
        Foreign("-ncmoe --n-cpu-moe", "experts are where -ngl puts their layers", ("0",)),
        Foreign("-nkvo --no-kv-offload", "the cache is where -ngl puts the layers", ("0",)),
        Foreign("-ot --override-tensor", "tensors are where -ngl puts their layers"),
        Foreign("-sm --split-mode", GPUS, ("layer",)),
        Foreign("-mg --main-gpu", GPUS, ("0",)),
        Foreign("-ts --tensor-split", GPUS, ("0",)),
        Foreign("-dev --device", GPUS, ("auto",)),
        Foreign("-rpc --rpc", "the machine's own devices are measured"),
        Foreign("-C --cpu-mask", "taskset -c runs ggprune on the cores that you name", ("0x0",)),
        Foreign("--cpu-strict", "taskset -c runs ggprune on the cores that you name", ("0",)),
        Foreign("--numa", "numactl runs ggprune on the nodes that you name"),
        Foreign("--poll", "threads wait as llama.cpp has them by default", ("50",)),
        Foreign("--prio", "nice runs ggprune with another priority", ("0",)),
        Foreign("--delay", "models take turns, without pauses", ("0",)),
        Foreign("-embd --embeddings", "logits are computed, not embeddings", ("0",)),
        Foreign("-nopo --no-op-offload", "operations are offloaded as by default", ("0",)),
        Foreign("--no-host", "host buffers are used as by default", ("0",)),
        Foreign("--repack", "weights are repacked as by default", ("1",)),
        Foreign("-fitt --fit-target", "-ngl says how many layers are on the GPU", ("0",)),
        Foreign("-fitc --fit-ctx", "-ngl says how many layers are on the GPU"),
        Foreign("-hf -hfr --hf-repo", DOWNLOAD),
        Foreign("-hff --hf-file", DOWNLOAD),
        Foreign("-hft --hf-token", DOWNLOAD),
        Foreign("-oe --output-err", "-o prints rows in that form, to stdout"),
        _flag("-v --verbose", "llama.cpp's log is not shown; where it fails, its reason is"),
        _flag("--list-devices", "the devices stand below every benchmark"),
        _flag("--offline", DOWNLOAD, is_met=True),
        _flag("--progress", "a terminal shows a bar", is_met=True),
    ),
    "quantize": (
        Foreign("--prune-layers", "ggprune prune --prune-layers ... --type TYPE does both"),
    ),
    "prune": (OVERRIDE,),
    "auto": (OVERRIDE, MODEL),
    "heal": (OVERRIDE, MODEL),
    "eval": (MODEL,),
    "rank": (MODEL,),
}  # fmt: skip


class Command(Described, TyperCommand):
    """A command that knows the options of the tool that it is like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {
            name: option for option in OPTIONS.get(self.name or "", ())
            for name in option.names.split()
        }  # fmt: skip
        own = {
            name for param in self.params if not getattr(param, "is_flag", False)
            for name in param.opts if name.startswith("-")
        }  # fmt: skip
        if not ctx.resilient_parsing:  # a shell that completes asks for no errors
            args = list(_without(args, known, own))
        return list(super().parse_args(ctx, args))


def _without(args: list[str], known: Mapping[str, Foreign], own: Set[str]) -> Iterator[str]:
    """The arguments but for those that ask for what happens anyway; `own` are the options that have
    a value. Raises UsageError.
    """
    left = iter(args)
    for arg in left:
        name, equals, value = arg.partition("=")
        if arg == "--":
            yield arg
            yield from left
        elif name in own:
            yield arg
            yield from [] if equals else islice(left, 1)
        elif name not in known:
            yield arg
        else:
            foreign = known[name]
            if foreign.has_value and not equals:
                value = next(left, "")
            if not foreign.is_met and value not in foreign.usual:
                asked = f"{name} {value}".strip()
                raise UsageError(f"there is no {asked}: {foreign.instead}")
