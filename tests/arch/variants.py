"""Does anything that a model's metadata may say depend on the layers' positions, unknown to a rule?

Of every architecture, keys that llama.cpp reads are given other values, and arrays where it takes
arrays; keys that are read only then are given values in turn. A model of it that llama.cpp computes
must be refused, or its file without some layers must be what leaving them out predicts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.arch.legal import legal_drop
from ggprune.errors import GGPruneError, LlamaError
from ggprune.model.metadata import Value, ValueType, array, scalar
from ggprune.model.model import Model, open_model
from tests.arch.exactness import Checker
from tests.arch.families import Family
from tests.arch.keys import Metadata, ReadKey, changed, keys_read, metadata_of, store
from tests.arch.meaning import has_own_rule, short
from tests.random_models import make_random_model

N_TOKEN = 80  # two chunks of the longest window of the models
TIMEOUT_S = 60.0
WHOLE, FACTORS = (0, 1, 2, 3, 4, 6), (0.0, 0.5, 2.0)
BAD = ("wrong", "breaks")

# Not predicted: the stream of this graph cannot be tapped, and ggprune says so.
# Stopped: llama.cpp does not load the file without layers, as the check behind `prune` finds.
# Breaks: it loads and does not compute.
Verdict = Literal[
    "does not load", "does not compute", "refused", "exact", "rounded", "not predicted",
    "stopped", "breaks", "wrong",
]  # fmt: skip
Changes = Mapping[str, Value | None]  # by template; None takes the key away
Keys = Mapping[str, ReadKey]


@dataclass(frozen=True)
class Result:
    """What became of one variant."""

    arch: str
    changes: Changes
    verdict: Verdict = "does not load"
    detail: str = ""
    new_keys: Keys = field(default_factory=dict)  # read now, and not of the model as it was

    def __str__(self) -> str:
        said = ", ".join(f"{short(k)} {_shown(v)}" for k, v in self.changes.items())
        return f"{self.arch}: {said or 'as it is'}: {self.verdict} {self.detail}".rstrip()


def _shown(value: Value | None) -> str:
    return "absent" if value is None else str(value.decode())


def check_variants(family: Family, seed: int, limit: int | None) -> list[Result]:
    """Up to `limit` variants, those of keys with rules of their own first; None: all."""
    with tempfile.TemporaryDirectory() as folder:
        family.make(
            Path(folder)
        )  # its random numbers are those of the variants, which inherit them
        metadata = metadata_of(Path(folder) / "metadata.gguf")
    rng = np.random.default_rng([seed, zlib.crc32(family.arch.encode())])
    original = _forked(Result(family.arch, {}), metadata, {})
    results = [original]
    waiting = deque(_variants(metadata, family.arch, {}, original.new_keys, rng))
    while waiting and (limit is None or len(results) <= limit):
        result = _forked(Result(family.arch, waiting.popleft()), metadata, original.new_keys)
        results.append(result)
        if len(result.changes) == 1 and result.new_keys:
            more = _variants(metadata, family.arch, result.changes, result.new_keys, rng)
            waiting.extendleft(more)
    return results


def _variants(
    metadata: Metadata, arch: str, given: Changes, keys: Keys, rng: np.random.Generator
) -> list[Changes]:
    """`given` and one of the keys changed, in every way; keys with rules of their own first."""
    found = [
        {**given, key: value}
        for key, kind in keys.items()
        for value in _values(metadata, arch, key, kind, rng)
    ]
    order = sorted(rng.permutation(len(found)), key=lambda i: not any(map(has_own_rule, found[i])))
    return [found[i] for i in order]


def _values(
    metadata: Metadata, arch: str, key: str, kind: ReadKey, rng: np.random.Generator
) -> Iterator[Value | None]:
    """None where the key is there, another number, and an array with an entry per layer."""
    present = metadata.get(key.format(arch=arch))
    if present is not None:
        yield None
    stated = present.decode() if present is not None else 0
    n_layer = int(metadata[f"{arch}.block_count"].decode())
    element = kind.scalar or (present.element_type if present else None) or ValueType.UINT32
    if element == ValueType.STRING:
        return
    choices: Sequence[float] = WHOLE
    if element in (ValueType.BOOL, ValueType.FLOAT32):
        choices = FACTORS if element == ValueType.FLOAT32 else (0, 1)
    if kind.scalar is not None:
        yield scalar(element, rng.choice([x for x in choices if x != stated]).item())
    if kind.is_array and kind.length in (None, n_layer):
        entries = stated if isinstance(stated, list) else [stated]
        for pool in (entries + [x / 2 for x in entries], list(choices[:3])):
            items = rng.choice(pool, n_layer).tolist()
            whole = element != ValueType.FLOAT32
            yield array(element, [int(x) if whole else x for x in items])


def _forked(start: Result, metadata: Metadata, known: Keys) -> Result:
    """The last that a process of its own said before it ended, or was ended."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    result = start
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=_serve, args=(sender, start, metadata, known, Path(folder)))
        child.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while receiver.poll(TIMEOUT_S):
                result = receiver.recv()
        child.kill()
        child.join()
    return result


def _serve(
    sender: Connection, start: Result, metadata: Metadata, known: Keys, folder: Path
) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    faulthandler.disable()  # pytest's: that llama.cpp aborts is nothing of note here
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for result in _check(start, metadata, known, folder):
        sender.send(result)


def _check(start: Result, metadata: Metadata, known: Keys, folder: Path) -> Iterator[Result]:
    """Worse news first, in case llama.cpp ends the process."""
    altered = changed(metadata, start.arch, start.changes)
    result = replace(start, new_keys=keys_read(altered, folder, known))
    yield result
    try:
        path = make_random_model(store(altered, folder / "variant.gguf"), folder / "in.gguf")
    except AssertionError:
        return
    yield (result := replace(result, verdict="does not compute"))
    try:
        model = open_model(path)
        checker = Checker(model, folder, N_TOKEN)
    except GGPruneError as e:
        refused = not isinstance(e, LlamaError)
        yield replace(result, verdict="refused" if refused else result.verdict, detail=str(e))
        return
    if np.isfinite(checker.base).all() and checker.base.std():
        yield replace(result, verdict="breaks")
        yield _compared(result, model, checker)


def _compared(result: Result, model: Model, checker: Checker) -> Result:
    """Without the first of some sets that is legal."""
    last = n_trunk(model) - 1
    wanted = ((0, 5, last), (0,), (5,), (last,), (0, 1), (4, 5), (0, 1, 2, 3), (4, 5, 6, 7))
    for drop in (d for d in wanted if d[-1] <= last and list(d) == sorted({*d})):
        try:
            if not legal_drop(model, drop):
                continue
            outcome = checker.check(drop)
        except LlamaError as e:
            is_written = (checker.folder / "out.gguf").exists()
            stopped: Verdict = "stopped" if "cannot load" in str(e) else "breaks"
            return replace(
                result, verdict=stopped if is_written else "not predicted", detail=str(e)
            )
        except GGPruneError as e:
            return replace(result, verdict="refused", detail=str(e))
        return replace(result, verdict=outcome.verdict, detail=f"without {drop} {outcome.reason}")
    return replace(result, verdict="refused")
