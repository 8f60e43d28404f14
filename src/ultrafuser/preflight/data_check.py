"""Data: do the files exist and parse, how much is there of each domain, and what does the length limit cut off?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ultrafuser.preflight.findings import Report
from ultrafuser.preflight.sources import Resolve
from ultrafuser.recipe import DomainData, Recipe
from ultrafuser.templates import encode_conversation

SAMPLE = 400  # conversations per domain whose tokens are counted
ANSWERS = 40  # conversations per domain whose answers are cut by every tokenizer
PARTS = ("train", "validation", "heldout")


@dataclass
class DataFacts:
    """What the data check learned, for the memory estimate."""

    longest: int | None = None  # tokens, over the sample, in the template that makes it longest; not over max_length
    lengths: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)  # a sample of each domain's


def check_data(recipe: Recipe, templates: Sequence[str], tokenizer: Any, resolve: Resolve, report: Report) -> DataFacts:
    """Notes what is wrong with the data; fills `report.data`. Without templates only the files are looked at."""
    facts = DataFacts()
    prompts: dict[str, dict[str, set[str]]] = {part: {} for part in PARTS}
    for category, domain in recipe.data.items():
        counts: dict[str, int | None] = {}
        for part in PARTS:
            entries = getattr(domain, part)
            if not entries:
                continue
            found = _load(category, part, entries, domain, resolve, report)
            counts[part] = None if found is None else len(found)
            if found is None:
                continue
            prompts[part][category] = {_prompt(conversation) for conversation in found}
            if part == "train":
                _validation_share(category, domain, len(found), report)
                _repeats(recipe, category, len(found), report)
                step = max(1, len(found) // ANSWERS)
                facts.answers[category] = [text for one in found[::step][:ANSWERS] for text in _answers(one)]
                if templates and tokenizer is not None:
                    _lengths(recipe, category, found, templates, tokenizer, report, facts)
        report.data[category] = {**counts, **facts.lengths.get(category, {})}
    _leaks(recipe, prompts, report)
    _evaluation(recipe, report)
    return facts


def _load(
    category: str, part: str, entries: list[str], domain: DomainData, resolve: Resolve, report: Report
) -> list[Any] | None:
    """The conversations of one part, or None when they cannot be had now."""
    from ultrafuser.data import load_conversations

    where = f"data.{category}.{part}"
    if any(entry.startswith("hub:") for entry in entries):
        report.add("ok", where, "a Hub data set: not downloaded by this check, so neither counted nor measured")
        return None
    conversations: list[Any] = []
    for i, entry in enumerate(entries):
        try:
            conversations += load_conversations([resolve(entry)], category)
        except (ValueError, OSError) as error:
            report.add("error", f"{where}[{i}]", str(error).removeprefix(f"data.{category}: "))
            return None
    if part == "train" and domain.limit is not None:
        conversations = conversations[: domain.limit]
    report.add("ok", where, f"{len(conversations)} conversations")
    return conversations


def _prompt(conversation: Any) -> str:
    return "\n".join(m["content"] for m in conversation.messages if m["role"] == "user").strip()


def _answers(conversation: Any) -> list[str]:
    return [m["content"] for m in conversation.messages if m["role"] == "assistant"]


def _validation_share(category: str, domain: DomainData, count: int, report: Report) -> None:
    if domain.validation_fraction is None:
        return
    share = round(count * domain.validation_fraction)
    if share == 0 or share == count:
        report.add(
            "error",
            f"data.{category}.validation_fraction",
            f"{domain.validation_fraction} of {count} conversations leaves {'none to train on' if share else 'none'}",
            "give more data or another share",
        )


def _repeats(recipe: Recipe, category: str, count: int, report: Report) -> None:
    for i, stage in enumerate(recipe.stages):
        if stage.sampler == "balanced" and count < stage.examples_per_category:
            report.add(
                "warning",
                f"stages[{i}].examples_per_category",
                f"{stage.examples_per_category} of {category} in every batch, but there are {count} in all: each batch "
                "repeats some",
                f"choose {max(1, count // 2)} or less, or give more data",
            )


def _lengths(
    recipe: Recipe,
    category: str,
    conversations: list[Any],
    templates: Sequence[str],
    tokenizer: Any,
    report: Report,
    facts: DataFacts,
) -> None:
    """Tokens of an even sample of conversations against max_length."""
    step = max(1, len(conversations) // SAMPLE)
    lengths, answers = [], []
    for conversation in conversations[::step][:SAMPLE]:
        try:
            encoded = encode_conversation(conversation.messages, templates, tokenizer)
        except ValueError as error:
            where = f"data.{category}.train"
            report.add("error", where, f"conversation {conversation.id}: {error}", "mend or remove it")
            return
        lengths.append(encoded.length)
        answers.append(encoded.n_response_tokens)
    over = sum(length > recipe.max_length for length in lengths)
    share = over / len(lengths)
    kept = [length for length in lengths if length <= recipe.max_length]
    facts.longest = max([facts.longest or 0, *kept])
    facts.lengths[category] = {
        "measured": len(lengths),
        "tokens_mean": round(sum(lengths) / len(lengths), 1),
        "tokens_longest": max(lengths),
        "response_tokens_mean": round(sum(answers) / len(answers), 1),
        "too_long_share": round(share, 4),
    }
    _too_long(recipe, category, share, max(lengths), report)


def _too_long(recipe: Recipe, category: str, share: float, longest: int, report: Report) -> None:
    if share == 0:
        return
    what = f"{share:.1%} of {category} is longer than {recipe.max_length} tokens (the longest takes {longest})"
    if recipe.on_too_long == "error":
        report.add("error", "max_length", f"{what} and on_too_long is error", f"raise it to {longest}, or drop them")
    elif share == 1:
        report.add("error", "max_length", f"{what}: nothing of it is left", f"raise it, at most to {longest}")
    elif share >= 0.05:
        report.add("warning", "max_length", f"{what} and is dropped", f"raise it to {longest} to keep all")
    else:
        report.add("ok", "max_length", f"{what} and is dropped")


def _leaks(recipe: Recipe, prompts: dict[str, dict[str, set[str]]], report: Report) -> None:
    """Prompts that are trained on and judged on."""
    trained = {prompt for own in prompts["train"].values() for prompt in own}
    for part in ("validation", "heldout"):
        for category, own in prompts[part].items():
            shared = own & trained
            if shared:
                report.add(
                    "warning",
                    f"data.{category}.{part}",
                    f"{len(shared)} of {len(own)} prompts are in the training data too",
                    "remove them: figures on what was trained on say little",
                )


def _evaluation(recipe: Recipe, report: Report) -> None:
    wanted = [i for i, stage in enumerate(recipe.stages) if stage.eval_every]
    without = [name for name, own in recipe.data.items() if not own.validation and own.validation_fraction is None]
    if wanted and without:
        report.add(
            "error",
            f"stages[{wanted[0]}].eval_every",
            f"{recipe.stages[wanted[0]].eval_every}, but {', '.join(without)} has no validation data",
            f"give data.{without[0]}.validation or validation_fraction, or leave eval_every out",
        )
