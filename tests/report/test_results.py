"""What a reader is told of results: of those that can be made without computing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ggprune.evaluation.health import Health, Sample, count_texts
from ggprune.evaluation.tasks import TaskMetric, TaskScores
from ggprune.files.documents import to_text
from ggprune.model.model import Model
from ggprune.pipeline.files import OutputFiles
from ggprune.report import evaluation, written
from ggprune.report import model as described
from ggprune.report.blocks import Code, Heading, Table, Text, markdown, terminal
from ggprune.surgery.plan import make_plan
from ggprune.surgery.remap import Remapped
from tests.conftest import TINY


def sample(text: str, n_token: int = 3) -> Sample:
    return Sample(
        prompt="Once", text=text, n_token=n_token, has_ended=False, repetition=0.5,
        stray_brackets=1, scripts={}, language=None, is_right=None,
    )  # fmt: skip


def test_a_pruned_model(tiny: Model) -> None:
    files = OutputFiles((Path("a-1.gguf"), Path("a-2.gguf")), tiny.size_bytes // 2, ("of both",))
    plan = replace(make_plan(tiny, (1, 2)), notes=("of the plan",))
    result = written.pruned_model(tiny, plan, files, written=False)
    assert terminal(written.blocks(result)).splitlines()[:3] == [
        "drop     1-2", "keep     0,3-8  (renumbered to 0-6)", "layers   9 -> 7",
    ]  # fmt: skip
    assert terminal(written.blocks(result)).splitlines()[-4:] == [
        "note     of the plan", "note     of both", "would be a-1.gguf", "would be a-2.gguf",
    ]  # fmt: skip
    document = json.loads(to_text(result))
    assert list(document) == ["source", "plan", "out", "notes"]
    assert document["plan"]["drop"] == [1, 2]
    assert document["out"] == {
        "paths": ["a-1.gguf", "a-2.gguf"], "arch": "llama",
        "size_bytes": tiny.size_bytes // 2, "written": False,
    }  # fmt: skip


def test_a_quantized_model(tiny: Model) -> None:
    files = OutputFiles((Path("a.gguf"),), 1 << 20, ())
    result = written.quantized_model(tiny, "Q4_K_M", files, written=True)
    assert terminal(written.blocks(result)) == (
        "type     Q4_K_M\nsize     7.30 MiB -> 1.00 MiB\nbytes    1048576\nwritten  a.gguf\n"
    )
    document = json.loads(to_text(result))
    assert list(document) == ["source", "type", "out", "notes"]
    assert list(document["out"]) == ["path", "paths", "size_bytes", "written"]


def test_a_companion() -> None:
    result = written.Companion(Remapped("LoRA adapter", 10, 7, ("a note",)), Path("o.gguf"))
    assert terminal(written.blocks(result)) == (
        "LoRA adapter: 7 of 10 tensors belong to layers that stay\n"
        "note     a note\nwritten  o.gguf\n"
    )
    assert json.loads(to_text(result)) == {
        "kind": "LoRA adapter", "n_before": 10, "n_after": 7, "notes": ["a note"], "out": "o.gguf",
    }  # fmt: skip


def test_a_model(tiny: Model) -> None:
    description = described.describe(tiny)
    facts, table = described.blocks(description)
    assert isinstance(facts, Text)
    assert "removable     every layer alone" in facts.lines
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [*map(str, range(9)), "-"]
    document = json.loads(to_text(description))
    assert list(document) == [
        "model", "layers", "refused", "undivided", "alone", "experts", "experts_refused",
        "outside",
    ]  # fmt: skip
    assert list(document["layers"][0]) == [
        "layer", "traits", "removable", "removable_with", "kind", "n_tensor", "n_param",
        "size_bytes", "types",
    ]  # fmt: skip
    sizes = [group["size_bytes"] for group in (*document["layers"], document["outside"])]
    assert sum(sizes) == sum(document["model"]["types"].values()) == tiny.tensor_bytes


def test_a_model_with_experts(tiny: Model, tiny_moe: Model) -> None:
    (facts, _), document = (
        described.blocks(described.describe(tiny_moe)),
        json.loads(to_text(described.describe(tiny_moe))),
    )
    assert isinstance(facts, Text)
    told = [line for line in facts.lines if line.startswith(("runs", "experts"))]
    assert told == [
        "runs          may also begin with an FFN and end with an attention (1f-2a)",
        "experts       16 in each of 4 layers, 4 for every token; up to 12 of each can leave "
        "(--drop-experts)",
    ]
    assert document["experts"] == {"n_expert": 16, "n_used": 4, "n_group": 1,
                                   "layers": [0, 1, 2, 3]}  # fmt: skip
    dense = described.describe(tiny)
    assert (dense.experts, dense.experts_refused, dense.undivided) == (None, None, None)


def test_describing_a_model_loads_nothing_that_computes() -> None:
    script = (
        "import sys; from ggprune.model.model import open_model;"
        "from ggprune.report.model import *;"
        "from ggprune.report.blocks import terminal;"
        f"terminal(blocks(describe(open_model({str(TINY)!r}))));"
        "names = {name.split('.')[1] for name in sys.modules if name.startswith('ggprune.')};"
        "print(*sorted(names), 'llama_cpp' in sys.modules, 'matplotlib' in sys.modules)"
    )
    code = [sys.executable, "-c", script]
    done = subprocess.run(code, check=True, capture_output=True, text=True)
    *packages, llama_cpp, matplotlib = done.stdout.split()
    assert (llama_cpp, matplotlib) == ("False", "False")
    assert not {"runtime", "scoring", "evaluation", "bench", "pipeline"} & set(packages)


def test_shapes() -> None:
    shapes = written.list_shapes()
    (table,) = written.shape_blocks(shapes)
    assert isinstance(table, Table)
    assert len(table.rows) == len(shapes["shapes"]) > 1
    assert list(json.loads(to_text(shapes))["shapes"][0]) == [
        "name", "source", "arch", "n_layer", "n_param",
    ]  # fmt: skip


def test_what_models_write_is_never_taken_for_markdown() -> None:
    base, pruned = [sample("fine")], [sample("# no heading\n```")]
    result = Health(
        path="a.gguf",
        n_predict=8,
        texts=count_texts(pruned, base),
        base=count_texts(base),
        versions={},
    )
    table, excerpts = evaluation.text_blocks([result])
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["base", "a.gguf"]
    assert excerpts == Text(("> Once", "  base: fine", "  a.gguf: # no heading ```"))
    whole = evaluation.text_blocks([result], whole=True)
    assert whole[1:] == (
        Heading("Prompt 1", level=3),
        Code("Once"),
        Text(("base (3 tokens, cut off):",)),
        Code("fine"),
        Text(("a.gguf (3 tokens, cut off):",)),
        Code("# no heading\n```"),
    )
    assert "````text\n# no heading\n```\n````\n" in markdown(whole)


def test_reports_of_evaluations() -> None:
    scores = TaskScores("a.gguf", None, (TaskMetric("boolq", "acc", 0.5, None),), {"ggprune": "1"})
    report = evaluation.report(scores.versions, "a.gguf", evaluation.task_blocks([scores]))
    assert markdown(report) == (
        "# a.gguf\n\n"
        "| model  | task  | metric |  value |   ± |\n"
        "| ------ | ----- | ------ | -----: | --: |\n"
        "| a.gguf | boolq | acc    | 0.5000 |   - |\n\n"
        "## How\n\nggprune 1.\n"
    )
    assert evaluation.document([scores]) is scores
    assert json.loads(to_text(evaluation.document([scores, scores]))).keys() == {"models"}
