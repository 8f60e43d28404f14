"""Whether the specialists speak the same tokens: compared id by id, then on trial texts.

Fused logits are added up column by column, so column i must mean the same token for every specialist. Two tokenizers
of equal size may still differ; comparing sizes is not enough.
"""

from collections.abc import Sequence
from typing import Any

from ultrafuser.preflight.facts import Facts
from ultrafuser.preflight.findings import Report

TRIALS = (
    "The quick brown fox, isn't it? 12345.67 + 89 = x^2",
    "def f(x):\n    if x > 0:\n\treturn {'a': [x]}  # ok\n\n",
    "Überraschung – naïve café, 数学, \U0001f600\n\n  two  spaces",
)


def tokens_by_id(tokenizer: Any) -> dict[int, str]:
    """The whole vocabulary, added tokens included."""
    return {index: token for token, index in tokenizer.get_vocab().items()}


def check_vocabularies(facts: Sequence[Facts], canonical: str, report: Report) -> None:
    """Notes whether every specialist can be fused under the tokenizer of the specialist `canonical`."""
    first = next(one for one in facts if one.name == canonical)
    reference = tokens_by_id(first.tokenizer)
    clean = True
    for one in facts:
        clean &= _rows(one, reference, canonical, report)
        if one is not first:
            clean &= _same_tokens(one, reference, canonical, report) and _same_split(one, first, report)
            _special_tokens(one, first, report)
    if clean:
        sizes = sorted({one.vocab_rows for one in facts})
        padded = f", {sizes[0]} to {sizes[-1]} rows" if len(sizes) > 1 else f", {sizes[0]} rows"
        whose = "" if len(facts) == 1 else f"the same for all {len(facts)} specialists, id by id: "
        report.add("ok", "specialists", f"vocabulary {whose}{len(reference)} tokens{padded}")


def _rows(one: Facts, reference: dict[int, str], canonical: str, report: Report) -> bool:
    """Whether the specialist's head has a row for every token of the canonical tokenizer."""
    highest = max(reference, default=-1)
    if highest < one.vocab_rows:
        return True
    report.add(
        "error",
        f"specialists.{one.name}.source",
        f"{canonical}'s tokenizer has {highest + 1} tokens, this model only {one.vocab_rows} rows of vocabulary",
        "fuse models of one vocabulary, or resize this one's embeddings",
    )
    return False


def _same_tokens(one: Facts, reference: dict[int, str], canonical: str, report: Report) -> bool:
    own = tokens_by_id(one.tokenizer)
    different = sorted(i for i in own.keys() & reference.keys() if own[i] != reference[i])
    where = f"specialists.{one.name}.source"
    if different:
        i = different[0]
        same_size = (
            " of equal size but" if len(own) == len(reference) else f" ({len(own)} and {len(reference)} tokens) with"
        )
        report.add(
            "error",
            where,
            f"vocabulary differs from {canonical}'s: tokenizers{same_size} {len(different)} other tokens; the first is "
            f"id {i}: {own[i]!r} here, {reference[i]!r} there",
            "fuse specialists that share one tokenizer, or write `rule: probabilities` under fusion",
        )
        return False
    extra, lacking = sorted(own.keys() - reference.keys()), sorted(reference.keys() - own.keys())
    if lacking:
        report.add(
            "warning",
            where,
            f"{len(lacking)} tokens of {canonical} are unknown to its tokenizer, the first id {lacking[0]} "
            f"{reference[lacking[0]]!r}",
            f"its weights for them are untrained; write `tokenizer: {one.name}` if {canonical} can do without them",
        )
    if extra:
        report.add(
            "warning",
            where,
            f"has {len(extra)} tokens that {canonical} does not have, the first id {extra[0]} {own[extra[0]]!r}",
            f"they are left out of the fused model; write `tokenizer: {one.name}` to keep them",
        )
    return not extra and not lacking


def _same_split(one: Facts, first: Facts, report: Report) -> bool:
    """Whether both tokenizers cut trial texts the same way: equal vocabularies may come with other merges or rules."""
    for text in TRIALS:
        own = one.tokenizer(text, add_special_tokens=False)["input_ids"]
        other = first.tokenizer(text, add_special_tokens=False)["input_ids"]
        if own != other:
            report.add(
                "warning",
                f"specialists.{one.name}.source",
                f"its tokenizer cuts {text[:24]!r}... into {len(own)} tokens, {first.name}'s into {len(other)} others, "
                "though the tokens are the same (other merges or rules)",
                f"{first.name}'s is used; expect this specialist to be a little worse than alone",
            )
            return False
    return True


def _special_tokens(one: Facts, first: Facts, report: Report) -> None:
    """End of sequence and start of sequence against those of the tokenizer in use."""
    where = f"specialists.{one.name}.source"
    own, shared = one.tokenizer.eos_token_id, first.tokenizer.eos_token_id
    if own != shared:
        report.add(
            "warning",
            where,
            f"ends its answers with {one.tokenizer.eos_token!r} ({own}), the fused model with "
            f"{first.tokenizer.eos_token!r} ({shared})",
            "it has to learn the other one: train it too (a stage with train: all)",
        )
    if one.tokenizer.bos_token_id != first.tokenizer.bos_token_id:
        report.add(
            "warning",
            where,
            f"begins its texts with {one.tokenizer.bos_token!r}, {first.name} with {first.tokenizer.bos_token!r}",
            "write the right one into the specialist's template",
        )


def check_end_tokens(facts: Sequence[Facts], canonical: str, report: Report) -> None:
    """Notes a tokenizer without an end-of-sequence token, and models that stop at another one than their tokenizer."""
    first = next(one for one in facts if one.name == canonical)
    if first.tokenizer.eos_token_id is None:
        report.add(
            "error",
            f"specialists.{canonical}.source",
            "its tokenizer has no end-of-sequence token, so that no answer would ever end",
            "set eos_token in tokenizer_config.json",
        )
        return
    for one in facts:
        eos = one.tokenizer.eos_token_id
        if one.config_eos and eos not in one.config_eos:
            report.add(
                "warning",
                f"specialists.{one.name}.source",
                f"its configuration stops at token {', '.join(map(str, one.config_eos))}, its tokenizer's end of "
                f"sequence is {one.tokenizer.eos_token!r} ({eos})",
                "set eos_token in tokenizer_config.json to the token that really ends its answers",
            )
