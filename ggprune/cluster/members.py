"""Workers, what they are sent, and what becomes of it. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ggprune.cluster.roll import Listed, Obituary
from ggprune.cluster.work import Answer
from ggprune.runtime.workers import WorkerInfo

if TYPE_CHECKING:
    from distributed import Client, Future

WAIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class CrewRules:
    """Who may take part, and how long to wait for somebody."""

    mixed: bool = False  # also workers that compute other bits
    wait_s: float = WAIT_S


@dataclass(frozen=True, kw_only=True)
class Workforce:
    """Whoever computes for us, by a client of Dask's."""

    client: Client
    rules: CrewRules = field(default_factory=CrewRules)
    is_local: bool = False  # do all of them see this machine's files?


@dataclass(eq=False)
class Member:
    """A worker that takes part."""

    address: str
    listed: Listed
    info: WorkerInfo
    said: object
    n_slot: int
    sent: dict[str, Sent] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.info.host} ({self.address})"


@dataclass(eq=False)
class Sent:
    """A task that is under way."""

    key: str
    member: Member
    task: object
    future: Future
    tag: object  # the sender's


@dataclass(frozen=True)
class Event:
    """What became of a task: an answer, an error, or, with neither, a worker that is gone.

    Without a task: a worker has joined.
    """

    sent: Sent | None = None
    answer: Answer | None = None
    error: Exception | None = None
    last_words: Obituary | None = None
