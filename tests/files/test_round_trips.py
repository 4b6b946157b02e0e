"""Every document of measurements is read as the value that it was written from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ggprune.bench.cases import Case
from ggprune.bench.latency import Latency, LatencyReport, ModelLatency, Requests
from ggprune.bench.ratio import Ratio
from ggprune.bench.roofline import Roof, Roofline
from ggprune.bench.runner import ModelMemory, VideoMemory
from ggprune.bench.speed import Benchmark, Compared, Machine, ModelSpeed, Speed
from ggprune.evaluation.choices import ChoiceKind, ChoiceScore
from ggprune.evaluation.health import Health, Sample, count_texts
from ggprune.evaluation.perplexity import Evaluation
from ggprune.evaluation.tasks import TaskMetric, TaskScores
from ggprune.files.documents import DocumentError, Json, decode, encode, encode_fields, to_text
from ggprune.files.keys import entries_of
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Distribution, Divergence, Estimate
from ggprune.pipeline.bench import Suite
from ggprune.runtime.buffers import Buffer, Buffers
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import Device

MEASURED = Estimate(2.5, 0.25)
SPREAD = Distribution(MEASURED, -1.0, 1.5, {99.9: 1.25, 50.0: 0.5})
TEXT = TextInfo(source="a.txt", sha256=None, n_ctx=512, n_chunk=3, n_token=765)
VERSIONS = {"ggprune": "1"}
EVALUATION = Evaluation(
    path="a.gguf", text=TEXT, ppl=MEASURED, versions=VERSIONS,
    divergence=Divergence(
        base_ppl=MEASURED, correlation=0.5, ln_ratio=MEASURED, ratio=MEASURED, difference=MEASURED,
        kld=SPREAD, delta_p=SPREAD, rms_delta_p=MEASURED, same_top_p=MEASURED,
    ),
)  # fmt: skip
SAMPLE = Sample(
    prompt="1 + 1 =", text=" 2", n_token=2, has_ended=True, repetition=0.0, stray_brackets=0,
    scripts={"LATIN": 1.0}, language=None, is_right=True,
)  # fmt: skip
WRITTEN = (SAMPLE, replace(SAMPLE, language="en", is_right=None, has_ended=False))
CASE = Case(8, 0, 4, Compute(n_threads=2, flash_attn=False, type_k="q8_0"))
SPEED = Speed(case=CASE, test_time="2026-11-23T04:21:42Z", samples_ns=(1_000_000, 2_000_000))
RATIO = Ratio(value=1.5, low=1.25, high=1.75, n=2)
TESTS = (Compared(SPEED), Compared(SPEED, RATIO))
CPU = Device(name="CPU", description="a CPU", kind="cpu", total_bytes=8, free_bytes=4)
MACHINE = Machine("CPU", (CPU,), 2, "abc")
MODEL = ModelSpeed(path="a.gguf", description="llama", size_bytes=1, n_param=2, tests=TESTS)
BENCHMARK = Benchmark((MODEL,), MACHINE, VERSIONS)
MEMORY = ModelMemory(
    path="a.gguf", test="pp8", n_ctx=8, buffers=Buffers((Buffer("CPU", "KV", 3),)),
    start_rss_bytes=1, peak_rss_bytes=2, gpus=(VideoMemory("CUDA0", 2, 1),),
)  # fmt: skip
ROOFLINE = Roofline(
    1e9,
    (
        Roof(
            path="a.gguf", test="tg8", weight_bytes=1, cache_bytes=2, measured=0.5, predicted=None,
            measured_speedup=1.0, predicted_speedup=1.5,
        ),
    ),
)  # fmt: skip
LATENCY = Latency(n_seq=2, n_input=3, n_output=4, samples_s=(1.0, 2.0), ratio=RATIO)

VALUES = (
    MEASURED, EVALUATION, replace(EVALUATION, divergence=None),
    replace(EVALUATION, text=replace(TEXT, stride=64)),
    ChoiceScore(
        path="a.gguf", benchmark=ChoiceKind.MULTIPLE_CHOICE, source="a.bin", n_task=2,
        accuracy=Estimate(0.5, 0.25), chance=0.25, answers=(0, 3), is_right=(True, False),
        versions=VERSIONS,
    ),
    TaskScores("a.gguf", None, (TaskMetric("piqa", "acc", 0.5, None),), VERSIONS),
    Health(
        path="a.gguf", n_predict=8, texts=count_texts(WRITTEN, WRITTEN),
        base=count_texts(WRITTEN), versions=VERSIONS,
    ),
    Health(path="a.gguf", n_predict=8, texts=count_texts(WRITTEN), base=None, versions={}),
    BENCHMARK, Suite(BENCHMARK, (MEMORY,), ROOFLINE), Suite(BENCHMARK, None, None),
    LatencyReport(Requests(n_run=3), (ModelLatency("a.gguf", "llama", (LATENCY,)),), MACHINE, {}),
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    read = decode(type(value), json.loads(to_text(value)))
    assert read == value
    assert encode(read) == encode(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_key_can_be_of_another_kind(value: object) -> None:
    """Where a field is not JSON itself, and no other alternative is left."""
    document = encode_fields(value)
    for entry in entries_of(type(value)):
        if entry.is_read and not entry.key.inline:
            with pytest.raises(DocumentError, match=r"expected|not known|missing"):
                decode(type(value), _with(document, entry.place, [[]]))
    with pytest.raises(DocumentError, match="not known"):
        decode(type(value), {**document, "more": 1})


def _with(document: Json, place: tuple[str, ...], item: Json) -> Json:
    if not place:
        return item
    assert isinstance(document, dict)
    return {**document, place[0]: _with(document.get(place[0]), place[1:], item)}


def test_the_number_of_tokens_is_not_in_a_document() -> None:
    assert decode(Estimate, encode(Estimate(1.0, 0.5, 7))) == Estimate(1.0, 0.5)


def test_what_is_computed_with_by_default_is_written() -> None:
    document = encode_fields(Case(8, 0))
    assert document["n_threads"] == encode_fields(decode(Case, document))["n_threads"]
    assert decode(Case, document).compute.n_threads is not None
