from __future__ import annotations

from contextlib import closing

import pytest

from ggprune.bench.latency import Batch, Latency, Requests, measure_latency
from ggprune.errors import UsageError
from ggprune.report.bench import latency_blocks
from ggprune.report.blocks import terminal
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import LlamaModel, Tokens
from tests.conftest import TINY
from tests.helpers import Steps


def test_tokens_are_counted_as_the_papers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input yields the first output token; the last one is not read again."""
    with LlamaModel(TINY) as model, closing(Batch(model, (12, 3, 5), Compute(), seed=1)) as batch:
        decode, decoded = batch.session.decode, []

        def counted(tokens: Tokens, position: int) -> None:
            decoded.append(tokens.size)
            decode(tokens, position)

        monkeypatch.setattr(batch.session, "decode", counted)
        assert batch.run() > 0
        assert sum(decoded) == 3 * (12 + 5 - 1)
        memory = batch.session.lib.llama_get_memory(batch.session.handle)
        ends = [batch.session.lib.llama_memory_seq_pos_max(memory, i) for i in range(3)]
        assert ends == [12 + 5 - 2] * 3


def test_arithmetic() -> None:
    latency = Latency(n_seq=4, n_input=12, n_output=10, samples_s=(1.0, 2.0, 3.0))
    assert latency.mean == 2
    assert latency.stdev == pytest.approx(1)
    assert latency.tok_per_s == 20
    assert latency.token_s == pytest.approx(0.2)


def test_every_setting_of_every_model() -> None:
    requests = Requests(n_input=4, n_seq=(1, 2), n_output=(1, 3), n_warmup=1, n_run=2)
    steps = Steps()
    report = measure_latency([TINY, TINY], requests, progress=steps)
    assert steps.seen[-1] == (24, 24)
    for model in report.models:
        settings = [(x.n_seq, x.n_output, len(x.samples_s)) for x in model.latencies]
        assert settings == [(1, 1, 2), (1, 3, 2), (2, 1, 2), (2, 3, 2)]
    first, second = report.models
    assert first.latencies[0].ratio is None
    assert second.latencies[3].ratio is not None
    assert second.latencies[3].ratio.n == 2
    table, machine = terminal(latency_blocks(report)).split("\n\n")
    assert len(table.splitlines()) == 2 + 8
    assert machine.startswith(report.hardware.devices[0].name)


def test_more_sequences_than_llama_cpp_has() -> None:
    with pytest.raises(UsageError, match="1000 sequences"):
        Requests(n_seq=(1, 1000)).pairs()
