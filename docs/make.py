"""Writes the generated pages of this folder: `make docs`. With --check it says which are old."""

from __future__ import annotations

import sys
from pathlib import Path

from docs import architectures, formats, recipes

PAGES = {
    "architectures.md": architectures.document, "formats.md": formats.document,
    "recipes.md": recipes.document,
}  # fmt: skip


def main() -> int:
    texts = {Path(__file__).with_name(name): document() for name, document in PAGES.items()}
    old = [path for path, text in texts.items() if _held(path) != text]
    if "--check" in sys.argv:
        print("".join(f"{path.name} is old: run make docs\n" for path in old), end="")
        return len(old)
    for path in old:
        path.write_text(texts[path], "utf-8")
    return 0


def _held(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
