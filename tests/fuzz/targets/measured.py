"""What was measured and is kept: files of base logits, and the cache of scores."""

from __future__ import annotations

from functools import partial
from random import Random

import numpy as np

from ggprune.evaluation.baselogits import HEADER, MAGIC, BaseFile, encode_rows, open_base
from ggprune.metrics.chunks import n_scored
from ggprune.scoring.cache import ScoreCache
from tests.fuzz.case import Case, EscapeError
from tests.fuzz.hostile import float_bytes, integer_bytes
from tests.fuzz.mutate_bytes import mutate_bytes
from tests.fuzz.targets.shared import lasting_folder

N_CTX, N_VOCAB, N_CHUNK = 8, 6, 3
N_SCORED = 3
ROW_BYTES = 2 * (N_VOCAB + 4)
LARGEST_KLD = 200.0  # nats; the logits beside are small, and stored probabilities have limits
SETTINGS = {"fingerprint": "f", "n_ctx": 8}
NAMES = ("base", "0", "1", "0,1")


class BaseTarget:
    """Base logits, compared with logits of today as `eval --base` does."""

    def __init__(self) -> None:
        self.noise = np.random.default_rng(0)
        logits = self.noise.normal(size=(N_CHUNK * N_SCORED, N_VOCAB)).astype(np.float32)
        tokens = self.noise.integers(0, N_VOCAB, N_CHUNK * N_CTX).astype(np.int32)
        header = HEADER.pack(MAGIC, N_CTX, N_VOCAB, N_CHUNK)
        self.first_row = len(header) + tokens.nbytes
        self.seed = header + tokens.tobytes() + encode_rows(logits).tobytes()

    def make(self, rng: Random) -> bytes:
        raw = bytearray(self.seed)
        for _ in range(rng.choice((1, 1, 2))):
            chance = rng.random()
            if chance < 0.4:
                at = rng.choice((8, 12, 16))  # the sizes
                raw[at : at + 4] = integer_bytes(rng, 4)
            elif chance < 0.7:  # scale or lowest of a row
                at = self.first_row + rng.randrange(N_CHUNK * N_SCORED) * ROW_BYTES
                at += rng.choice((0, 4))
                raw[at : at + 4] = float_bytes(rng)
            else:
                raw = bytearray(mutate_bytes(bytes(raw), rng))
        return bytes(raw)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("base", data)
        base = case.attempt("open", lambda: open_base(path))
        if base is not None:
            case.attempt("compare", lambda: self._compare(base))

    def _compare(self, base: BaseFile) -> None:
        rows = slice(0, n_scored(base.header.n_ctx))
        for chunk, stored in zip(base.chunks, base.bases(base.chunks, rows), strict=True):
            shape = (len(chunk.targets), base.header.n_vocab)
            logits = self.noise.normal(size=shape).astype(np.float32)
            found = stored.compare(logits, chunk.targets)
            for numbers in (found.kld, stored.scores.nll):
                if not (np.isfinite(numbers).all() and (abs(numbers) < LARGEST_KLD).all()):
                    raise EscapeError("NaN, infinity or what no logits give, from base logits")


class CacheTarget:
    """A damaged cache of scores: rebuilt, or what it says is right."""

    def __init__(self) -> None:
        folder, noise = lasting_folder(), np.random.default_rng(0)
        cache = ScoreCache(folder, SETTINGS, str)
        self.truth = {}
        for chunk in range(6):
            for name in NAMES:
                arrays = {"kld": noise.normal(size=20), "same_top": noise.random(20) < 0.5}
                cache.put(chunk, name, arrays)
                self.truth[chunk, name] = arrays
        cache.close()
        self.name, self.seed = cache.path.name, cache.path.read_bytes()

    def make(self, rng: Random) -> bytes:
        return rng.randbytes(200) if rng.random() < 0.05 else mutate_bytes(self.seed, rng)

    def run(self, data: bytes, case: Case) -> None:
        case.write(self.name, data)
        cache = case.attempt("open", lambda: ScoreCache(case.folder, SETTINGS, str))
        if cache is None:
            return
        try:
            for (chunk, name), right in self.truth.items():
                found = case.attempt("get", partial(cache.get, chunk, [name])) or {}
                if name in found and not _same(found[name], right):
                    raise EscapeError("other numbers from the cache, without an error")
            case.attempt("put", lambda: cache.put(9, "x", {"kld": np.zeros(3)}))
        finally:
            cache.close()
            case.files |= set(case.folder.iterdir())  # a database may have files beside it


def _same(found: object, right: dict[str, np.ndarray]) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == right.keys()
        and all(np.array_equal(found[key], right[key]) for key in right)
    )
