"""Wheels of installed packages, made again from their files.

They let pip install into a fresh environment what took a compiler and a network to get here, and
nothing but that: a dependency that ggprune does not state is not there.
"""

from __future__ import annotations

import zipfile
from importlib.metadata import Distribution, PackagePath, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What pip writes when it installs; no part of a wheel.
NOT_IN_WHEELS = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")


def repack_dependencies(name: str, folder: Path) -> None:
    """Write a wheel of everything that an installed package needs, without its extras."""
    for needed in sorted(dependencies(name)):
        repack(distribution(needed), folder)


def dependencies(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """All of them, in all depths; `name` itself is none of them."""
    found: dict[str, set[str]] = {}
    todo = [(name, extras)]
    while todo:
        one, its_extras = todo.pop()
        for requirement in map(Requirement, requires(one) or ()):
            if not applies(requirement, its_extras):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found or not requirement.extras <= found[key]:
                found.setdefault(key, set()).update(requirement.extras)
                todo.append((key, frozenset(found[key])))
    return set(found)


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def repack(package: Distribution, folder: Path) -> Path:
    """The files under the environment's site-packages; pip makes scripts and caches again."""
    inside = [path for path in package.files or () if belongs_in(path)]
    name = canonicalize_name(package.name).replace("-", "_")
    target = folder / f"{name}-{package.version}-{tags(package)}.whl"
    record = next(path.parent for path in inside if path.name == "WHEEL") / "RECORD"
    with zipfile.ZipFile(target, "w") as wheel:  # not compressed: it is read once, and soon
        for path in inside:
            wheel.write(str(path.locate()), path.as_posix())
        wheel.writestr(record.as_posix(), "".join(f'"{path.as_posix()}",,\n' for path in inside))
    return target


def belongs_in(path: PackagePath) -> bool:
    in_info = path.parent.name.endswith(".dist-info") and path.name in NOT_IN_WHEELS
    return not in_info and ".." not in path.parts and "__pycache__" not in path.parts


def tags(package: Distribution) -> str:
    """As in a wheel's name: python, ABI and platform, each with all that the wheel was made for."""
    lines = (package.read_text("WHEEL") or "").splitlines()
    rows = [
        line.removeprefix("Tag:").strip().split("-") for line in lines if line.startswith("Tag:")
    ]
    return "-".join(".".join(dict.fromkeys(column)) for column in zip(*rows, strict=True))
