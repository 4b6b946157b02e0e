"""Blocks as one HTML page: no network, no script or font of others; light and dark, on paper, on a
phone.

Pictures are drawn into it where matplotlib is installed (`pip install 'ggprune[plot]'`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from ggprune.files.printable import printable
from ggprune.report.blocks import Block, Code, Figure, Heading, Table, Text, markdown
from ggprune.report.plot import draw
from ggprune.version import __version__

TEMPLATE = "page.html.j2"
_ALIGNED = re.compile(r"\S {2,}\S|^ ")  # columns made of spaces


def page(blocks: Iterable[Block], document: str) -> str:
    """The page; `document` is the JSON document of the same result."""
    blocks = tuple(blocks)
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True).get_template(TEMPLATE)
    title = next((block.text for block in blocks if isinstance(block, Heading)), "ggprune")
    text: str = template.render(
        title=printable(title), version=__version__, parts=list(_parts(blocks)),
        document=document, markdown=markdown(blocks),
    )  # fmt: skip
    return text


def _parts(blocks: Iterable[Block]) -> Iterator[dict[str, object]]:
    """What the template shows, one for each block."""
    name = "Table"  # the last heading, for who cannot see it
    for block in blocks:
        match block:
            case Heading(text, level):
                name = printable(text)
                yield {"kind": "heading", "text": name, "level": level}
            case Text(lines):
                shown = [printable(line) for line in lines]
                if any(_ALIGNED.search(line) for line in shown):
                    yield {"kind": "aligned", "text": "\n".join(shown)}
                elif shown:
                    yield {"kind": "lines", "lines": shown}
            case Code(text):
                yield {"kind": "code", "text": printable(text, None, keep="\n\t")}
            case Table():
                yield {"kind": "table", "label": name, **_table(block)}
            case Figure(title):
                if find_spec("matplotlib") is not None:
                    yield {"kind": "figure", "title": title, "svg": _svg(block)}


def _table(table: Table) -> dict[str, object]:
    def cells(texts: Iterable[str]) -> list[dict[str, object]]:
        return [
            {"text": printable(text, None), "is_word": i in table.left}
            for i, text in enumerate(texts)
        ]

    return {"headers": cells(table.headers), "rows": [cells(row) for row in table.rows]}


def _svg(figure: Figure) -> str:
    """The element alone: a declaration and a document type have no place within a page."""
    whole = draw(figure, "svg").decode("utf-8")
    element = whole[whole.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
