"""The training process: load, prove, train, hand over what changed.

Runs by itself, or as one of several that share every step; then the first one writes.
"""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from ggprune.errors import ArchitectureError
from ggprune.metrics.estimates import Float32
from ggprune.model.model import open_model
from ggprune.progress import SILENT, Progress
from ggprune.training.checkpoint import Checkpoints
from ggprune.training.course import plan_course
from ggprune.training.loop import Log, State, Training, TrainRows, pick_device, train
from ggprune.training.losses import divergence, predictions
from ggprune.training.networks import (
    DTYPES,
    Pair,
    add_adapters,
    free_layers,
    logits_of,
    make_pair,
    projections,
    same_modules,
    to_numpy,
)
from ggprune.training.options import (
    PROOF_KLD,
    PROOF_SHARE,
    Changed,
    Device,
    Place,
    Precision,
    Proof,
    Run,
    Task,
    Trained,
    TrainOptions,
)
from ggprune.training.samples import Rows

MIXED = {Precision.F32: "no", Precision.BF16: "bf16", Precision.F16: "fp16"}
WAIT = timedelta(days=2)  # of processes for the first one, which may fit matrices before
N_SAMPLED = 16  # rows that inputs' mean squares are taken of, for quantizing


@dataclass(frozen=True)
class _Data:
    train: TrainRows
    aside: TrainRows
    proof_tokens: torch.Tensor  # (1, n_ctx)
    proof_logits: tuple[Float32, Float32]  # by llama.cpp: original, pruned; (n_ctx, n_vocab) each


