"""Documents say what is so: generated pages are up to date, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ggprune.version import __version__

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CALLERS = (*PAGES, *WORKFLOWS, ROOT / ".ci" / "run", ROOT / ".pre-commit-config.yaml")


def test_pages_are_up_to_date() -> None:
    command = [sys.executable, "-m", "docs.make", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links_in(page) if not leads_somewhere(page, link)] == []


def links_in(page: Path) -> list[str]:
    """All but those to other sites."""
    found = re.findall(r"\]\(([^()\s]+)\)", page.read_text("utf-8"))
    return [link for link in found if "://" not in link]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in anchors_of(target))


def anchors_of(page: Path) -> set[str]:
    """Of a page's headings: small letters, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#b) [c](page.md) [d](d.md) [e](https://e)\n")
    lost = [link for link in links_in(page) if not leads_somewhere(page, link)]
    assert lost == ["#b", "d.md"]


def test_files_that_contributors_are_sent_to_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:ggprune|tests|docs|fixtures|\.ci)/[\w./]*)`", text)
    assert len(named) > 20
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def called_targets(text: str) -> Iterator[str]:
    """Of `make a b X=1`, where it is a command: at the start of a line, in backticks, behind $."""
    for words in re.findall(
        r"(?:^|[`$:]) *make((?: +[A-Za-z][\w-]*(?![\w=-]))+)", text, re.MULTILINE
    ):
        yield from words.split()


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.name)
def test_make_knows_what_it_is_asked_for(path: Path) -> None:
    assert set(called_targets(path.read_text("utf-8"))) <= targets()


def test_targets_are_found() -> None:
    text = "$ make test  # all\n`make lint type`, `make fuzz FUZZ_S=9`\n  run: make demo X=1"
    assert [*called_targets(text)] == ["test", "lint", "type", "fuzz", "demo"]
    suites = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert {t for t in targets() if t.startswith("test")} <= set(called_targets(suites))


def test_no_file_hides_a_target() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(" ".join(phony).split()) == targets()


@pytest.mark.skipif(os.name == "nt", reason="the step runs on Linux")
@pytest.mark.parametrize(("tag", "code"), [(f"v{__version__}", 0), ("v999.0", 1), ("main", 1)])
def test_only_the_version_is_released_under_its_tag(tag: str, code: int) -> None:
    """The step of the workflow, as it stands there."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))
    steps = workflow["jobs"]["build"]["steps"]
    script = next(step["run"] for step in steps if step.get("name") == "The tag is the version")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, env=os.environ | {"GITHUB_REF_NAME": tag},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code
    assert (f"the tag is {tag}" in done.stdout) == bool(code)


def test_what_publishes_has_no_more_rights_than_it_needs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert (publish["needs"], publish["environment"]["name"]) == ("build", "pypi")
