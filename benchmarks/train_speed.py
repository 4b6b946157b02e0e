"""Training speed and memory of `ggprune heal --train` beside transformers' own Trainer.

    python benchmarks/train_speed.py [--shape 1b|3b]... [--device cuda|cpu] [--steps N] [-c N]

A model with random weights and the shapes of Llama 3.2, without a quarter of its layers, is trained
to follow the whole one: the same rows, steps, losses and optimizer by both, on the same networks,
one after the other. Both warm up for two steps. Peak memory is that of the device, of each alone.
The Trainer has its loss from a subclass, as its documentation advises.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ggprune.training.course import plan_course
from ggprune.training.layout import Layout
from ggprune.training.loop import Training, TrainRows
from ggprune.training.losses import divergence, predictions
from ggprune.training.networks import Pair, add_adapters, free_layers, logits_of, without_layers
from ggprune.training.options import Device, Loss, Precision, TrainOptions
from ggprune.training.samples import Rows

Work = Callable[[nn.Module, nn.Module, TrainOptions, Rows, int], float]
SHAPES = {
    "1b": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True,
    ),
    "3b": LlamaConfig(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, vocab_size=1024, tie_word_embeddings=True,
    ),
}  # fmt: skip
WARM = 2


def networks(
    shape: str, options: TrainOptions, device: torch.device
) -> tuple[nn.Module, nn.Module]:
    """Teacher and student, as training makes them of a file."""
    torch.manual_seed(0)
    config = SHAPES[shape]
    dtype = torch.bfloat16 if options.precision is Precision.BF16 else torch.float32
    with device:
        teacher = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    n_layer = config.num_hidden_layers
    keep = [n for n in range(n_layer) if n % 4 != 1]
    student = without_layers(teacher, "model.layers", keep, n_layer)
    pair = Pair(teacher, student, {}, tuple(keep), "model.layers")
    anywhere = {pair.role(name)[0]: Layout("any") for name, _ in student.named_parameters()}
    pair = replace(pair, layouts=anywhere)
    if options.lora is None:
        free_layers(pair)
        return teacher, pair.student
    return teacher, add_adapters(pair, options.lora, options.alpha)


def ours(
    teacher: nn.Module, student: nn.Module, options: TrainOptions, rows: Rows, n_step: int
) -> float:
    """Tokens a second."""
    mixed = "bf16" if options.precision is Precision.BF16 else "no"
    accelerator = Accelerator(cpu=options.device is Device.CPU, mixed_precision=mixed)
    course = plan_course(options, len(rows), 1, 0)
    training = Training(accelerator, teacher, student, options, course)
    data = TrainRows.of(rows)
    for n in range(WARM + n_step):
        if n == WARM:
            synchronize()
            start = time.perf_counter()
        training.step(data)
    synchronize()
    speed = n_step * options.batch / (time.perf_counter() - start)
    accelerator.free_memory()
    return speed


class Distiller(Trainer):  # type: ignore[misc]
    """Trainer with the same loss."""

    teacher: nn.Module

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], *_: object, **__: object
    ) -> torch.Tensor:
        tokens = inputs["input_ids"]
        learned = torch.ones_like(tokens, dtype=torch.bool)
        with torch.no_grad():
            teacher, _ = predictions(logits_of(self.teacher, tokens), tokens, learned)
        student, _ = predictions(logits_of(model, tokens), tokens, learned)
        return divergence(student, teacher).mean()


class Clock(TrainerCallback):  # type: ignore[misc]
    """The time behind the warm-up."""

    def on_step_end(self, args: object, state: object, *_: object, **__: object) -> None:
        if state.global_step == WARM:  # type: ignore[attr-defined]
            synchronize()
            self.start = time.perf_counter()


def theirs(
    teacher: nn.Module, student: nn.Module, options: TrainOptions, rows: Rows, n_step: int
) -> float:
    micro = options.micro_batch or 1
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=WARM + n_step,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=options.rows_per_step // micro,
            learning_rate=options.peak_lr,
            bf16=options.precision is Precision.BF16,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=options.device is Device.CPU,
            remove_unused_columns=False,
        )
        data = [{"input_ids": row.astype(np.int64)} for row in rows.tokens]
        clock = Clock()
        trainer = Distiller(student, arguments, train_dataset=data, callbacks=[clock])
        trainer.teacher = teacher
        trainer.train()
        synchronize()
        return n_step * options.batch / (time.perf_counter() - clock.start)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(
    work: Work, shape: str, options: TrainOptions, rows: Rows, n_step: int
) -> tuple[float, float]:
    """Tokens a second, and GiB of the device at most."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    teacher, student = networks(shape, options, torch.device(options.device.value))
    speed = work(teacher, student, options, rows, n_step)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return speed, memory


def show(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compare(shape: str, lora: int | None, asked: argparse.Namespace) -> None:
    options = TrainOptions(
        loss=Loss.KD, lora=lora, n_ctx=asked.ctx_size, batch=asked.rows * asked.ctx_size,
        micro_batch=asked.micro_batch, n_token=1000 * asked.rows * asked.ctx_size,
        device=Device(asked.device),
        precision=Precision.BF16 if asked.device == "cuda" else Precision.F32,
    )  # fmt: skip
    n_row = asked.rows * (WARM + asked.steps)
    tokens = np.random.default_rng(0).integers(0, SHAPES[shape].vocab_size, (n_row, asked.ctx_size))
    rows = Rows(tokens.astype(np.int32), np.ones(tokens.shape, np.bool_))
    (own, memory), (other, others) = (
        measured(work, shape, options, rows, asked.steps) for work in (ours, theirs)
    )
    trained = f"LoRA {lora}" if lora else "full"
    ratio = f"{own / other:.2f}x"
    show(shape, trained, f"{own:.0f}", f"{other:.0f}", ratio, f"{memory:.1f}", f"{others:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("-c", "--ctx-size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=16, help="of a step")
    parser.add_argument("--micro-batch", type=int, default=4)
    asked = parser.parse_args()
    show("shape", "trained", "tok/s", "Trainer's", "ratio", "GiB", "Trainer's")
    show("---", "---", *["--:"] * 5)
    for shape in asked.shape or ["1b", "3b"]:
        for lora in (16, None):
            compare(shape, lora, asked)


if __name__ == "__main__":
    main()
