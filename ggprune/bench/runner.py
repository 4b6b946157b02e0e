"""A loaded model that can be timed, as llama-bench times it, and the memory that it takes then.

Random tokens, no tokenizing and no sampling: a prompt is read in batches, tokens are generated one
after the other, each waited for. Follows test_prompt, test_gen and the loop around them in
tools/llama-bench/llama-bench.cpp. Of memory llama.cpp says what it allocates, the operating system
what the process needed at most, and the driver what a GPU has less. Knows nothing of other models
or of what the numbers mean.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.bench.cases import Case
from ggprune.files.keys import INLINE, Key, written
from ggprune.runtime.buffers import CACHES, Buffers, listening, parse_buffers, peak_rss_bytes
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import devices
from ggprune.runtime.library import default_threads
from ggprune.runtime.session import LlamaModel, Session, Tokens
from ggprune.runtime.threadpool import Threadpool


class Runner:
    """A model that can be timed. Use as a context manager.

    `open` a case, then `warm_up` and `time_ns`.
    """

    def __init__(self, path: Path, compute: Compute, seed: int) -> None:
        with listening() as log:
            self.model = LlamaModel(path, compute)
        self._model_log = "".join(log)
        self.rng = np.random.default_rng(seed)
        self.case: Case | None = None
        self.session: Session | None = None
        self._threads: Threadpool | None = None
        self._state: tuple[object, bytes] | None = None  # of what is in front of which tests

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.model.close()

    def open(self, case: Case) -> None:
        """Make a context that is just large enough."""
        self.close()
        compute = case.compute
        with listening() as log:
            self.session = Session(self.model, case.n_ctx, compute=compute)
        self._threads = Threadpool(self.session, compute.n_threads or default_threads())
        self.buffers = parse_buffers(self._model_log + "".join(log))
        self.case = case
        self.session.clear(erase=False)

    def close(self) -> None:
        """Give the context back."""
        if self.session is not None:
            self.session.close()
        if self._threads is not None:
            self._threads.close()
        self.session = self._threads = self.case = None

    def warm_up(self) -> None:
        """A whole prompt and one token, as far as the case has them."""
        case, session = self._opened()
        self._run(session, self._tokens(case.n_prompt), self._tokens(min(case.n_gen, 1)))

    def time_ns(self) -> int:
        """Nanoseconds of the case, from an empty context or behind `n_depth` tokens."""
        case, session = self._opened()
        session.clear(erase=False)
        if case.n_depth:
            self._go_to_depth(case, session)
        prompt, generated = self._tokens(case.n_prompt), self._tokens(case.n_gen)
        start = time.perf_counter_ns()
        self._run(session, prompt, generated, case.n_depth)
        return time.perf_counter_ns() - start

    def _opened(self) -> tuple[Case, Session]:
        assert self.case is not None and self.session is not None, "open a case first"
        return self.case, self.session

    def _tokens(self, n: int) -> Tokens:
        """Random token ids, BOS first if the model wants one."""
        tokens = self.rng.integers(0, self.model.n_vocab, n, dtype=np.int32)
        if n and self.model.bos is not None:
            tokens[0] = self.model.bos
        return tokens

    def _run(self, session: Session, prompt: Tokens, generated: Tokens, at: int = 0) -> None:
        """From position `at`: the prompt in batches, then one by one what is generated."""
        for start in range(0, len(prompt), session.n_batch):
            session.decode(prompt[start : start + session.n_batch], at + start)
        session.synchronize()
        for i in range(len(generated)):
            session.decode(generated[i : i + 1], at + len(prompt) + i)
            session.synchronize()

    def _go_to_depth(self, case: Case, session: Session) -> None:
        """Put tokens in front of the test; computed once, then restored."""
        key = (case.n_depth, case.compute)
        if self._state is not None and self._state[0] == key:
            if session.write_state(self._state[1]):
                return
            session.clear(erase=False)
        self._run(session, self._tokens(case.n_depth), self._tokens(0))
        self._state = key, session.read_state()


@dataclass(frozen=True)
class VideoMemory:
    """Memory of one GPU, and what the driver has less of it while the model is loaded."""

    device: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """What one model takes in one test."""

    path: Annotated[str, Key(name="model_filename")]
    test: str
    n_ctx: int
    buffers: Annotated[Buffers, INLINE]
    start_rss_bytes: Annotated[int, "of the process before the model"]
    peak_rss_bytes: Annotated[int, "with Python, the libraries, and pages of the mapped file"]
    gpus: tuple[VideoMemory, ...]

    @property
    @written(before="buffers")
    def model_bytes(self) -> int:
        return self.buffers.total("model")

    @property
    @written(before="buffers")
    def cache_bytes(self) -> Annotated[int, "KV, RS and state"]:
        return self.buffers.total(*CACHES)

    @property
    @written(before="buffers")
    def compute_bytes(self) -> Annotated[int, "compute and output"]:
        return self.buffers.total("compute", "output")


def measure_memory(path: Path, case: Case) -> ModelMemory:
    """Run `case` once: memory of this process, which must have done nothing else before.

    Raises LlamaError if llama.cpp cannot load or compute the model.
    """
    before = {device.name: device.free_bytes for device in devices() if device.is_gpu}
    start = peak_rss_bytes()
    with Runner(path, case.compute, seed=1) as runner:
        runner.open(case)
        runner.time_ns()
        gpus = tuple(
            VideoMemory(d.name, d.total_bytes, max(before[d.name] - d.free_bytes, 0))
            for d in devices()
            if d.name in before
        )
    return ModelMemory(
        path=str(path), test=case.name, n_ctx=case.n_ctx, buffers=runner.buffers,
        start_rss_bytes=start, peak_rss_bytes=peak_rss_bytes(), gpus=gpus,
    )  # fmt: skip
