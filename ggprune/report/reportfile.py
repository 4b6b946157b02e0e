"""Reports as files: JSON or Markdown, by the suffix of the name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ggprune.errors import UsageError
from ggprune.files.documents import to_text
from ggprune.report.blocks import Block
from ggprune.report.markdown import markdown

SUFFIXES = (".json", ".md")


def check_report(path: Path) -> None:
    """Raises UsageError for a suffix that is not known."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a report is written as {' or '.join(SUFFIXES)}")


def report_text(document: object, blocks: Iterable[Block], path: Path) -> str:
    """What to write into `path`, of the same result. Raises UsageError as `check_report`."""
    check_report(path)
    return to_text(document) if path.suffix.lower() == ".json" else markdown(blocks)


def named_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
