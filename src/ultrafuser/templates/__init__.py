"""Chat templates: found by name, rendered once per specialist, and turned into ids that share the response."""

from ultrafuser.templates.encode import (
    Encoded,
    TooLong,
    encode_conversation,
    encode_prompt,
    encode_responses,
    special_token_texts,
)
from ultrafuser.templates.load import load_template, template_names
from ultrafuser.templates.render import TemplateTraits, prefixes, render, template_traits

__all__ = [
    "Encoded",
    "TemplateTraits",
    "TooLong",
    "encode_conversation",
    "encode_prompt",
    "encode_responses",
    "load_template",
    "prefixes",
    "render",
    "special_token_texts",
    "template_names",
    "template_traits",
]
