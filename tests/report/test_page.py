"""The HTML page: what it says is what the document says, and it asks nobody for anything."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ggprune.files.documents import to_text
from ggprune.metrics.text import read_text
from ggprune.model.model import Model
from ggprune.report.blocks import Code, Figure, Heading, Table, Text, markdown
from ggprune.report.page import page
from ggprune.report.ranking import blocks
from ggprune.report.whole import report_text
from tests.conftest import CALIBRATION
from tests.scoring.ranked import ranked

VOID = {"meta", "br", "link", "img", "input", "hr"}


@dataclass
class Seen(html.parser.HTMLParser):
    """What a reader finds: tables, texts by id, attributes; all that opens is closed."""

    rows: list[list[str]] = field(default_factory=list)
    by_id: dict[str, str] = field(default_factory=dict)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    open: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id") or ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if {"th", "td"} & set(tags):
            self.rows[-1][-1] += data
        for _, name in self.open:
            if name:
                self.by_id[name] = self.by_id.get(name, "") + data


def read(text: str) -> Seen:
    seen = Seen()
    seen.feed(text)
    seen.close()
    assert not seen.open
    return seen


def test_it_says_what_the_document_says(tiny: Model) -> None:
    ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=64, n_chunk=2)
    shown = (Heading("Which layers?", level=1), *blocks(ranking))
    seen = read(page(shown, to_text(ranking)))
    assert json.loads(seen.by_id["document"]) == json.loads(to_text(ranking))
    assert seen.by_id["markdown"] == markdown(shown)
    (table,) = (block for block in shown if isinstance(block, Table))
    assert seen.rows == [list(row) for row in (table.headers, *table.rows)]
    assert len(seen.rows) == 1 + len(ranking.layers)


def test_it_asks_nobody_for_anything(tiny: Model) -> None:
    ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=64, n_chunk=2)
    text = page(blocks(ranking), to_text(ranking))
    assert "<svg" in text
    seen = read(text)
    for tag, name, value in seen.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    style = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert not re.search(r"@import|url\(|https?://", style.split("<pre id=")[0])


def test_it_is_for_everybody(tiny: Model) -> None:
    """A language, a width, roles and labels of what scrolls and what is a picture."""
    ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=64, n_chunk=2)
    seen = read(page(blocks(ranking), to_text(ranking)))
    found = {(tag, name) for tag, name, _ in seen.attributes}
    assert ("html", "lang") in found
    assert ("meta", "name", "viewport") in seen.attributes
    assert {("div", "tabindex"), ("div", "aria-label"), ("th", "scope")} <= found
    assert ("div", "role", "img") in seen.attributes


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "</pre><b>", "a & b", "\x1b[31m"])
def test_whatever_a_name_says_it_is_a_name(evil: str) -> None:
    shown = (
        Heading(evil), Text((evil,)), Code(evil), Table(("name",), ((evil,),)),
        Text(("a  b", evil)),
    )  # fmt: skip
    text = page(shown, json.dumps({evil: evil}))
    assert "<b>" not in text
    assert "alert(1)</script>" not in text
    assert "\x1b" not in text
    seen = read(text)
    assert json.loads(seen.by_id["document"]) == {evil: evil}


def test_many_layers_and_models_make_no_large_page() -> None:
    headers = tuple(f"column {i}" for i in range(12))
    table = Table(headers, tuple(tuple(f"{i}.{n}" for n in range(12)) for i in range(200)))
    assert len(page([table] * 3, "{}")) < 2_000_000


def test_a_picture_is_left_out_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("nothing", 4.0, ((lambda axes: axes.plot([1, 2]), 2.0),))
    assert "<svg" in page([figure], "{}")
    monkeypatch.setattr("ggprune.report.page.find_spec", lambda _: None)
    assert "<svg" not in page([figure], "{}")


def test_the_suffix_says_so() -> None:
    text = report_text({"a": 1}, [Heading("Title")], Path("x.html"))
    assert text.startswith("<!doctype html>")
    assert json.loads(read(text).by_id["document"]) == {"a": 1}
