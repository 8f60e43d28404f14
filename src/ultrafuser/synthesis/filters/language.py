"""Language: records that are not written in a language that is wanted."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from ultrafuser.synthesis.filters.filter import ANSWERS, REQUESTS, Filter, FilterOptions, Work, each, text_of
from ultrafuser.synthesis.records import Record
from ultrafuser.synthesis.spec import Spec

__all__ = ["LANGUAGE", "prose"]

LONGEST = 2000  # characters that are looked at
_NOT_PROSE = re.compile(
    r"""(?xs)
    ^[ ]{0,3}(```+|~~~+).*?(?:^[ ]{0,3}\1|\Z)       # fenced code
    |`[^`\n]*`                                     # code in a line
    |\$\$.*?\$\$|\$[^$\n]{1,200}\$|\\\[.*?\\\]|\\\(.*?\\\)  # formulas
    |https?://\S+|[\w.+-]+@[\w-]+\.\w+             # addresses
    |^(?:[ ]{4}|\t).*?$                            # indented code
    |"[^"\n]{1,200}"|“[^”\n]{1,200}”               # what is quoted may be in any language
    |\w*[_\d/\\{}<>=()\[\]][^\s]*                  # names and expressions
    """,
    re.MULTILINE,
)
_LETTERS = re.compile(r"[^\W\d_]")


class LanguageOptions(FilterOptions):
    """Options of language."""

    languages: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]], Field(min_length=1, default_factory=lambda: ["en"])
    ]
    """Languages that are kept, by their ISO 639-1 codes."""
    letters: Annotated[int, Field(ge=1)] = 60
    """Fewest letters of prose, code and formulas left out, that are judged."""
    certainty: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability of another language from which a record is dropped."""


def prose(text: str) -> str:
    """A text without code, formulas, addresses and quotations."""
    return " ".join(_NOT_PROSE.sub(" ", text[:LONGEST]).split())


def _check(record: Record, work: Work) -> str | None:
    options = work.options
    text = prose(text_of(record))
    if sum(1 for _ in _LETTERS.finditer(text)) < options.letters:
        return None
    language, certainty = _identifier().classify(text)
    if language in options.languages or certainty < options.certainty:
        return None
    return f"written in {language}: {certainty:.2f}"


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """py3langid's model, which comes with the package: naive Bayes over byte n-grams (Lui and Baldwin, ACL 2012)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _ready(spec: Spec, options: LanguageOptions) -> None:
    if find_spec("py3langid") is None:
        raise ValueError("language needs the package py3langid; run: pip install 'ultrafuser[synth]'")
    unknown = sorted({*options.languages} - {*_identifier().labels})
    if unknown:
        raise ValueError(f"languages: {unknown[0]!r} is none that can be told; give ISO 639-1 codes such as en, de, zh")


LANGUAGE = Filter(
    name="language",
    summary="is written in another language",
    steps=(*REQUESTS, *ANSWERS),
    judge=each(_check),
    options=LanguageOptions,
    ready=_ready,
)
