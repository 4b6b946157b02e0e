"""Training tasks on small models, run in the test's own process."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np

from ggprune.files.outputs import PendingFile
from ggprune.model.model import Model
from ggprune.pipeline.job import Job, write_into
from ggprune.pipeline.trained import stored_changes
from ggprune.progress import SILENT, Progress
from ggprune.runtime.session import LlamaModel
from ggprune.surgery.contents import Replacement
from ggprune.training.options import Device, Task, Trained, TrainOptions
from ggprune.training.rowsfile import row_logits, write_rows
from ggprune.training.samples import Rows
from ggprune.training.worker import run
from tests.helpers import ONE_GRAPH, random_tokens

N_CTX = 32
DROP, KEEP = (2, 3), (0, 1, 4, 5, 6)
OPTIONS = TrainOptions(
    n_ctx=N_CTX, batch=2 * N_CTX, n_token=8 * 2 * N_CTX, lr=2e-3, device=Device.CPU, n_thread=1,
    lora=4,
)  # fmt: skip


def make_task(
    base: Model, pruned: Model, folder: Path, options: TrainOptions = OPTIONS, *,
    n_train: int = 10, n_aside: int = 3, keep: tuple[int, ...] = KEEP,
) -> Task:  # fmt: skip
    """Random rows; what llama.cpp says of one is computed."""
    folder.mkdir(parents=True, exist_ok=True)
    n_vocab = len(base.fields.texts("tokenizer.ggml.tokens"))
    with LlamaModel(base.path, vocab_only=True) as model:
        bos = model.bos
    tokens = random_tokens(n_vocab, (n_train + n_aside) * options.n_ctx)
    tokens = tokens.reshape(-1, options.n_ctx)
    if bos is not None:
        tokens[:, 0] = bos
    learned = np.ones(tokens.shape, np.bool_)
    train, aside = (Rows(tokens[s], learned[s]) for s in (slice(n_train), slice(n_train, None)))
    proof = aside.tokens[0]
    logits = [row_logits(model.path, proof, ONE_GRAPH) for model in (base, pruned)]
    task = Task(
        base=base.path, pruned=pruned.path, keep=keep, n_layer=base.n_layer, options=options,
        rows=folder / "rows.npz", folder=folder, out=folder / "changed.bin",
        result=folder / "result", log=folder / "log.jsonl",
    )  # fmt: skip
    write_rows(task.rows, train, aside, proof, *logits)
    task.out.touch()
    return task


def carry_out(task: Task, progress: Progress = SILENT) -> Trained:
    run(task, progress)
    trained: Trained = pickle.loads(task.result.read_bytes())
    return trained


def in_folder(task: Task, folder: Path) -> Task:
    """The same task with nothing done yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "changed.bin").touch()
    return replace(
        task, folder=folder, out=folder / "changed.bin", result=folder / "result",
        log=folder / "log.jsonl",
    )  # fmt: skip


def merged_file(trained: Trained, pruned: Model, task: Task, out: Path) -> Path:
    """The pruned file with what was trained in it."""
    with PendingFile(out) as patch, PendingFile(out) as whole:
        tensors = stored_changes(trained, pruned, task.out, patch, None)
        job = Job(model=pruned, out=out, replaced=Replacement(tensors, {}), check_load=False)
        write_into(job, whole)
        whole.commit(force=True)
    return out
