"""Chat templates: found by name, rendered once per specialist, and turned into ids that share the response."""

from ultrafuser.templates.encode import (
    NO_PLACE,
    Encoded,
    TooLong,
    encode_answers,
    encode_conversation,
    encode_prompt,
    encode_responses,
    shared_places,
    special_token_texts,
)
from ultrafuser.templates.ends import answer_ends
from ultrafuser.templates.load import load_template, template_names
from ultrafuser.templates.render import TemplateTraits, prefixes, render, template_traits

__all__ = [
    "NO_PLACE",
    "Encoded",
    "TemplateTraits",
    "TooLong",
    "answer_ends",
    "encode_answers",
    "encode_conversation",
    "encode_prompt",
    "encode_responses",
    "load_template",
    "prefixes",
    "render",
    "shared_places",
    "special_token_texts",
    "template_names",
    "template_traits",
]
