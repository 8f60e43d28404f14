"""Telling requests that lean on something outside of them: code above, a text below that never comes, a picture."""

from __future__ import annotations

import re

__all__ = ["leans_on"]

START, END = 400, 200  # characters in which a picture is looked for: between them may stand a text that has one
GIVEN = 25  # characters before "the above ..." that can be what it means
_THING = (
    r"(?:(?:python|java|javascript|c\+\+|sql|html|json|source|sample|short|long|news|research|whole|entire|piece\ of|"
    r"lines\ of|block\ of|set\ of|list\ of)\s+)?"
    r"(?:code|snippets?|functions?|programs?|scripts?|texts?|passages?|paragraphs?|sentences?|articles?|story|stories|"
    r"poems?|essays?|e-?mails?|letters?|data|datasets?|tables?|lists?|arrays?|problems?|questions?|equations?|"
    r"expressions?|formulas?|information|context|documents?|files?|quer(?:y|ies)|excerpts?|quotes?|statements?|"
    r"scenario|conversations?|dialogues?|messages?|reviews?|instructions?|examples?|output|schema|transcript)"
)
_PICTURE = r"(?:image|picture|photo|photograph|figure|diagram|graph|chart|plot|screenshot|drawing|map)s?"

_ABOVE = re.compile(
    rf"""(?ix)
    \b(?:the|this|that|these|those)\ (?:above|aforementioned|preceding)(?:-mentioned|\ given|\ mentioned)?\ {_THING}\b
    |\b{_THING}\ (?:(?:given|shown|provided|mentioned|listed|described|written)\ )?(?:above|earlier|previously)\b
    |\b(?:given|shown|provided|mentioned|listed|described|as)\ above\b
    """
)
_EARLIER = re.compile(
    r"""(?ix)
    \b(?:the|your|my|our)\ (?:previous|last|prior|earlier|preceding)\ (?:question|request|conversation|answer|response
      |prompt|message|instruction|exercise|task|reply|problem)s?\b
    |\bas\ (?:we|you|i)\ (?:discussed|mentioned|said|saw|described)\b
    """
)
_BELOW = re.compile(
    rf"""(?ix)
    \b(?:the|this|these|those|each\ of\ the|all\ of\ the|any\ of\ the)\ (?:following|below)\ (?:\w+\ ){{0,2}}?{_THING}\b
    |\b(?:this|these|the)\ {_THING}\ (?:given\ |shown\ |provided\ |listed\ |written\ )?below\b
    |\b(?:given|shown|provided|listed|written)\ below\b
    """
)
_HANDED = re.compile(
    rf"""(?ix)
    \b(?:the|this|these|following)\ (?:given|provided|attached|enclosed|supplied)\ (?:\w+\ ){{0,1}}?{_THING}\b
    |\b(?:attached|enclosed)\ (?:is|are|you|please|{_THING}|{_PICTURE})
    |\b(?:this|these)\ (?:passages?|paragraphs?|articles?|text|excerpts?|reference\ (?:text|paragraph)|
       snippets?|code|sentences?|e-?mail|transcript)\b
    |\b(?:from|per|in|using|on|to|given|read|quoting)\ (?:the\ |a\ )?(?:reference\ |provided\ |following\ |given\ )?
       (?:passages?|paragraphs?|articles?|text|excerpts?)\b
    """
)
_SEEN = re.compile(
    rf"""(?ix)
    \b(?:shown|seen|depicted|pictured|illustrated|displayed|given|described|marked)\ (?:in|on|by)\ the\ 
      (?:\w+\ )?(?:(?:above|following|attached|given|accompanying)\ )?{_PICTURE}\b
    |\b(?:in|on|from|of|at)\ the\ (?:above|following|attached|given|provided|accompanying|adjacent)\ {_PICTURE}\b
    |\b(?:this|the|following|attached|given)\ {_PICTURE}\ 
      (?:below|above|shown|attached|provided|to\ the\ (?:right|left))\b
    |\b(?:look\ at|describe|caption)\ (?:this|the\ (?:attached|following|given|above))\ {_PICTURE}\b
    """
)
_PLACEHOLDER = re.compile(r"(?i)[\[<{(](?:insert|paste|add|put)\b[^\])>}\n]{0,60}[\])>}]")
_TEMPLATE = re.compile(r"(?i)\b(?:template|placeholder|form letter)")
_FUNCTION = re.compile(
    r"(?is)\b(?:write|create|implement|define|design|develop|build|make|complete|need|code)\b.{0,80}?"
    r"\b(?:function|program|script|method|class|quer(?:y|ies)|procedure|algorithm|regex|expression|command|code|app\w*)\b"
)
_TEXT_BEHIND = re.compile(
    r"(?s)(?:[:—–]\s*\S.{4,}|\n\s*\S.{1,}|[\"“`'].{6,}[\"”`']|\(.{10,}\)|\$.{3,}\$|\{.+\}|\[.+\])"
)
_SOURCE = re.compile(
    r"(?s)```|\[asy\]|\\begin\{|^\s*\||[\"“][^\"”]{20,}[\"”]|`[^`]{8,}`|:\s*\S.{19,}|\n\s*\S.{19,}|\n[ \t]*\n\s*\S{2,}"
    r"|\n\s*\S+ \S",
    re.MULTILINE,
)


def leans_on(text: str) -> str | None:
    """What a request speaks of without giving it, with the words that show it; None where it stands alone.

    A rule of thumb for English. What "the above" means may stand before it, what "the following" means behind it, and
    anything longer that is quoted, fenced or set off by a colon or a line of its own may be what is meant.
    """
    if (found := _PLACEHOLDER.search(text)) and not _TEMPLATE.search(text):
        return f"has a gap to fill: {found[0]}"
    if (found := _SEEN.search(text[:START]) or _SEEN.search(text[START:][-END:])) and "[asy]" not in text:
        return f"speaks of a picture: {found[0]}"
    if (found := _EARLIER.search(text[: max(len(text) // 2, 80)])) and not _SOURCE.search(text):
        return f"speaks of what was said before: {found[0]}"
    for found in _ABOVE.finditer(text):
        if len(text[: found.start()].strip()) < GIVEN and not _SOURCE.search(text):
            return f"speaks of what is not above: {found[0]}"
    for found in _BELOW.finditer(text):
        if not _given_behind(text[found.end() :]) and not _SOURCE.search(text):
            return f"speaks of what is not below: {found[0]}"
    found = _HANDED.search(text)
    if found and len(text[: found.start()].strip()) < 3 * GIVEN:
        there = _SOURCE.search(text) or _TEXT_BEHIND.search(text) or _FUNCTION.search(text)
        return None if there else f"speaks of what is not given: {found[0]}"
    return None


def _given_behind(rest: str) -> bool:
    """Whether what follows "the following ..." can be it: set off, quoted, or a list in the sentence."""
    if _TEXT_BEHIND.search(rest):
        return True
    first = rest.split("\n")[0]
    return first.count(",") >= 2 or len(rest.split()) > 25
