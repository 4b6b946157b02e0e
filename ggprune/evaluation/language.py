"""Which language is a text in? As py3langid says, where it is sure; loaded when it is needed."""

from __future__ import annotations

from functools import cache
from typing import Protocol

SURE = 0.9  # probability; code, lists and sums stay below it


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language, None where there is no saying."""
    language, probability = _identifier().classify(text)
    return str(language) if probability >= SURE else None


class Identifier(Protocol):
    """A model of languages, as far as it is used here."""

    def classify(self, text: str) -> tuple[str, float]: ...


@cache
def _identifier() -> Identifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier: Identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier
