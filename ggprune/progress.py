"""How far a job is, told to whoever wants to know. Nobody does here; the command line draws it."""

from __future__ import annotations


class Progress:
    """A listener that keeps quiet: the base of all others, and what jobs talk to by default.

    It must be possible to send one to another process.
    """

    def part(self, label: str) -> Progress:
        """The listener for a part of the job, which has steps of its own."""
        return self

    def begin(self, ahead: str, *, of_parts: bool = False) -> None:
        """The part begins; what is ahead of it, in a few words. `of_parts`: its steps are those of
        other parts."""

    def step(self, done: int, total: int) -> None:
        """So many steps, bytes, or whatever the part counts, are done of all."""

    def note(self, text: str) -> None:
        """What the user should know although the job goes on; a line that stays."""

    def say(self, text: str, share: float | None = None) -> None:
        """What is being tried now, in a few words, and how much of that is done; "" when it is
        over."""


SILENT = Progress()


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {seconds_left} s" if seconds_left else f"{minutes} min"
    hours, minutes_left = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes_left} min" if minutes_left else f"{hours} h"
