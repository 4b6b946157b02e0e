"""Every row and every rule is what it should be when the table is loaded, or nothing is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from ggprune.arch.rules import RULES, Generic, Rule
from ggprune.arch.rules.sharing import SharedKv
from ggprune.arch.rules.tensors import Slices
from ggprune.arch.rules.windows import SwaPeriod
from ggprune.arch.table import PATH, ArchitectureRow, RefusedRow, architecture_table, parse_table
from ggprune.errors import DataError

Row = dict[str, Any]
Spoil = Callable[[Row], object]


def test_rows_are_typed() -> None:
    table = architecture_table()
    assert len(table.architectures) == 152
    assert "llama.cpp" in table.source
    row = table.architectures["gemma3n"]
    assert isinstance(row, ArchitectureRow)
    assert row.residual_in == ("inp_stacked",)
    assert repr(row.rules[:3]) == repr((SwaPeriod(5), Slices(), SharedKv(own_kv=20)))
    assert isinstance(table.architectures["bert"], RefusedRow)


SPOILT: dict[str, tuple[str, Spoil, tuple[str, ...]]] = {
    "misspelled field of a rule": (
        "gemma3", lambda row: row["rules"][0].update(perod=6), ("swa_period: unknown field perod",),
    ),
    "missing field of a rule": (
        "gemma3", lambda row: row["rules"][0].pop("period"),
        ("swa_period: field period is missing",),
    ),
    "text for a number": (
        "gemma3", lambda row: row["rules"][0].update(period="6"), ("period is '6', expected int",),
    ),
    "a flag for a number": (
        "gemma3", lambda row: row["rules"][0].update(period=True), ("period is True", "int"),
    ),
    "a number for a flag": (
        "laguna", lambda row: row["rules"][0].update(dense_first=1), ("dense_first is 1", "bool"),
    ),
    "nothing": (
        "gemma3n", lambda row: row["rules"][2].update(own_kv=None), ("own_kv is None",),
    ),
    "misspelled condition": (
        "gemma3", lambda row: row["rules"][0].update(window="stated"),
        ("window is 'stated', expected 'if_stated'",),
    ),
    "text for a list": (
        "apertus", lambda row: row["rules"][0].update(keys="xielu.eps"), ("keys is 'xielu.eps'",),
    ),
    "a number in a list of texts": (
        "apertus", lambda row: row["rules"][0].update(keys=["a", 1]), ("keys[1] is 1",),
    ),
    "names that are no numbers": (
        "baichuan", lambda row: row["rules"][0].update(hosts={"x": "llama"}), ("hosts is {'x'",),
    ),
    "a number for a host": (
        "baichuan", lambda row: row["rules"][0].update(hosts={"32": 1}), ("hosts.32 is 1",),
    ),
    "unknown rule": (
        "gemma3", lambda row: row["rules"][0].update(rule="swa_perod"), ("unknown rule swa_perod",),
    ),
    "a rule without a name": (
        "gemma3", lambda row: row["rules"][0].pop("rule"), ("does not name a rule",),
    ),
    "rules that are no list": (
        "gemma3", lambda row: row.update(rules={}), ("rules is {}",),
    ),
    "misspelled column": (
        "llama", lambda row: row.update(residual_ni=["embd"]), ("unknown field residual_ni",),
    ),
    "missing column": (
        "llama", lambda row: row.pop("residual_out"), ("residual_out is missing",),
    ),
    "text for a column of names": (
        "llama", lambda row: row.update(residual_in="embd"), ("residual_in is 'embd'",),
    ),
    "a refusal with a graph": (
        "bert", lambda row: row.update(residual_in=[]), ("unknown field residual_in",),
    ),
    "a refusal without its source": (
        "bert", lambda row: row.pop("source"), ("source is missing",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_row_that_is_wrong_fails_at_load(case: str) -> None:
    name, spoil, messages = SPOILT[case]
    document = json.loads(PATH.read_text("utf-8"))
    spoil(document["architectures"][name])
    with pytest.raises(DataError) as failure:
        parse_table(document)
    for message in (f"architectures.json: {name}", *messages):
        assert message in str(failure.value)


def test_a_table_that_is_wrong_fails_at_load() -> None:
    document = json.loads(PATH.read_text("utf-8"))
    for wrong, message in (
        ({"source": "x"}, "architectures is missing"),
        ({"source": "x", "architectures": {"llama": 1}}, "llama is 1, expected an object"),
        ({"architectures": {}}, "field source is missing"),
        (document | {"achitectures": {}}, "unknown field achitectures"),
    ):
        with pytest.raises(DataError, match=message):
            parse_table(wrong)


@pytest.mark.parametrize("rule", [Generic, *RULES.values()], ids=lambda rule: rule.__name__)
def test_rules_say_what_they_are(rule: type[Rule]) -> None:
    assert "__dataclass_fields__" in vars(rule)  # of its own
    assert rule.sentence()
    assert not rule.sentence().startswith(rule.__name__)  # what dataclass writes by itself
    assert rule.sentence().endswith(".")
    assert isinstance(rule.binds, bool)


def test_rules_are_frozen() -> None:
    rule = SwaPeriod(4)
    for name in (*(field.name for field in fields(rule)), "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(rule, name, 1)


def test_rules_that_are_only_followed() -> None:
    assert {name for name, rule in RULES.items() if not rule.binds} == {
        "attention_scale", "both_kinds", "deepstack", "hosted", "one_embedding_layer",
        "recurrent_interval", "rescaled_by_depth", "residual_scale", "rope_by_array", "sliced",
        "slices", "swa_array", "swa_period", "windowed_attention",
    }  # fmt: skip


def test_halves_are_said_of_layers_that_are_computed_once() -> None:
    """What the documentation lists: no rule looks at the runs through looped layers."""
    rows = architecture_table().architectures
    divided = {
        name for name, row in rows.items() if isinstance(row, ArchitectureRow) and row.halves
    }
    looped = {name for name, row in rows.items() if isinstance(row, ArchitectureRow) and row.loops}
    assert looped and divided and not looped & divided
