"""Reports as files: JSON or Markdown, by the suffix of the name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggprune.errors import UsageError
from ggprune.pipeline import AutoResult
from ggprune.report.health import render_health
from ggprune.report.jsontext import to_json
from ggprune.report.render import render_auto, render_ranking

SUFFIXES = (".json", ".md")


def check_report(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a report is written as {' or '.join(SUFFIXES)}")


def report_text(report: AutoResult, path: Path) -> str:
    """What to write into `path`. Raises UsageError for a suffix that is not known."""
    check_report(path)
    if path.suffix.lower() == ".json":
        return to_json(report)
    devices = ", ".join(report.machine.descriptions)
    health = report.health
    return "\n\n".join(
        [
            f"# {Path(report.ranking.model.path).name} -> {report.out.name}",
            render_auto(report),
            "## Ranking",
            render_ranking(report.ranking),
            *(["## What the models write", render_health(health, whole=True)] if health else []),
            "## How",
            f"{_named(report.ranking.versions)}; {report.machine.backends} on {devices}, "
            f"{report.machine.n_threads} threads.\n"
            f"Source fingerprint: {report.ranking.model['fingerprint']}.\n",
        ]
    )


def evaluation_document(results: Sequence[Any]) -> Any:
    """What --json prints of evaluations of any kind."""
    return results[0] if len(results) == 1 else {"models": list(results)}


def evaluation_text(results: Sequence[Any], title: str, rendered: str, path: Path) -> str:
    """What to write into `path` about evaluations. Raises UsageError for an unknown suffix."""
    check_report(path)
    if path.suffix.lower() == ".json":
        return to_json(evaluation_document(results))
    parts = [f"# {title}", rendered, "## How", f"{_named(results[0].versions)}.\n"]
    return "\n\n".join(parts)


def _named(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
