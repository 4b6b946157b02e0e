"""Writing files that appear under their names only when everything about them has been proved.

Whatever fails, there is nothing to clean up. What is written is for the jobs to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.errors import LlamaAbortError, LlamaError, VerificationError
from ggprune.files.outputs import PendingFile, commit_all, disk_errors
from ggprune.files.passing import passing_folder
from ggprune.model.model import Model, open_model
from ggprune.runtime.isolate import isolated
from ggprune.runtime.probe import Sense, cache_bytes, check_taken, probe
from ggprune.surgery.layout import Layout

CACHE_TOKENS = 4096  # of a context that caches are compared in


@dataclass(frozen=True)
class OutputFiles:
    """Files that were written, verified and published: one, or the shards of a split model."""

    paths: tuple[Path, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()  # what a user must know about the result


@dataclass(frozen=True)
class CacheSizes:
    """What llama.cpp allocates for keys and values in F16, and recurrent states, of a context."""

    n_ctx: Annotated[int, "tokens"]
    before_bytes: int
    after_bytes: int


def cache_sizes(before: Model, after: Sequence[Path]) -> CacheSizes | None:
    """Of a model and the files made of it; None where llama.cpp makes no context of it.

    No weights are read.
    """
    stated = before.fields.integer(f"{before.arch}.context_length", CACHE_TOKENS)
    n_ctx = max(min(stated, CACHE_TOKENS), 1)
    try:
        sizes = [isolated(cache_bytes, paths, n_ctx) for paths in (_paths(before), tuple(after))]
    except LlamaError:
        return None
    return CacheSizes(n_ctx, *sizes)


@contextlib.contextmanager
def header_only(layout: Layout) -> Iterator[Model]:
    """The file as a quantizer's dry run needs it: all of the header, holes instead of the data."""
    with passing_folder() as folder:
        hollow = folder / "header-only.gguf"
        with disk_errors(hollow), hollow.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.size_bytes)
        yield open_model(hollow)


def publish(
    pending: Sequence[PendingFile], *, force: bool, check_load: bool,
    source: Model | None = None, also: Sequence[PendingFile] = (),
) -> OutputFiles:  # fmt: skip
    """Let llama.cpp load the files and decode, then give them and those of `also` their names.

    What it computes must make as much sense as what it computes of `source`.
    """
    if check_load:
        with contextlib.ExitStack() as stack:
            for file in pending:
                stack.enter_context(file.named())
            _check_loads(pending, source)
    size_bytes = sum(file.path.stat().st_size for file in pending)
    commit_all([*pending, *also], force=force)
    return OutputFiles(tuple(file.target for file in pending), size_bytes)


def check_source(model: Model, *, computed: bool) -> None:
    """Raises LlamaError if llama.cpp does not take a model that something is to be made of.

    Where the result could hide it (`computed`), VerificationError if its logits are not finite.
    """
    paths = _paths(model)
    if not computed:
        isolated(check_taken, paths)
    elif isolated(probe, paths) is Sense.NOT_FINITE:
        raise _nonsense(model)


def _check_loads(pending: Sequence[PendingFile], source: Model | None) -> None:
    target = pending[0].target
    try:
        sense = isolated(probe, tuple(file.path for file in pending))
    except LlamaAbortError as e:
        if source is not None:
            isolated(probe, _paths(source))  # says so if it is the source's fault
        raise LlamaAbortError(
            f"{target}: not kept: every byte is as planned, but llama.cpp fails with it: {e} "
            "(--no-verify skips this check)"
        ) from e
    if sense is Sense.SOUND:
        return
    of_source = isolated(probe, _paths(source)) if source is not None else Sense.SOUND
    if of_source is Sense.NOT_FINITE:
        assert source is not None
        raise _nonsense(source)
    if of_source is not sense:
        told = f"llama.cpp loads it, its logits are {sense.value}"
        raise VerificationError(f"{target}: not kept: {told}, unlike those of what it was made of")


def _nonsense(model: Model) -> VerificationError:
    return VerificationError(
        f"{model.path}: its logits are {Sense.NOT_FINITE.value}: nothing is made of it"
    )


def _paths(model: Model) -> tuple[Path, ...]:
    return tuple(file.path for file in model.files)
