"""Telling refusals, and questions in place of an answer, by how a text begins."""

from __future__ import annotations

import re

__all__ = ["refused"]

START = 300  # characters that are looked at: a refusal comes first
ASKING_BACK = 500  # characters up to which a text may be nothing but a question back

_CANNOT = (
    r"(?:can\s?not|can't|could\s?not|couldn't|won't|will\ not|(?:'m|am|are)\ (?:unable|not\ able)\ to|"
    r"must\ decline(?:\ to)?|have\ to\ decline(?:\ to)?|'m\ not\ comfortable|"
    r"do\ not\ feel\ comfortable|don't\ feel\ comfortable|'m\ not\ allowed\ to|am\ not\ allowed\ to)"
)
_DO = (
    r"(?:help|assist|comply|provid|fulfil|answer|respond|generat|creat|writ|produc|complet|engag|discuss|support|shar"
    r"|offer|access|open|see\b|view|brows|continu|process|giv|do\ (?:that|this|so)|perform|execut|show|recommend|tell"
    r"|proceed|accommodat|satisf|display|retriev|verify|participat|promot|be\ able\ to)"
)
_SORRY = r"(?:i'm|i\ am|we're|we\ are)?\s*(?:very\ |so\ |truly\ |deeply\ )?(?:sorry|afraid|my\ apologies|apologi[sz]e)"

_REFUSING = re.compile(
    rf"""(?ix)
    ^(?:{_SORRY}|i\ apologi[sz]e|unfortunately|regrettably|as\ an?\ [^.,\n]{{3,60}},)?
      [^.!?\n]{{0,80}}?\b(?:i|we)\s*{_CANNOT}\s+(?:\w+\s+){{0,3}}?{_DO}
    |^(?:{_SORRY})[,.]?\s+(?:but\s+)?(?:that\ is|that's|this\ is|it\ is|it's)\s+(?:not\s+something|beyond|outside)
    |\b(?:against|violat\w+)\s+(?:my|our|the|openai's)\s+(?:programming|guidelines|(?:content\ |usage\ )?polic)
    """
)
_MODEL = re.compile(
    rf"""(?ix)
    \b(?:as|since\ i\ am|because\ i\ am|i'm|i\ am)\s+(?:just\s+|only\s+)?an?\s+
      (?:ai|artificial\ intelligence|(?:large\ )?language\ model|virtual\ assistant|(?:ai\ )?chatbot)\b
      (?:[^.\n]{{0,60}}?)\b(?:i\s*(?:do\ not|don't|{_CANNOT})|so\s+i\b|and\s+(?:do\ not|don't|cannot|can't))
    |\bi\s*(?:do\ not|don't)\s+have\s+(?:the\ (?:ability|capability)|access\ to|real-?time|
      personal\ (?:opinion|feeling|experience|belief|preference)s?)
    """
)
_MISSING = re.compile(
    r"""(?ix)
    ^[^.!?\n]{0,60}\b(?:you\ (?:haven't|have\ not|did\ not|didn't|forgot)|i\ (?:don't|do\ not)\ see\ (?:any|the|an?)
      |there\ (?:is|are|was|were|seems\ to\ be)\ no)\b
      [^.!?\n]{0,50}\b(?:provided?|included?|attach(?:ed)?|specif(?:y|ied)|shared?|pasted?|given?|missing)\b
    |^(?:sure|of\ course|certainly|okay|ok|absolutely)?[\s,!.]*(?:could|can|would)\ you\ (?:please\ )?
      (?:provide|share|clarify|specify|give\ me|paste|tell\ me)\b
    |^(?:sure|of\ course|certainly|okay|ok|absolutely|to\ (?:help|answer)[^.\n]{0,60})?[\s,!.]*
      please\ (?:provide|share|paste|specify|clarify|send)\b
    """
)
_REQUEST_REFUSING = re.compile(rf"(?ix)^(?:{_SORRY})[\s,.]+(?:but\s+)?(?:i|we)\s*{_CANNOT}\b")


def refused(text: str, *, answer: bool) -> str | None:
    """Why a text is no answer, with its first words; None where it is one. A rule of thumb for English.

    "refuses", "asks back" for what is missing, or "speaks of itself as a model", which may answer after all.
    `answer` False judges a request, in which an assistant may well be spoken of: only an open refusal counts.
    """
    start = " ".join(text.replace("’", "'").split())[:START].lstrip("*_#> ")
    if not answer:
        return f"refuses: {start[:80]}" if _REQUEST_REFUSING.search(start) else None
    if _REFUSING.search(start):
        return f"refuses: {start[:80]}"
    if _MODEL.search(start):
        return f"speaks of itself as a model: {start[:80]}"
    if len(text) <= ASKING_BACK and _MISSING.search(start):
        return f"asks back: {start[:80]}"
    return None