def run(task: Task, progress: Progress = SILENT) -> None:
    """Train and write what changed to `task.out`, what is known about it to `task.result`.

    Raises ArchitectureError if torch does not compute what llama.cpp does, LlamaError if numbers
    are not finite.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other
    start, options = time.perf_counter(), task.options
    device = pick_device(options.device)
    options = replace(options, precision=options.precision or usual_precision(device))
    assert options.precision is not None
    if options.n_thread is not None:
        torch.set_num_threads(options.n_thread)
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision=MIXED[options.precision],
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )  # fmt: skip
    data, base = _read(task), open_model(task.base)
    pair = make_pair(
        base, open_model(task.pruned), task.keep, task.n_layer, DTYPES[options.precision.value],
        accelerator.device,
    )  # fmt: skip
    proof = _prove(pair, data, accelerator, base.arch, options.precision)
    progress.part("train").begin(
        f"torch computes what llama.cpp does: KLD {proof.original:.2g} (original), "
        f"{proof.pruned:.2g} (pruned); {len(data.train)} rows to learn from"
    )
    runs, best = list[Run](), None
    for n in range(options.n_seed):
        part = progress.part("train" if options.n_seed == 1 else f"train, seed {options.seed + n}")
        result, state = _run(accelerator, pair, data, task, options, options.seed + n, part)
        best = state if not runs or result.best.kld < min(r.best.kld for r in runs) else best
        runs.append(result)
    assert best is not None
    network = trainable(pair, options, options.seed)
    if accelerator.is_main_process:
        changed = _changed(network, pair, best, data, options, accelerator, task.out)
        trained = Trained(
            proof=proof, n_trainable=sum(v.numel() for v in best.values()),
            n_train_row=len(data.train), n_aside_row=len(data.aside), runs=tuple(runs),
            changed=tuple(changed), time_s=time.perf_counter() - start,
            peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        )  # fmt: skip
        task.result.write_bytes(pickle.dumps(trained))
    accelerator.wait_for_everyone()
    accelerator.end_training()


def lead(task: Task, progress: Progress) -> None:
    """As the first of several processes that a launcher has started."""
    _join(task.options.device)
    broadcast_object_list([task])
    run(task, progress)


def follow(device: Device) -> None:
    """As another one of them."""
    _join(device)
    told: list[Task | None] = [None]
    broadcast_object_list(told)
    assert told[0] is not None
    run(told[0])


def _join(device: Device) -> None:
    PartialState(cpu=pick_device(device).type == "cpu", timeout=WAIT)


def usual_precision(device: torch.device) -> Precision:
    return Precision.BF16 if device.type == "cuda" else Precision.F32


def _read(task: Task) -> _Data:
    with np.load(task.rows) as kept:
        train = Rows(kept["train"], kept["train_learned"])
        aside = Rows(kept["aside"], kept["aside_learned"])
        return _Data(
            TrainRows.of(train), TrainRows.of(aside),
            torch.from_numpy(kept["proof"]).long()[None], (kept["original"], kept["pruned"]),
        )  # fmt: skip


def _prove(
    pair: Pair, data: _Data, accelerator: Accelerator, arch: str, precision: Precision
) -> Proof:
    """Mean KL divergence of torch's probabilities from llama.cpp's, over one row.

    A pruned model may be far more sensitive to rounding, of activations above all; what is left of
    it is small beside what pruning did, where another model would be as far off.
    """
    found = []
    tokens = data.proof_tokens.to(accelerator.device)
    learned = torch.ones_like(tokens, dtype=torch.bool)
    on_cpu = (data.proof_tokens, learned.cpu())
    for network, known in zip((pair.teacher, pair.student), data.proof_logits, strict=True):
        with torch.no_grad(), accelerator.autocast():
            own, _ = predictions(logits_of(network, tokens), tokens, learned)
        wanted, _ = predictions(torch.from_numpy(known)[None].to(own.device), tokens, learned)
        found.append(float(divergence(own, wanted).double().mean()))
    both = [predictions(torch.from_numpy(k)[None], *on_cpu)[0] for k in data.proof_logits]
    change = float(divergence(both[1], both[0]).double().mean())
    limits = (PROOF_KLD, max(PROOF_KLD, PROOF_SHARE * change))
    for kld, what, limit in zip(found, ("original", "pruned"), limits, strict=True):
        if not kld < limit:
            hint = "" if precision is Precision.F32 else " (--dtype f32 computes more exactly)"
            raise ArchitectureError(
                f"transformers computes another {arch} than llama.cpp: KL divergence {kld:.3g} of "
                f"the {what} model, at most {limit:g} proves it{hint}; ggprune heal without "
                "--train can repair it"
            )
    return Proof(*found)


def trainable(pair: Pair, options: TrainOptions, seed: int) -> nn.Module:
    """The student as every run begins with it. The same seed gives the same."""
    torch.manual_seed(seed)
    student = Pair(pair.teacher, same_modules(pair.student), pair.layouts, pair.keep, pair.prefix)
    if options.lora is None:
        free_layers(student)
        network: nn.Module = student.student
    else:
        network = add_adapters(student, options.lora, options.alpha)
    if options.checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return network


def _run(
    accelerator: Accelerator, pair: Pair, data: _Data, task: Task, options: TrainOptions,
    seed: int, progress: Progress,
) -> tuple[Run, State]:  # fmt: skip
    log = Log(task.log, is_writer=accelerator.is_main_process)
    checkpoints = Checkpoints(task.folder, seed, accelerator.is_main_process, log)
    known = checkpoints.result()
    if known is not None:
        return known
    network = trainable(pair, options, seed)
    course = plan_course(options, len(data.train), len(data.aside), seed)
    training = Training(accelerator, pair.teacher, network, options, course)
    result, best = train(training, data.train, data.aside, checkpoints, log, progress)
    checkpoints.finish(result, best)
    accelerator.free_memory()
    return result, best


def _changed(
    network: nn.Module, pair: Pair, best: State, data: _Data, options: TrainOptions,
    accelerator: Accelerator, out: Path,
) -> Iterator[Changed]:  # fmt: skip
    """Write what was trained, in the file's own layout, and where each part lies."""
    named = dict(network.named_parameters())
    with torch.no_grad():
        for name, values in best.items():
            named[name].copy_(values)
    squares = _mean_squares(network, pair, data, accelerator)
    writer = _Writer(out)
    if options.lora is None:
        for name, values in best.items():
            layout, tensor = pair.layout(name)
            seen = squares.get(name.removesuffix(".weight"))
            yield Changed(
                tensor=tensor, values=writer.add(layout.to_gguf(to_numpy(values))),
                importance=writer.add(seen) if seen is not None else None,
            )  # fmt: skip
        return
    for name in projections(pair):
        a, b = (
            to_numpy(best[f"base_model.model.{name}.lora_{part}.default.weight"])
            for part in ("A", "B")
        )
        layout, tensor = pair.layout(f"{name}.weight")
        yield Changed(
            tensor=tensor, a=writer.add(a), b=writer.add(layout.ordered(b)),
            scale=options.alpha / options.lora, importance=writer.add(squares[name]),
        )  # fmt: skip


class _Writer:
    """Arrays behind each other in a file that is there already."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def add(self, values: Float32) -> Place:
        raw = np.ascontiguousarray(values, np.float32)
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(raw.data)
        place = Place(self.offset, raw.shape)
        self.offset += raw.nbytes
        return place


def _mean_squares(
    network: nn.Module, pair: Pair, data: _Data, accelerator: Accelerator
) -> dict[str, Float32]:
    """Of what enters every projection, (n_in,): how much its columns count when it is quantized."""
    sums, counts = dict[str, torch.Tensor](), dict[str, int]()

    def listen(name: str) -> object:
        def seen(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].detach().float().flatten(0, -2)
            total = rows.square().sum(0, dtype=torch.float64 if rows.device.type != "mps" else None)
            sums[name] = sums.get(name, torch.zeros_like(total)) + total
            counts[name] = counts.get(name, 0) + len(rows)

        return seen

    wanted = set(projections(pair))
    inside = {name.removeprefix("base_model.model."): m for name, m in network.named_modules()}
    hooks = [
        module.register_forward_pre_hook(listen(name))
        for name, module in inside.items() if name in wanted
    ]  # fmt: skip
    network.eval()
    for number in range(0, len(data.train), -(-len(data.train) // N_SAMPLED)):
        tokens, _ = data.train.take([number], accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            logits_of(network, tokens)
    for hook in hooks:
        hook.remove()
    return {name: to_numpy(total / counts[name]) for name, total in sums.items()}
