"""One run: steps, evaluations on rows set aside, checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_scheduler

from ggprune.errors import LlamaError
from ggprune.progress import Progress
from ggprune.training.course import Course
from ggprune.training.losses import cross_entropy, divergence, predictions, summed_loss
from ggprune.training.networks import logits_of
from ggprune.training.options import (
    MAX_JUDGED,
    PATIENCE,
    Device,
    Loss,
    Point,
    Run,
    Schedule,
    TrainOptions,
)
from ggprune.training.samples import Rows

if TYPE_CHECKING:
    from ggprune.training.checkpoint import Checkpoints

State = dict[str, torch.Tensor]  # of what is trained, by name


@dataclass(frozen=True)
class TrainRows:
    """Rows as torch has them: (n_row, n_ctx) each."""

    tokens: torch.Tensor
    learned: torch.Tensor

    @classmethod
    def of(cls, rows: Rows) -> TrainRows:
        return cls(torch.from_numpy(rows.tokens).long(), torch.from_numpy(rows.learned))

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tokens[list(rows)].to(device), self.learned[list(rows)].to(device)


class Training:
    """Teacher, student and optimizer of one run."""

    def __init__(
        self, accelerator: Accelerator, teacher: nn.Module, student: nn.Module,
        options: TrainOptions, course: Course,
    ) -> None:  # fmt: skip
        self.accelerator, self.teacher, self.options = accelerator, teacher, options
        self.course, self.student = course, student
        self.trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self.trained.values(), lr=options.peak_lr, betas=options.betas,
            weight_decay=options.weight_decay,
        )  # fmt: skip
        self.scheduler = _scheduler(optimizer, options, course.n_step)
        self.parallel, self.optimizer = accelerator.prepare(student, optimizer)
        self.done = 0  # steps

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def state(self) -> State:
        """What is trained as it is now, copied to the processor's memory."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.trained.items()}

    def restore(self, state: State) -> None:
        with torch.no_grad():
            for name, values in state.items():
                self.trained[name].copy_(values)

    def step(self, rows: TrainRows) -> tuple[float, float]:
        """Train on the next rows; returns the loss a token and the norm of its gradient.

        Raises LlamaError if one of them is not finite; then the step has changed nothing.
        """
        accelerator, options = self.accelerator, self.options
        numbers = self.course.rows(self.done)
        n_learned = int(rows.learned[numbers][:, 1:].sum())
        mine = numbers[accelerator.process_index :: accelerator.num_processes].tolist()
        size = micro_batch(options, self.device)
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        total = torch.zeros((), device=self.device)
        self.parallel.train()
        for part in parts:
            is_last = part is parts[-1]
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.parallel):
                loss = self._loss(*rows.take(part, self.device)) / max(n_learned, 1)
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        value = float(accelerator.reduce(total, "sum"))
        norm = float(accelerator.clip_grad_norm_(list(self.trained.values()), options.clip))
        is_scaled = accelerator.scaler is not None  # overflows are its business, it tries again
        if not math.isfinite(value) or not (math.isfinite(norm) or is_scaled):
            raise LlamaError(
                f"step {self.done + 1}: the loss is {value:g}, its gradient {norm:g}: a smaller "
                "--lr, or --dtype f32; the last checkpoint is kept"
            )
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.done += 1
        return value, norm

    def _loss(self, tokens: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
        """Summed over the tokens that are learned."""
        teacher = None
        if self.options.loss is not Loss.CE:
            with torch.no_grad(), self.accelerator.autocast():
                teacher, _ = predictions(logits_of(self.teacher, tokens), tokens, learned)
        with self.accelerator.autocast():
            logits = logits_of(self.parallel, tokens)
        student, targets = predictions(logits, tokens, learned)
        return summed_loss(self.options.loss, self.options.ce_weight, student, teacher, targets)

    def evaluate(self, aside: TrainRows) -> tuple[float, float]:
        """KL divergence, nats a token, and perplexity, on rows set aside."""
        accelerator = self.accelerator
        step = -(-len(aside) // MAX_JUDGED)
        numbers = range(0, len(aside), step)[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(3, dtype=torch.float64)
        self.student.eval()
        for number in numbers:
            tokens, learned = aside.take([number], self.device)
            with torch.no_grad(), accelerator.autocast():
                logits = [logits_of(network, tokens) for network in (self.student, self.teacher)]
            student, targets = predictions(logits[0], tokens, learned)
            teacher, _ = predictions(logits[1], tokens, learned)
            kld, nll = divergence(student, teacher), cross_entropy(student, targets)
            parts = [float(kld.double().sum()), float(nll.double().sum()), float(len(nll))]
            sums += torch.tensor(parts, dtype=torch.float64)
        kld_sum, nll_sum, n = accelerator.reduce(sums.to(self.device), "sum").tolist()
        return kld_sum / n, math.exp(nll_sum / n)


def micro_batch(options: TrainOptions, device: torch.device) -> int:
    """Rows computed at once."""
    return options.micro_batch or (1 if device.type == "cpu" else 4)


def _scheduler(
    optimizer: torch.optim.Optimizer, options: TrainOptions, n_step: int
) -> torch.optim.lr_scheduler.LRScheduler:
    name, special = options.schedule.value, dict[str, float]()
    if options.schedule is Schedule.COSINE:
        name, special = "cosine_with_min_lr", {"min_lr_rate": options.min_lr}
    scheduler: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=math.ceil(options.warmup * n_step),
        num_training_steps=n_step, scheduler_specific_kwargs=special,
    )  # fmt: skip
    return scheduler


def train(
    training: Training, rows: TrainRows, aside: TrainRows, checkpoints: Checkpoints,
    log: Log, progress: Progress,
) -> tuple[Run, State]:  # fmt: skip
    """All steps, or until nothing is gained; the weights are those of the best evaluation.

    Goes on from a checkpoint of the same run, if there is one.
    """
    course, options = training.course, training.options
    started = checkpoints.restore(training)
    points, best = started or ([_point(training, aside, None, None)], training.state())
    if started is None:
        log.write(seed=course.seed, **asdict(points[0]))
    losses: list[float] = []
    begin, is_early = time.perf_counter(), _is_stalled(points)
    while training.done < course.n_step and not is_early:
        loss, norm = training.step(rows)
        losses.append(loss)
        log.write(seed=course.seed, step=training.done, loss=loss, grad_norm=norm)
        progress.step(training.done, course.n_step)
        if course.is_evaluated(training.done):
            speed = len(losses) * course.per_step * options.n_ctx / (time.perf_counter() - begin)
            point = _point(training, aside, sum(losses) / len(losses), speed)
            best = training.state() if point.kld < min(p.kld for p in points) else best
            points.append(point)
            log.write(seed=course.seed, **asdict(point))
            checkpoints.save(training, points, best)
            is_early = _is_stalled(points) and training.done < course.n_step
            progress.say(f"loss {point.loss:.4g}, KLD {point.kld:.4g}, {speed:.0f} tok/s")
            losses, begin = [], time.perf_counter()
    run = Run(
        seed=course.seed, points=tuple(points), best=min(points, key=lambda p: p.kld),
        is_early=is_early,
    )  # fmt: skip
    return run, best


def _point(training: Training, aside: TrainRows, loss: float | None, speed: float | None) -> Point:
    kld, ppl = training.evaluate(aside)
    if not math.isfinite(kld):
        raise LlamaError(f"step {training.done}: the model's probabilities are not finite")
    n_token = training.done * training.course.per_step * training.options.n_ctx
    return Point(step=training.done, n_token=n_token, loss=loss, kld=kld, ppl=ppl, tok_per_s=speed)


def _is_stalled(points: Sequence[Point]) -> bool:
    """Have the last evaluations all been worse than one before them?"""
    best = min(range(len(points)), key=lambda n: points[n].kld)
    return len(points) - 1 - best >= PATIENCE


class Log:
    """JSON lines, one for every step and evaluation. What was taken back is taken out."""

    def __init__(self, path: Path | None, *, is_writer: bool) -> None:
        self.path = path if is_writer else None

    def write(self, **values: object) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: v for k, v in values.items() if v is not None}) + "\n")

    def rewind(self, seed: int, step: int) -> None:
        """Forget the steps of a run behind the one that it goes on from."""
        if self.path is None or not self.path.exists():
            return
        lines = [
            line for line in self._lines() if not (line["seed"] == seed and line["step"] > step)
        ]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _lines(self) -> Iterator[dict[str, float]]:
        assert self.path is not None
        for line in self.path.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last one of a killed run
                yield json.loads(line)


def pick_device(device: Device) -> torch.device:
    """Raises LlamaError if there is none of the kind."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is Device.AUTO:
        return torch.device(next((name for name, is_there in there.items() if is_there), "cpu"))
    if not there.get(device.value, True):
        raise LlamaError(f"--device {device.value}: torch sees no such device here")
    return torch.device(device.value)
