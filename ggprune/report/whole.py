"""A result as a file: JSON, Markdown, or one HTML page, by the suffix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ggprune.errors import UsageError
from ggprune.files.documents import to_text
from ggprune.report.blocks import Block, markdown

SUFFIXES = (".html", ".json", ".md")


def check_report(path: Path) -> None:
    """Raises UsageError for a suffix that is not known."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a report is written as {', '.join(SUFFIXES)}")


def report_text(document: object, blocks: Iterable[Block], path: Path) -> str:
    """What to write into `path`, of the same result. Raises UsageError as `check_report`."""
    check_report(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return to_text(document)
    if suffix == ".md":
        return markdown(blocks)
    from ggprune.report.page import page  # and Jinja2

    return page(blocks, to_text(document))
