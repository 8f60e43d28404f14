"""Model cards of the zoo, written from measured numbers. Knows nothing of how the numbers were measured."""

from typing import Any

TITLES = {"base": "base model", "text": "text specialist", "code": "code specialist", "math": "math specialist"}
PROMPTS = {
    "base": "plain text; its chat template puts each turn on a line of its own",
    "text": "`User: ...` and `Assistant:`, each on a line of its own",
    "code": "`[INST] ... [/INST]` and a line break",
    "math": "`### Instruction:` and `### Response:`, each on a line of its own",
}


def front_matter(name: str, own: dict[str, dict[str, Any]]) -> str:
    """The card's YAML header."""
    lines = [
        "---",
        "language: en",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: other",
        "license_name: mixed-open-sources",
        "license_link: README.md",
        f"tags: [ultrafuser, zoo, {name}]",
        "---",
    ]
    return "\n".join(lines)


def loss_rows(summary: dict[str, Any]) -> str:
    """The table of held-out losses as Markdown, the best of each domain in bold."""
    losses = summary["loss"]
    domains = list(next(iter(losses.values())))
    lines = ["| model | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|"]
    for name, row in losses.items():
        cells = [
            f"**{row[domain]:.3f}**"
            if row[domain] == min(other[domain] for other in losses.values())
            else f"{row[domain]:.3f}"
            for domain in domains
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def source_rows(name: str, summary: dict[str, Any], own: dict[str, dict[str, Any]]) -> str:
    """The table of sources a model was trained on, with licences and how much of each was used."""
    data = summary["data"]
    lines = ["| source | domain | licence | used |", "|---|---|---|---|"]
    for source, row in own.items():
        counts = data["raw_pieces"] if row["raw"] else {row["domain"]: data["examples"][row["domain"]]["train"]}
        used = counts[row["domain"]].get(source, 0)
        lines.append(
            f"| {source} | {row['domain']} | {row['licence']} | {used} {'texts' if row['raw'] else 'examples'} |"
        )
    return "\n".join(lines)


def licence_text(name: str) -> str:
    """What the licence field `other` stands for."""
    text = (
        "`other`: the weights were trained here from a mixture of openly licensed sources (table below) and carry no "
        "single licence of their own. All sources allow reuse, commercial use included; some ask for attribution (BSD, "
        "MIT, CC BY), some for share-alike (CC BY-SA, CDLA-Sharing). Whether weights inherit such terms is unsettled: "
        "check before you redistribute them. Licences are as stated by the places the files were taken from."
    )
    if name in ("text", "code"):
        text += " The gpteacher records were written by GPT-4; its provider's terms restrict use for competing models."
    return text


def training_text(name: str, summary: dict[str, Any]) -> str:
    """How long and on what a model was trained."""
    base, own = summary["training"]["base"], summary["training"][name]
    heading = (
        f"{own['tokens_seen']:,} tokens in {own['steps']:,} steps ({own['minutes']} minutes in its last run, one core)"
    )
    if name == "base":
        return f"Pre-trained on {heading}, the three domains in equal shares, documents joined and cut into rows."
    examples = own["data"]["train"]
    return (
        f"Fine-tuned from the zoo's base on {heading}, prompts included, loss on responses only: "
        f"{examples['examples']:,} examples with {examples['response_tokens']:,} response tokens, seen about "
        f"{own['tokens_seen'] / examples['tokens']:.1f} times. "
        f"The weights are those of step {own['best_step']:,}, the best on a validation split (not the held-out set). "
        f"The base had seen {base['tokens_seen']:,} tokens before."
    )


def render_card(name: str, summary: dict[str, Any]) -> str:
    """The model card of one zoo model: front matter, training, losses, sources, limits, how to build it again."""
    own = {
        source: row
        for source, row in summary["sources"].items()
        if (row["raw"] if name == "base" else row["raw"] or row["domain"] == name)
    }
    heldout = ", ".join(
        f"{domain} {row['examples']} examples / {row['response_tokens']:,} response tokens"
        for domain, row in summary["heldout"].items()
    )
    removed = summary["data"]["removed"]
    paragraphs = [
        front_matter(name, own),
        f"# UltraFuser zoo: {TITLES[name]}",
        f"A Llama-architecture toy model of {summary['parameters']:,} parameters with a byte-level BPE vocabulary of "
        f"{summary['settings']['shape']['vocabulary']:,} tokens, weights in {summary['dtype']}. One of four (base, "
        "text, code, math) that share tokenizer and base, made to show and test the fusing of specialists.",
        f"Prompt form: {PROMPTS[name]}. A response ends with `<|end|>`. Prompt and response are tokenised on their own "
        "and joined.",
        "## Training",
        training_text(name, summary),
        "## Held-out loss",
        "Nats per response token on documents that no part of the training saw, each model under its own template. "
        f"{heldout}. Training texts that share 13 words in a row with a held-out example were removed "
        f"({sum(removed['heldout'].values())} of them), as were texts that share 13 words with a benchmark "
        f"({sum(removed['bench'].values())}).",
        loss_rows(summary),
        "## Sources and licence",
        licence_text(name),
        source_rows(name, summary, own),
        "The base was trained on the raw sources of all domains; a specialist adds the examples of its own domain.",
        "## Limits",
        "A toy. It writes fluent-looking sentences, Python and sums, and is wrong about nearly everything. It was "
        f"trained on rows of {summary['settings']['raw_row']} and examples of up to "
        f"{summary['settings']['max_length']} tokens. No safety training. Do not use it for anything but experiments "
        "with fusing. Load it in float32 to train it.",
        "## Build it again",
        "    ultrafuser zoo build DATA --work runs/zoo",
        "DATA holds `raw/`, `train/` and `bench/`; `zoo.json` beside this folder lists the files and every setting.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def render_extra_card(name: str, summary: dict[str, Any]) -> str:
    """The model card of a further specialist, whose data a program of this package draws."""
    training = summary["training"]
    examples = training["data"]["train"]
    heldout = ", ".join(f"{domain} {row['examples']}" for domain, row in summary["heldout"].items())
    solved = ", ".join(f"{task} {share:.0%}" for task, share in summary["solved"].items())
    paragraphs = [
        front_matter(name, {}),
        f"# UltraFuser zoo: {name} specialist",
        f"A Llama-architecture toy model of {summary['parameters']:,} parameters, weights in {summary['dtype']}, "
        "trained from the zoo's base, with its tokenizer, after the trio (text, code, math): a fourth domain in "
        "another symbol system, to be added to a fused model without touching what is there (docs/add-a-domain.md).",
        "Prompt form: `>ask` and `>answer`, each on a line of its own, as in a FASTA file. A response ends with "
        "`<|end|>`. Strands are written in codons with spaces between; each base is one token.",
        "## Training",
        f"Fine-tuned from the zoo's base on {training['tokens_seen']:,} tokens in {training['steps']:,} steps "
        f"({training['minutes']} minutes in its last run, one core), prompts included, loss on responses only: "
        f"{examples['examples']:,} examples with {examples['response_tokens']:,} response tokens, seen about "
        f"{training['tokens_seen'] / examples['tokens']:.1f} times. The weights are those of step "
        f"{training['best_step']:,}, the best on a validation split (not the held-out set).",
        "## Held-out loss",
        "Nats per response token, each model under its own template; text, code and math are the held-out part of the "
        f"shipped sample, {name} is drawn by the program. Examples: {heldout}. No strand and no prompt occurs twice in "
        "training, validation and held-out data.",
        loss_rows(summary),
        "## What it gets right",
        "Greedy answers to held-out questions, equal to the right one character by character, by kind of task (a gene "
        f"for a protein and a hairpin have many right answers and are judged by what they mean): {solved}.",
        "## Data and licence",
        "All questions and answers come from a program in this package (`ultrafuser.zoo.dna`, Apache-2.0), none from "
        "anyone's data: strands are random, answers follow from base pairing and the standard genetic code. The base's "
        "sources are those of the trio's cards, and so is what the licence `other` means.",
        "## Limits",
        "A toy. Strands of some thirty bases, no real genes, no knowledge of biology beyond the tables in "
        "`biology.py`. Do not use it for anything but experiments with fusing. Load it in float32 to train it.",
        "## Build it again",
        f"    ultrafuser zoo extend {name} --work runs/zoo-{name} -o models/{name}",
    ]
    return "\n\n".join(paragraphs) + "\n"
