"""A model for lm-eval (EleutherAI's harness), computed in this process by llama.cpp.

Importing this module registers it there as `ggprune`; it needs the extra `ggprune[tasks]`. What is
computed is in trees and generate, which know nothing of lm-eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypedDict, TypeVar

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from ggprune.errors import UsageError
from ggprune.evaluation import trees
from ggprune.evaluation.generate import Wish, generate
from ggprune.evaluation.tasks import TaskName
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.sequences import SharedSession
from ggprune.runtime.session import LlamaModel
from ggprune.runtime.vocabulary import Vocabulary

N_PREDICT = 256  # lm-eval's default
N_SEQ = 32  # sequences at once
CELLS_PER_CTX = 4
A_co = TypeVar("A_co", covariant=True)


class Request(Protocol[A_co]):
    """What lm-eval asks, as far as it is read here."""

    @property
    def args(self) -> A_co: ...


class Options(TypedDict, total=False):
    """How a task wants texts to be generated; other keys have no meaning here."""

    do_sample: bool
    temperature: float | None
    until: str | list[str] | None
    max_gen_toks: int | None
    max_new_tokens: int | None
    max_tokens: int | None
    max_completion_tokens: int | None


@register_model("ggprune")
class GgufModel(LM):  # type: ignore[misc]
    """`pretrained` is the GGUF file, as in `--model_args pretrained=x.gguf`."""

    def __init__(
        self,
        pretrained: str | Path,
        n_ctx: int | str = 2048,
        n_threads: int | str | None = None,
        n_gpu_layers: int | str = -1,
        compute: Compute | None = None,
        progress: Progress = SILENT,
        **_: object,
    ) -> None:
        """Numbers may be strings; what else lm-eval passes (batch_size, device) has no meaning.

        Raises LlamaError if llama.cpp cannot load the file.
        """
        super().__init__()
        threads = int(n_threads) if n_threads is not None else None
        self.n_ctx, self.progress = int(n_ctx), progress
        compute = compute or Compute(n_threads=threads, n_gpu_layers=int(n_gpu_layers))
        self.model = LlamaModel(Path(pretrained), compute)
        n_cell = CELLS_PER_CTX * self.n_ctx
        self.session = SharedSession(self.model, n_cell, n_seq=N_SEQ, compute=compute)

    def evaluate(
        self, tasks: Sequence[TaskName], limit: int | None
    ) -> Mapping[str, Mapping[str, object]]:
        """What lm-eval finds, by task and metric. Raises what it raises."""
        found = simple_evaluate(
            self, tasks=tasks, limit=limit, bootstrap_iters=1000, log_samples=False
        )
        results: Mapping[str, Mapping[str, object]] = found["results"]
        return results

    def close(self) -> None:
        self.session.close()
        self.model.close()

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's caches of requests tell models apart by."""
        return str(self.model.path)

    def loglikelihood(self, requests: Sequence[Request[tuple[str, str]]]) -> list[trees.Likelihood]:
        pairs = [trees.split_pair(self.model, *request.args) for request in requests]
        answers = trees.loglikelihoods(self.session, pairs, self.n_ctx, self.progress)
        self._remember("loglikelihood", requests, answers)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Request[tuple[str]]]) -> list[float]:
        start = Vocabulary(self.model).start
        texts = [trees.without_bos(self.model, self.model.tokenize(r.args[0])) for r in requests]
        windows = [trees.rolling_windows(tokens, start, self.n_ctx) for tokens in texts]
        pairs = [pair for text in windows for pair in text]
        log_p = [p for p, _ in trees.loglikelihoods(self.session, pairs, self.n_ctx, self.progress)]
        cuts = np.cumsum([len(text) for text in windows])[:-1]
        answers = [float(np.sum(part)) for part in np.split(np.array(log_p), cuts)]
        self._remember("loglikelihood_rolling", requests, answers)
        return answers

    def generate_until(self, requests: Sequence[Request[tuple[str, Options]]]) -> list[str]:
        wishes = [self._wish(*request.args) for request in requests]
        answers = [written.text for written in generate(self.session, wishes, self.progress)]
        self._remember("generate_until", requests, answers)
        return answers

    def _wish(self, context: str, options: Options) -> Wish:
        """Raises UsageError if sampling is asked for."""
        if options.get("do_sample") and float(options.get("temperature") or 1) > 0:
            raise UsageError("a task asks for sampling; ggprune generates greedily only")
        until = options.get("until") or []
        stop = (until,) if isinstance(until, str) else tuple(until)
        lengths = (
            options.get("max_gen_toks"), options.get("max_new_tokens"),
            options.get("max_tokens"), options.get("max_completion_tokens"),
        )  # fmt: skip
        n_predict = min(next((int(n) for n in lengths if n), N_PREDICT), self.n_ctx - 1)
        tokens = self.model.tokenize(context)[-(self.n_ctx - n_predict) :]
        return Wish(tokens, n_predict, tuple(s for s in stop if s))

    def _remember(
        self, kind: str, requests: Sequence[Request[object]], answers: Sequence[object]
    ) -> None:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)


if __name__ == "__main__":  # lm-eval's own command line, with this model in it
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
