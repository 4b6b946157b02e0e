"""Mutates JSON documents: parts of them are removed, doubled or exchanged for hostile values."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from tests.fuzz.hostile import JSON
from tests.fuzz.mutate_bytes import mutate_bytes

Place = tuple[str | int, ...]
MAX_ITEMS = 20  # of a list that are changed one by one
TOP_LEVELS, TOP_WEIGHT = 2, 8  # what stands at the top matters most


class JsonMutator:
    """Of a few right documents."""

    def __init__(self, seeds: Sequence[object]) -> None:
        self.seeds = seeds
        self.places = [_weighted(tuple(_places(seed))) for seed in seeds]

    def make(self, rng: Random) -> bytes:
        number = rng.randrange(len(self.seeds))
        document, holes = {"all": copy.deepcopy(self.seeds[number])}, dict[str, str]()
        for n in range(rng.choice((1, 1, 1, 2, 3))):
            place = ("all", *rng.choice(self.places[number]))
            around = _around(document, place)
            if around is None:
                continue
            if rng.random() < 0.2 and len(place) > 1:
                del around[place[-1]]
                continue
            hole = f"@@{n}@@"
            around[place[-1]] = hole  # filled behind json, which cannot write such values
            holes[f'"{hole}"'] = rng.choice(JSON)
        text = json.dumps(document["all"])
        for hole, filling in holes.items():
            text = text.replace(hole, filling)
        data = text.encode()
        return mutate_bytes(data, rng) if rng.random() < 0.1 else data


def _places(document: object, at: Place = ()) -> Iterator[Place]:
    yield at
    if isinstance(document, dict):
        for name, item in document.items():
            yield from _places(item, (*at, name))
    elif isinstance(document, list):
        for i, item in enumerate(document[:MAX_ITEMS]):
            yield from _places(item, (*at, i))


def _weighted(places: tuple[Place, ...]) -> tuple[Place, ...]:
    return (*places, *[p for p in places if len(p) <= TOP_LEVELS] * TOP_WEIGHT)


def _around(document: object, place: Place) -> Any:
    """The object or list that holds what is at this place; None where it is gone by now."""
    try:
        for step in place[:-1]:
            document = document[step]  # type: ignore[index]
        document[place[-1]]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return None
    return document if isinstance(document, dict | list) else None
