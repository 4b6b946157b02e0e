"""Texts of all kinds: tasks, prompts, samples to train on, and what stands behind options."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from ggprune.evaluation import task_files
from ggprune.evaluation.health import read_prompts
from ggprune.metrics.text import read_text, read_texts
from ggprune.model.layers import parse_layers
from ggprune.quantize.options import (
    parse_overrides,
    parse_rule,
    parse_tensor_type,
    parse_type,
    read_rules,
)  # fmt: skip
from ggprune.scoring.choice import parse_strategy
from ggprune.scoring.ranking import parse_metric
from ggprune.scoring.target import Goal, parse_amount
from ggprune.training.samples import read_corpus
from tests.fuzz.case import Case
from tests.fuzz.mutate_bytes import mutate_bytes
from tests.fuzz.mutate_json import JsonMutator

TASKS = Path(__file__).parents[3] / "fixtures" / "tasks"
LINES = (
    "", "0", " 3 ", "\u0663", "\u00b2", "4", "1,a_b,c,d,1", '1,"_",,,\u00b2', '1,"",x,y,1', "\0",
    ",,,,", '"_,,,,1', "3.0", "+1", "\x1b[31m", "x" * 30_000,
)  # fmt: skip
WORDS = (
    "0", "1", "-1", "20-22", ",", "-", " ", "99999999999", "blk", "attn_q=q4_k", "=", "(", "[",
    "a{999}", "\n", "\r\n", "\t", "\\t", "\0", "q8_0", "\x1b[31m", "\u00e9", "1-2-3", "\u00b3",
    "\u0663", "4.2G", "1e999B", "GiB", "B", ".", "9" * 400, "9" * 5000, "(a+)+$=q8_0", "*=q4_k",
    "\\", "[[]", "=Q4_K", "\ud800", "1a", "2e3+5", "#", "kld", "+", "a.b=int:", "a.b=float:", "nan",
    "a.b=str:", "=bool:true", "\ufeff",
)  # fmt: skip


class TasksTarget:
    """HellaSwag, Winogrande and multiple choice."""

    def __init__(self) -> None:
        swag = (TASKS / "hellaswag.txt").read_bytes().split(b"\n")[:18]
        wino = (TASKS / "winogrande.csv").read_bytes().split(b"\n")[:6]
        self.seeds = {
            "hellaswag": b"\n".join(swag), "winogrande": b"\n".join(wino) + b"\n\n",
            "choices": _multiple_choice(4),
        }  # fmt: skip

    def make(self, rng: Random) -> bytes:
        kind = rng.choice(("hellaswag", "winogrande", "choices", "choices"))
        data = mutate_bytes(self.seeds[kind], rng)
        if kind != "choices" and rng.random() < 0.5:
            lines = data.split(b"\n")
            lines[rng.randrange(len(lines))] = rng.choice(LINES).encode()
            data = b"\n".join(lines)
        return kind.encode() + b":" + data

    def run(self, data: bytes, case: Case) -> None:
        kind, _, body = data.partition(b":")
        path, n_task = case.write("tasks", body), case.rng.choice((None, 1, 2, 3, 1000))
        readers: Mapping[bytes, Callable[[], object]] = {
            b"hellaswag": lambda: task_files.read_hellaswag(path, n_task),
            b"winogrande": lambda: task_files.read_winogrande(path, n_task),
            b"choices": lambda: task_files.read_multiple_choice(path, n_task),
        }
        case.attempt(kind.decode(), readers[kind])


def _multiple_choice(n_task: int) -> bytes:
    tasks = [
        _counted(b"question %d" % i)
        + struct.pack("<I", 2) + _counted(b"yes") + _counted(b"no") + struct.pack("<2i", 1, 0)
        + struct.pack("<I", 0)
        for i in range(n_task)
    ]  # fmt: skip
    starts = [4 + 4 * n_task + sum(map(len, tasks[:i])) for i in range(n_task)]
    return struct.pack(f"<{n_task + 1}I", n_task, *starts) + b"".join(tasks)


def _counted(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


class SamplesTarget:
    """.jsonl files to train on."""

    def __init__(self) -> None:
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        self.mutator = JsonMutator([
            {"text": "some text"}, {"messages": said},
            {"instruction": "do", "input": "", "output": "done"},
        ])  # fmt: skip

    def make(self, rng: Random) -> bytes:
        lines = [self.mutator.make(rng) for _ in range(rng.choice((1, 2, 3)))]
        return rng.choice((b"\n", b"\r\n", b"\n\n")).join(
            [json.dumps({"text": "x"}).encode(), *lines]
        )

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("samples.jsonl", data)
        corpus = case.attempt("read_corpus", lambda: read_corpus([path]))
        for sample in corpus.samples if corpus is not None else ():
            for text in (sample.text, *(part for m in sample.messages for part in m.values())):
                text.encode("utf-8")  # as the tokenizer gets it


class TextsTarget:
    """Small texts, from options and from files."""

    def make(self, rng: Random) -> bytes:
        words = [rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 3, 5, 9)))]
        data = "".join(words).encode("utf-8", "surrogatepass")
        return mutate_bytes(data, rng) if rng.random() < 0.2 else data

    def run(self, data: bytes, case: Case) -> None:
        path, text = case.write("text", data), data.decode("utf-8", "surrogateescape")
        readers: Mapping[str, Callable[[], object]] = {
            "layers": lambda: parse_layers(text, 12),
            "amount": lambda: parse_amount(text, case.rng.choice((Goal.SIZE, Goal.PARAMS))),
            "rule": lambda: parse_rule(text), "overrides": lambda: parse_overrides([text]),
            "type": lambda: parse_type(text), "tensor type": lambda: parse_tensor_type(text),
            "metric": lambda: parse_metric(text), "strategy": lambda: parse_strategy(text),
            "rules' file": lambda: read_rules(path), "prompts": lambda: read_prompts(path),
            "text": lambda: read_text(path).sha256, "texts": lambda: read_texts([path, path]),
        }  # fmt: skip
        for name, read in readers.items():
            case.attempt(name, read)
