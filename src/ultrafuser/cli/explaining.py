"""The work of `ultrafuser explain`: what to explain, its weights, the page."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ultrafuser.analysis.page import PAGE_MARK, Explanation, Turn, render_page
from ultrafuser.analysis.terminal import coloured
from ultrafuser.cli.answering import Message, new_messages, read_messages
from ultrafuser.cli.opening import Opened
from ultrafuser.cli.speaking import TokenPrinter, announce, say_weights
from ultrafuser.files import write_whole
from ultrafuser.generation import Sampling

if TYPE_CHECKING:
    from ultrafuser.generation.engine import TokenEvent

__all__ = ["Material", "check_page_path", "explain_model"]


@dataclass(frozen=True)
class Material:
    """What to explain: a text without template, or a conversation, whose last answer may still have to be written."""

    text: str | None = None
    messages: tuple[Message, ...] = ()

    @classmethod
    def choose(
        cls, *, prompt: str | None, answer: str | None, text: str | None, messages: Path | None, system: str | None
    ) -> Material:
        """Make sense of the options; ValueError where they do not go together."""
        options = {"--prompt": prompt, "--text": text, "--messages": messages}
        given = [name for name, value in options.items() if value is not None]
        if len(given) != 1:
            said = f"not {' and '.join(given)} together" if given else "nothing was given to explain"
            raise ValueError(f"--prompt, --text or --messages: give exactly one of them; {said}")
        if answer is not None and prompt is None:
            raise ValueError("--answer: needs the --prompt that it answers")
        if text is not None:
            if system is not None:
                raise ValueError("--system: a --text is read without a template and so without a system prompt")
            text = sys.stdin.read() if text == "-" else text
            if not text.strip():
                raise ValueError("--text: it is empty; give at least one word")
            return cls(text=text)
        if prompt is not None:
            conversation = new_messages(prompt, system)
        else:
            assert messages is not None
            conversation = _read_conversation(messages, system)
        if answer is not None:
            conversation = [*conversation, {"role": "assistant", "content": answer}]
        return cls(messages=tuple(conversation))

    @property
    def to_be_answered(self) -> bool:
        """Whether the model has to write the last answer."""
        return bool(self.messages) and self.messages[-1]["role"] != "assistant"


def check_page_path(path: Path) -> None:
    """Refuse, before long work, to write over a file that is no such page, or over a folder."""
    if path.is_dir():
        raise ValueError(f"--output: {str(path)!r} is a folder; name a file, such as {path / 'explain.html'}")
    if path.is_file() and PAGE_MARK not in path.read_text(encoding="utf-8", errors="replace")[:4000]:
        raise ValueError(f"--output: {str(path)!r} exists and is no page of `ultrafuser explain`; name another file")


def explain_model(
    opened: Opened, material: Material, sampling: Sampling, only: str | None, output: Path, console: Console
) -> Explanation:
    """Find the weights, write the page, say where it is."""
    announce(console, opened)
    weights = opened.forced(only)
    if material.text is not None:
        turns = [_text_turn(opened, material.text, weights)]
    else:
        turns = _conversation_turns(opened, material, sampling, weights, console)
    rule = opened.model.config.fusion["rule"]
    detail = [f"{len(opened.names)} specialists", f"{opened.model.config.gate['type']} gate", f"{rule} fused"]
    page = Explanation(
        title="Who speaks, token by token",
        model=opened.source,
        names=opened.names,
        turns=turns,
        warning=opened.gate_notice,
        generated=material.to_be_answered,
        detail=" · ".join([*detail, *([f"only {only}"] if only else [])]),
    )
    write_whole(output, render_page(page))
    if not material.to_be_answered and console.is_terminal:
        console.print(coloured(page.tokens))
    say_weights(console, opened.names, page.tokens, "table")
    console.print(f"page  {output}", markup=False, soft_wrap=True)
    return page


def _text_turn(opened: Opened, text: str, weights: tuple[float, ...] | None) -> Turn:
    from ultrafuser.generation import score_text

    return _turn(opened, score_text(opened.model, opened.tokenizer, text, gate_weights=weights), "text")


def _conversation_turns(
    opened: Opened, material: Material, sampling: Sampling, weights: tuple[float, ...] | None, console: Console
) -> list[Turn]:
    from ultrafuser.generation import score_turns, stream

    messages, answer_ids = list(material.messages), None
    if material.to_be_answered:
        printer, events = TokenPrinter(console), []
        options = asdict(sampling)
        for event in stream(opened.model, opened.tokenizer, messages, gate_weights=weights, **options):
            printer.write(event)
            events.append(event)
        console.file.write("\n")
        answer_ids = [event.token_id for event in events]
    model, tokenizer = opened.model, opened.tokenizer
    scored = iter(score_turns(model, tokenizer, messages, answer_ids=answer_ids, gate_weights=weights))
    turns = [
        _turn(opened, next(scored)) if message["role"] == "assistant" else Turn(message["role"], message["content"])
        for message in messages
    ]
    return turns + [_turn(opened, events) for events in scored]


def _turn(opened: Opened, events: list[TokenEvent], role: str = "assistant") -> Turn:
    pieces = opened.tokenizer.convert_ids_to_tokens([event.token_id for event in events])
    return Turn(role, "".join(event.text for event in events), events, pieces)


def _read_conversation(file: Path, system: str | None) -> list[Message]:
    if not file.is_file():
        raise ValueError(f"--messages: file {str(file)!r} does not exist")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--messages: {file} is not valid JSON ({error})") from error
    value = value.get("messages") if isinstance(value, dict) else value
    messages = read_messages(value, str(file))
    if system and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages
