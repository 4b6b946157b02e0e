"""Texts for measuring: where they come from, and which one it was. Knows nothing of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ggprune.errors import DataError
from ggprune.files.reading import TextErrors, name_of, read_utf8

CALIBRATION, EVALUATION = "calibration.txt", "evaluation.txt"  # shipped in texts/


@dataclass(frozen=True)
class Text:
    """A text and its identity."""

    source: str  # a path, or `ggprune/...` for one that ships with the package
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()


def read_text(path: Path, errors: TextErrors = TextErrors.STRICT) -> Text:
    """A UTF-8 text; like llama.cpp's -f, one line break at the very end does not count.

    Raises DataError if it cannot be read, is empty, or is not UTF-8.
    """
    content = read_utf8(path, errors)
    if not content.strip():
        raise DataError(f"{name_of(path)}: the text is empty")
    return Text(name_of(path), content.removesuffix("\n"))


def read_texts(paths: Sequence[Path], errors: TextErrors = TextErrors.STRICT) -> Text:
    """Several texts as one, a line break between them; of a folder all its .txt files, by name.

    Raises DataError as `read_text`, and for a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: there is no .txt file in this folder")
        files += inside
    texts = [read_text(path, errors) for path in files]
    if len(texts) == 1:
        return texts[0]
    source = f"{texts[0].source} and {len(texts) - 1} more"
    return Text(source, "\n".join(text.content for text in texts))


def shipped_text(name: str) -> Text:
    """`CALIBRATION` or `EVALUATION`: two different texts of the same kind."""
    content = (files("ggprune.metrics") / "texts" / name).read_text("utf-8")
    return Text(f"ggprune/{name}", content.removesuffix("\n"))
