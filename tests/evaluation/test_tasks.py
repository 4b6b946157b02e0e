from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ggprune.errors import DataError, MissingExtraError
from ggprune.evaluation.tasks import check_tasks, run_tasks
from tests.conftest import TINY

TABLE = [(a, b) for a in range(2, 6) for b in range(2, 6)]


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'ggprune\[tasks\]'"):
        check_tasks()


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    pytest.importorskip("lm_eval")
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
    assert scores.to_json()["versions"]["lm-eval"]
    with pytest.raises(DataError, match="nonsense"):
        run_tasks([TINY], ["nonsense"], n_ctx=64)


@pytest.mark.filterwarnings("default")
def test_lm_eval_knows_the_model_by_name() -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.registry import get_model

    from ggprune.evaluation.harness import GgufModel

    assert get_model("ggprune") is GgufModel
    model = GgufModel.create_from_arg_string(f"pretrained={TINY},n_ctx=64,n_threads=1")
    assert model.n_ctx == 64
    model.close()
