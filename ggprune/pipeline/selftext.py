"""The text that a model is healed with: the user's, the shipped one, or what the model writes."""

from __future__ import annotations

from ggprune.healing import selftext
from ggprune.healing.selftext import SelfTextOptions
from ggprune.metrics.text import CALIBRATION, Text, shipped_text
from ggprune.model.model import Model
from ggprune.progress import SILENT, Progress
from ggprune.runtime.isolate import isolated


def text_to_fit(
    base: Model, given: Text | None, own: SelfTextOptions | None, *,
    write: bool = True, progress: Progress = SILENT,
) -> Text:  # fmt: skip
    """The text given, and behind it what `base` writes; the shipped one where neither is wanted.

    Without `write` nothing is computed: text of the same length stands in for what it would write.
    Raises what `write_self_text` raises, LlamaAbortError if llama.cpp aborts.
    """
    shipped = shipped_text(CALIBRATION)
    if own is None:
        return given or shipped
    if write:
        part = progress.part("self-text")
        text = isolated(selftext.write_self_text, base, own, part)
    else:
        text = isolated(selftext.stand_in, base, own.n_token, shipped)
    if given is None:
        return text
    return Text(f"{given.source} and {text.source}", f"{given.content}\n{text.content}")
