"""Which worker processes a machine gets: one for each group of GPUs, or of its memory's nodes."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.cluster.place import Place
from ggprune.errors import UsageError
from ggprune.model.layers import parse_layers
from ggprune.runtime.devices import devices
from ggprune.runtime.library import default_threads
from ggprune.scoring.kept import FREE_SHARE, free_bytes

NODES = Path("/sys/devices/system/node")
# What limits the GPUs that a process sees, by how llama.cpp names them.
VISIBLE = {
    "CUDA": "CUDA_VISIBLE_DEVICES", "ROCm": "HIP_VISIBLE_DEVICES",
    "Vulkan": "GGML_VK_VISIBLE_DEVICES", "SYCL": "ONEAPI_DEVICE_SELECTOR",
}  # fmt: skip
MAX_CPUS = 1 << 16
SELECTOR = "level_zero:"  # in front of SYCL's


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What can compute here."""

    gpus: tuple[str, ...]  # as llama.cpp names them: CUDA0, CUDA1
    numbers: tuple[int, ...] = ()  # of these, among all that are seen; none: 0, 1, ...
    nodes: tuple[tuple[int, ...], ...]  # CPUs of each NUMA node, of those that may be used
    n_thread: int
    free_bytes: int = 0  # of its memory

    @property
    def backend(self) -> str:
        return re.sub(r"\d+$", "", self.gpus[0]) if self.gpus else "CPU"


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """One process: its name, what it is told, and what it sees of the machine."""

    name: str  # host/process-number: no two of a scheduler have the same
    place: Place
    environ: Mapping[str, str]  # the GPUs that are its own


def look() -> Machine:
    """Loads llama.cpp, and with it the drivers of GPUs."""
    gpus = [device.name for device in devices() if device.kind == "gpu"]
    kinds = [re.sub(r"\d+$", "", name) for name in gpus]
    first = tuple(name for name, kind in zip(gpus, kinds, strict=True) if kind == kinds[0])
    return Machine(gpus=first, nodes=_nodes(), n_thread=default_threads(), free_bytes=free_bytes())


def _nodes() -> tuple[tuple[int, ...], ...]:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    nodes = []
    for path in sorted(NODES.glob("node[0-9]*/cpulist")):
        listed = path.read_text("ascii").strip()
        cpus = allowed.intersection(parse_layers(listed, MAX_CPUS) if listed else ())
        if cpus:
            nodes.append(tuple(sorted(cpus)))
    return tuple(nodes)


def chosen_gpus(machine: Machine, numbers: Sequence[int] | None) -> Machine:
    """With these of its GPUs only; None: all. Raises UsageError for one that is not there."""
    if numbers is None:
        return machine
    strange = next((n for n in numbers if n >= len(machine.gpus)), None)
    if strange is not None:
        raise UsageError(f"--gpus {strange}: llama.cpp sees {len(machine.gpus)} GPUs here")
    return replace(machine, gpus=tuple(machine.gpus[n] for n in numbers), numbers=tuple(numbers))


def plans_for(
    machine: Machine, n_worker: int | None, gpus_per_worker: int, place: Place,
    environ: Mapping[str, str] = os.environ,
) -> list[WorkerPlan]:  # fmt: skip
    """`n_worker` None: as many as there are groups of GPUs, or NUMA nodes.

    Raises UsageError for more of them than there are GPUs.
    """
    host = f"{socket.gethostname()}/{os.getpid()}"
    if machine.gpus:
        groups = _gpu_groups(machine, n_worker, gpus_per_worker)
        plans = [
            WorkerPlan(name=f"{host}-{i}", place=place, environ=visible(machine, group, environ))
            for i, group in enumerate(groups)
        ]
        return _divided(plans, machine)
    if gpus_per_worker > 1:
        raise UsageError(f"--gpus-per-worker {gpus_per_worker}: llama.cpp sees no GPU here")
    if n_worker is None:
        nodes = machine.nodes or ((),)
        plans = [
            WorkerPlan(name=f"{host}-{i}", place=replace(place, cpus=cpus), environ={})
            for i, cpus in enumerate(nodes)
        ]
    else:
        plans = [WorkerPlan(name=f"{host}-{i}", place=place, environ={}) for i in range(n_worker)]
    return _divided(plans, machine)


def _gpu_groups(machine: Machine, n_worker: int | None, each: int) -> list[tuple[int, ...]]:
    n_gpu = len(machine.gpus)
    most = n_gpu // each
    if most < (n_worker or 1):
        of = f" of {each} GPUs each" if each > 1 else ""
        raise UsageError(f"--workers {n_worker or 'auto'}{of}: there are {n_gpu} GPUs")
    numbers = machine.numbers or tuple(range(n_gpu))
    groups = [numbers[i * each : (i + 1) * each] for i in range(most)]
    return groups[:n_worker]


def visible(machine: Machine, group: Sequence[int], environ: Mapping[str, str]) -> dict[str, str]:
    """What has a process see these GPUs only, of those that this one sees."""
    name = VISIBLE.get(machine.backend)
    if name is None:
        return {}
    prefix = SELECTOR if machine.backend == "SYCL" else ""
    given = environ.get(name, "").removeprefix(prefix)
    known = [each for each in given.split(",") if each]
    if len(known) <= max(group):  # nothing is said, or all of them by a pattern
        known = [str(i) for i in range(max(group) + 1)]
    return {name: prefix + ",".join(known[i] for i in group)}


def _divided(plans: list[WorkerPlan], machine: Machine) -> list[WorkerPlan]:
    """The CPU's threads, and the memory for chunks, unless the user has said how much each gets."""
    threads = max(1, machine.n_thread // len(plans))
    keep = machine.free_bytes // FREE_SHARE // len(plans)

    def place(given: Place) -> Place:
        return replace(
            given, threads=given.threads or threads,
            keep_bytes=given.keep_bytes if given.keep_bytes is not None else keep,
        )  # fmt: skip

    return [replace(plan, place=place(plan.place)) for plan in plans]
