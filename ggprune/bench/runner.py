"""A loaded model that can be timed, as llama-bench times it.

Random tokens, no tokenizing and no sampling: a prompt is read in batches, tokens are generated one
after the other, each waited for. Follows test_prompt, test_gen and the loop around them in
tools/llama-bench/llama-bench.cpp. Knows nothing of other models or of what the times mean.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ggprune.bench.cases import Case
from ggprune.runtime.buffers import listening, parse_buffers
from ggprune.runtime.library import default_threads
from ggprune.runtime.session import Compute, LlamaModel, Session, Tokens
from ggprune.runtime.threadpool import Threadpool


class Runner:
    """A model that can be timed. Use as a context manager.

    `open` a case, then `warm_up` and `time_ns`.
    """

    def __init__(self, path: Path, compute: Compute, seed: int) -> None:
        self.path = path
        with listening() as log:
            self.model = LlamaModel(path, compute)
        self._model_log = "".join(log)
        self.rng = np.random.default_rng(seed)
        self.case: Case | None = None
        self.session: Session | None = None
        self.buffers = parse_buffers(self._model_log)
        self._threads: Threadpool | None = None
        self._position = 0
        self._state: tuple[tuple[int, Compute], bytes] | None = (
            None  # what is in front of a test, and its depth
        )

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
        self._clear()

    def close(self) -> None:
        """Give the context back."""
        if self.session is not None:
            self.session.close()
        if self._threads is not None:
            self._threads.close()
        self.session = self._threads = self.case = None

    def warm_up(self) -> None:
        """A whole prompt and one token, as far as the case has them."""
        case = self._opened()
        if case.n_prompt:
            self._read(self._tokens(case.n_prompt))
        if case.n_gen:
            self._generate(self._tokens(1))

    def time_ns(self) -> int:
        """Nanoseconds of the case, from an empty context or behind `n_depth` tokens."""
        case = self._opened()
        self._clear()
        if case.n_depth:
            self._go_to_depth(case)
        prompt, generated = self._tokens(case.n_prompt), self._tokens(case.n_gen)
        start = time.perf_counter_ns()
        self._read(prompt)
        self._generate(generated)
        return time.perf_counter_ns() - start

    def _opened(self) -> Case:
        assert self.case is not None, "open a case first"
        return self.case

    def _session(self) -> Session:
        assert self.session is not None, "open a case first"
        return self.session

    def _tokens(self, n: int) -> Tokens:
        """Random token ids, BOS first if the model wants one."""
        tokens = self.rng.integers(0, self.model.n_vocab, n, dtype=np.int32)
        if n and self.model.bos is not None:
            tokens[0] = self.model.bos
        return tokens

    def _clear(self) -> None:
        self._session().clear(erase=False)
        self._position = 0

    def _read(self, tokens: Tokens) -> None:
        """As a prompt, in batches."""
        session = self._session()
        for start in range(0, len(tokens), session.n_batch):
            batch = tokens[start : start + session.n_batch]
            session.decode(batch, self._position)
            self._position += len(batch)
        session.synchronize()

    def _generate(self, tokens: Tokens) -> None:
        """One by one, as if each followed from the one before."""
        session = self._session()
        for i in range(len(tokens)):
            session.decode(tokens[i : i + 1], self._position)
            session.synchronize()
            self._position += 1

    def _go_to_depth(self, case: Case) -> None:
        """Put tokens in front of the test; computed once, then restored."""
        key = (case.n_depth, case.compute)
        if self._state is not None and self._state[0] == key:
            if self._session().write_state(self._state[1]):
                self._position = case.n_depth
                return
            self._clear()
        self._read(self._tokens(case.n_depth))
        self._state = key, self._session().read_state()
