"""Reports as files: JSON or Markdown, by the suffix of the name."""

from __future__ import annotations

from pathlib import Path

from ggprune.errors import UsageError
from ggprune.pipeline import AutoReport
from ggprune.report.jsontext import to_json
from ggprune.report.render import render_auto, render_ranking

SUFFIXES = (".json", ".md")


def check_report(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a report is written as {' or '.join(SUFFIXES)}")


def report_text(report: AutoReport, path: Path) -> str:
    """What to write into `path`. Raises UsageError for a suffix that is not known."""
    check_report(path)
    if path.suffix.lower() == ".json":
        return to_json(report.to_json())
    versions = ", ".join(f"{k} {v}" for k, v in report.ranking.versions.items())
    devices = ", ".join(report.machine["devices"])
    return "\n\n".join(
        [
            f"# {Path(report.ranking.model['path']).name} -> {report.out.name}",
            render_auto(report),
            "## Ranking",
            render_ranking(report.ranking),
            "## How",
            f"{versions}; {report.machine['backends']} on {devices}, "
            f"{report.machine['n_threads']} threads.\n"
            f"Source fingerprint: {report.plan.fingerprint}.\n",
        ]
    )
