"""At the coordinator: the workers that may take part, and what each of them is doing.

Every task is sent to a worker by name: the coordinator knows who holds which chunk, and whoever
leaves gives back what it had. A worker is asked who it is before it gets work.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from ggprune.cluster import engine
from ggprune.cluster.likeness import Likeness
from ggprune.cluster.members import CrewRules, Event, Member, Sent
from ggprune.cluster.roll import TIMEOUTS, TOPIC, Listed, Obituary, call_roll
from ggprune.cluster.work import Introduction, Refusal, Setup
from ggprune.errors import DataError, LlamaAbortError
from ggprune.metrics.estimates import Float32
from ggprune.progress import SILENT, Progress, duration
from ggprune.runtime.workers import WorkerInfo

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")

POLL_S = 0.5  # between looks at who is there
STALE_S = 40.0  # without a heartbeat: a machine that hangs
LAST_WORDS_S = 1.0  # that the nanny of a worker that died may need to tell
SETTLE_S = 3.0  # in which others may come, before all that came have been refused
FETCH_S = 5.0  # for an answer to arrive, before a look whether its worker is there


class Crew:
    """Use as a context manager: what is under way at its end is cancelled."""

    def __init__(
        self, client: Client, setup: Setup, rules: CrewRules | None = None,
        progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        self.client, self.setup, self.rules = client, setup, rules or CrewRules()
        self.progress = progress
        self.members: dict[str, Member] = {}
        self.all_infos: list[WorkerInfo] = []  # of all that took part
        self.refused: dict[str, str] = {}  # by address
        self._asked: dict[str, tuple[Listed, Future]] = {}  # not answered yet who they are
        self._done: queue.SimpleQueue[tuple[str, Future]] = queue.SimpleQueue()
        self._numbers, self._next_poll = count(), 0.0
        self.likeness = Likeness(self._probed)
        self._began: float | None = None  # when the first one joined
        self._last_new = 0.0  # when a worker was seen for the first time
        self._deaths: dict[str, list[str]] = {}  # by host: last words while they were asked

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        futures = [sent.future for member in self.members.values() for sent in member.sent.values()]
        with contextlib.suppress(Exception):  # of a scheduler that is gone: nothing is left there
            self.client.cancel([*futures, *(future for _, future in self._asked.values())])

    def gather(self) -> Member:
        """Wait for the first worker that may take part.

        Raises DataError if there is none in time, or all that are there have been refused.
        """
        for _ in self.events_until(lambda: bool(self.members)):
            pass
        return next(iter(self.members.values()))

    def send(self, member: Member, task: object, tag: object = None) -> Sent:
        future = self.submit_to([member.address], engine.carry_out, self.setup, task)
        sent = Sent(future.key, member, task, future, tag)
        member.sent[sent.key] = sent
        future.add_done_callback(self._on_done)
        return sent

    def cancel(self, sent: Sent) -> None:
        """What has begun ends, and is dropped."""
        if sent.member.sent.pop(sent.key, None) is not None:
            sent.future.cancel()

    def submit_to(self, addresses: Sequence[str], function: Callable[..., T], *args: object) -> Any:
        """Have one of these workers call a function; arguments may be futures. Returns a future."""
        return self.client.submit(
            function, *args, key=f"ggprune-{next(self._numbers)}-{id(self)}", pure=False,
            workers=list(addresses), allow_other_workers=False, retries=0,
        )  # fmt: skip

    def forget(self, futures: Sequence[Any]) -> None:
        """Cancel what is under way, give back what is there."""
        self.client.cancel(futures)

    def events_until(self, is_over: Callable[[], bool]) -> Iterator[Event]:
        """Events as they come, as long as `is_over` is not true and somebody is there."""
        alone_since = time.monotonic()
        while not is_over():
            if self.members:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > self.rules.wait_s or self._all_refused():
                raise self._nobody()
            yield from self.events()

    def events(self) -> Iterator[Event]:
        """What has happened since; waits a moment if nothing has."""
        if time.monotonic() >= self._next_poll:
            yield from self._poll()
            self._next_poll = time.monotonic() + POLL_S
        try:
            key, future = self._done.get(timeout=max(0.0, self._next_poll - time.monotonic()))
        except queue.Empty:
            return
        yield from self._settle(key, future)

    def _on_done(self, future: Future) -> None:
        self._done.put((future.key, future))

    def _settle(self, key: str, future: Future) -> Iterator[Event]:
        asked = next((a for a, (_, f) in self._asked.items() if f.key == key), None)
        if asked is not None:
            listed, _ = self._asked.pop(asked)
            if self._introduced(listed, future):
                yield Event()
            return
        sent = next((m.sent.pop(key) for m in self.members.values() if key in m.sent), None)
        if sent is None:  # of somebody who is gone
            return
        try:
            answer = self._fetched(future, sent.member.address)
        except Exception as e:
            yield Event(sent, error=e if _is_of_worker(e) else None)
            return
        finally:
            future.release()
        yield Event(sent, answer=answer)

    def _fetched(self, future: Future, address: str) -> Any:
        """What a future stands for. Raises what was raised there, TimeoutError if the worker that
        has it is gone."""
        patience = FETCH_S
        while True:
            try:
                return future.result(timeout=patience)
            except TIMEOUTS:
                if address not in self._fresh():
                    raise
                patience *= 2  # it begins anew: a slow network needs longer

    def _poll(self) -> Iterator[Event]:
        roll = {each.address: each for each in self._roll()}
        fresh = _alive(roll)
        for address in [a for a in self.members if a not in fresh]:
            yield from self._lost(self.members.pop(address))
        for address in [a for a in self._asked if a not in fresh]:
            listed, future = self._asked.pop(address)
            future.cancel()
            self._died_unknown(listed)
        for address in [a for a in self.refused if a not in roll]:
            del self.refused[address]
        for address in sorted(fresh.difference(self.members, self._asked, self.refused)):
            listed, self._last_new = roll[address], time.monotonic()
            if listed.unfit is not None:
                self._refuse(listed, f"{listed.host}: {listed.unfit}")
                continue
            if len(deaths := self._deaths.get(listed.host, [])) > 1:
                self._refuse(listed, f"{listed.host}: {deaths[-1]}")
                continue
            future = self.submit_to([address], engine.introduce, self.setup)
            self._asked[address] = (listed, future)
            future.add_done_callback(self._on_done)

    def _lost(self, member: Member) -> Iterator[Event]:
        words = self._last_words(member.address) if member.sent else None
        self.progress.note(f"{member.name} is gone: {self.told()}")
        for sent in list(member.sent.values()):
            sent.future.cancel()
            yield Event(sent, last_words=words)

    def _died_unknown(self, listed: Listed) -> None:
        """While it was asked who it is: llama.cpp may have ended it, on every try."""
        words = self._last_words(listed.address)
        if words is None or not words.is_abort:
            return
        deaths = self._deaths.setdefault(listed.host, [])
        deaths.append(words.said)
        if len(deaths) > 1 and not self.members:
            raise LlamaAbortError(f"{listed.host}: {words.said}")

    def _last_words(self, address: str) -> Obituary | None:
        end = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < end:
            for event in self._told():
                obituary = Obituary.of(event)
                if obituary.address == address:
                    return obituary
            time.sleep(POLL_S / 5)
        return None

    def _told(self) -> list[Mapping[str, object]]:
        """By nannies. Raises DataError if the scheduler is gone."""
        try:
            return [event for _, event in self.client.get_events(TOPIC) or ()]
        except (OSError, *TIMEOUTS, CancelledError, AttributeError, RuntimeError) as e:
            raise self._no_scheduler() from e

    def _introduced(self, listed: Listed, future: Future) -> bool:
        """Does the worker take part?"""
        try:
            said: Introduction | Refusal = self._fetched(future, listed.address)
        except Exception as e:
            if _is_of_worker(e):
                self._refuse(listed, f"{listed.host}: {type(e).__name__}: {e}")
            return False
        finally:
            future.release()
        if isinstance(said, Refusal):
            self._refuse(listed, said.reason)
            return False
        member = Member(listed.address, listed, said.info, said.said, said.n_slot)
        reason = self.likeness.objection(member)
        if reason is not None and not self.rules.mixed:
            self._refuse(listed, f"{reason}; --mixed lets it in")
            return False
        self.members[member.address] = member
        self.all_infos.append(member.info)
        self._began = self._began or time.monotonic()
        self.progress.note(f"{member.name} has joined: {self.told()}")
        return True

    def _probed(self, address: str) -> Float32:
        """Logits of the whole model on the probe. Raises TimeoutError if the worker is gone."""
        future = self.submit_to([address], engine.probe, self.setup)
        logits: list[Float32] = self._fetched(future, address)
        return logits[0]

    def _refuse(self, listed: Listed, reason: str) -> None:
        self.refused[listed.address] = reason
        self.progress.note(f"worker refused: {reason}")

    def _all_refused(self) -> bool:
        """All that are there, of which there are some."""
        if not self.refused or self._asked or self.all_infos:  # somebody may come back
            return False
        if time.monotonic() - self._last_new < SETTLE_S:
            return False
        return all(each.address in self.refused for each in self._roll())

    def _fresh(self) -> set[str]:
        return _alive({each.address: each for each in self._roll()})

    def _roll(self) -> list[Listed]:
        """Raises DataError if the scheduler is gone."""
        if self.client.status != "running":
            raise self._no_scheduler()
        try:
            return call_roll(self.client)
        except (OSError, *TIMEOUTS, CancelledError, AttributeError, RuntimeError) as e:
            raise self._no_scheduler() from e

    def _no_scheduler(self) -> DataError:
        return DataError(
            "the scheduler is gone; what was measured is kept: once there is one again, the same "
            "command goes on"
        )

    def _nobody(self) -> DataError:
        if self.refused:
            reasons = "; ".join(dict.fromkeys(self.refused.values()))
            return DataError(f"no worker may take part: {reasons}")
        where, wait = self.client.scheduler.address, duration(self.rules.wait_s)
        return DataError(f"no worker came to {where} within {wait} (--wait)")

    def told(self) -> str:
        """How many are there, and how fast they have been so far."""
        n, n_pass = len(self.members), sum(info.n_pass for info in self.all_infos)
        said = f"{n} worker" + "s" * (n != 1)
        seconds = time.monotonic() - self._began if self._began else 0.0
        return f"{said}, {n_pass / seconds:.3g} passes a second" if n_pass and seconds else said

    def infos(self) -> tuple[WorkerInfo, ...]:
        """Of all that took part, in the order in which they joined."""
        return tuple(replace(info) for info in self.all_infos)


def _alive(roll: Mapping[str, Listed]) -> set[str]:
    """Addresses of workers that have been heard of lately."""
    return {address for address, listed in roll.items() if listed.unseen_s < STALE_S}


def _is_of_worker(error: Exception) -> bool:
    """Was it raised by what was called, and not by Dask because the worker is gone?"""
    return not type(error).__module__.startswith("distributed") and not isinstance(
        error, (*TIMEOUTS, OSError, CancelledError)
    )
