from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ggprune.errors import DataError, MissingExtraError
from ggprune.evaluation.tasks import (
    COMMONSENSE_METRICS,
    TaskMetric,
    _expanded,
    check_tasks,
    commonsense_mean,
    run_tasks,
)
from tests.conftest import TINY

TABLE = [(a, b) for a in range(2, 6) for b in range(2, 6)]


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'ggprune\[tasks\]'"):
        check_tasks()


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    documents = [
        {"q": f"{a} x {b} =", "choices": [str(a * b), str(a * b + 1)], "gold": 0} for a, b in TABLE
    ]
    data = tmp_path / "table.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    return {
        "task": "table", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(data)}}, "doc_to_text": "{{q}}",
    }  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_multiplication_as_lm_eval_tasks(task: dict[str, Any]) -> None:
    choose = task | {
        "task": "choose", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    write = task | {
        "task": "write", "output_type": "generate_until", "doc_to_target": " {{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    read = task | {
        "task": "read", "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{q}} {{choices[0]}}", "metric_list": [{"metric": "word_perplexity"}],
    }  # fmt: skip
    (scores,) = run_tasks([TINY], [choose, write, read], n_ctx=64)
    found = {(m.task, m.metric): m.value for m in scores.metrics}
    assert found[("choose", "acc")] > 0.8
    assert found[("write", "exact_match")] > 0.5
    assert 1 < found[("read", "word_perplexity")] < 100
    assert scores.versions["lm-eval"]
    with pytest.raises(DataError, match="nonsense"):
        run_tasks([TINY], ["nonsense"], n_ctx=64)


@pytest.mark.filterwarnings("default")
def test_lm_eval_knows_the_model_by_name() -> None:
    from lm_eval.api.registry import get_model

    from ggprune.evaluation.harness import GgufModel

    assert get_model("ggprune") is GgufModel
    model = GgufModel.create_from_arg_string(f"pretrained={TINY},n_ctx=64,n_threads=1")
    assert model.n_ctx == 64
    model.close()


def test_the_mean_of_the_seven_commonsense_tasks_is_the_papers() -> None:
    """Llama-2-7B in results/Llama-2-7b-hf/zeroshot_acc.txt of Shortened LLaMA's repository."""
    found = (
        ("arc_challenge", "acc", 43.4300, 1.449), ("arc_challenge", "acc_norm", 46.2457, 1.457),
        ("arc_easy", "acc", 76.3468, 0.872), ("arc_easy", "acc_norm", 74.6212, 0.893),
        ("boolq", "acc", 77.7370, 0.728), ("hellaswag", "acc", 57.1599, 0.494),
        ("hellaswag", "acc_norm", 75.9809, 0.426), ("openbookqa", "acc", 31.4, 2.078),
        ("openbookqa", "acc_norm", 44.2, 2.223), ("piqa", "acc", 78.0740, 0.965),
        ("piqa", "acc_norm", 79.1077, 0.949), ("winogrande", "acc", 69.0608, 1.299),
    )  # fmt: skip
    mean = commonsense_mean([TaskMetric(*row) for row in found])
    assert (mean.task, mean.metric) == ("commonsense", "mean")
    assert mean.value == pytest.approx(66.8065, abs=5e-5)
    assert mean.se == pytest.approx(0.4771, abs=5e-5)
    with pytest.raises(DataError, match="no acc for boolq"):
        commonsense_mean([TaskMetric(*row) for row in found if row[0] != "boolq"])
    asked = ["piqa", "commonsense", "mmlu"]
    assert _expanded(asked) == ["piqa", *(t for t in COMMONSENSE_METRICS if t != "piqa"), "mmlu"]
