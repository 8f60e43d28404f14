"""How well two tokenizers can be fused: shared tokens, and positions of answers at which the second one takes part.

python benchmarks/tokenizer_overlap.py coder.gguf gemma.gguf --data text=dolly.jsonl.gz --data math=gsm8k.jsonl.gz
"""

import argparse
import json
from pathlib import Path

from ultrafuser.data import load_conversations
from ultrafuser.modeling.specialists import open_tokenizer, resolve
from ultrafuser.templates import encode_answers, shared_places
from ultrafuser.tokens import Alignment, TokenTable


def measure(aligned: Alignment, answers: list[str]) -> dict[str, float]:
    """Figures on the second tokenizer over some answers, by the first one's tokens."""
    first, other = aligned.tables
    labels, own = encode_answers(answers, first), encode_answers(answers, other)
    places = shared_places(labels, first, own, other)
    pairs = [pair for turn in zip(places, labels, strict=True) for pair in zip(*turn, strict=True)]
    taken = [place >= 0 for place, _ in pairs]
    known = [place >= 0 and aligned.from_union[1][label] >= 0 for place, label in pairs]
    return {
        "answers": len(answers),
        "tokens": len(pairs),
        "own_tokens": sum(map(len, own)),
        "takes_part": sum(taken) / len(pairs),
        "and_has_the_token": sum(known) / len(pairs),
    }


def main() -> None:
    """Measure both directions, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs=2, help="folders or GGUF files")
    parser.add_argument("--data", action="append", default=[], help="DOMAIN=FILE, may be repeated")
    parser.add_argument("--limit", type=int, default=150, help="conversations of each file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = {source: TokenTable(open_tokenizer(resolve(source))) for source in options.sources}
    answers: dict[str, list[str]] = {}
    for entry in options.data:
        domain, _, file = entry.partition("=")
        found = load_conversations([file], domain)[: options.limit]
        answers.setdefault(domain, []).extend(
            m["content"] for conversation in found for m in conversation.messages if m["role"] == "assistant"
        )
    results = []
    for names in (options.sources, options.sources[::-1]):
        aligned = Alignment([tables[name] for name in names])
        row = {"canonical": names[0], "other": names[1], "union": aligned.size, "overlap": aligned.overlap[1]}
        print(f"canonical {names[0]}: union {aligned.size}, {names[1]} has {aligned.overlap[1]:.1%} of its tokens")
        for domain, texts in answers.items():
            row[domain] = measure(aligned, texts)
            print(f"  {domain:8} {'  '.join(f'{key} {value:.4g}' for key, value in row[domain].items())}")
        results.append(row)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
