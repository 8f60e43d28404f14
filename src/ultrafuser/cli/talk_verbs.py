"""`generate`, `chat` and `explain`: talk to a fused model and see which specialist speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultrafuser.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    QuantiseOption,
    RevisionOption,
    SpecialistPathOption,
    human_console,
    write_json,
)

PAGE = Path("explain.html")

SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")]
LengthOption = Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer in tokens.")]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", metavar="X", help="0 takes the most likely token; above it, sample.")
]
TopPOption = Annotated[float, typer.Option("--top-p", metavar="X", help="Sample from the top X of probability.")]
TopKOption = Annotated[int, typer.Option("--top-k", metavar="N", help="Sample from the N likeliest tokens; 0 = all.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the sampling.")]
OnlyOption = Annotated[str | None, typer.Option("--only", metavar="NAME", help="Let one specialist speak alone.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("generate")(generate)
    app.command("chat")(chat)
    app.command("explain")(explain)


def generate(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Argument(help="The prompt; standard input when left out.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="JSON lines, each a string or an object with prompt or messages."),
    ] = None,
    system: SystemOption = None,
    max_new_tokens: LengthOption = 256,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: SeedOption = None,
    only: OnlyOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Prompts at a time with --file.")] = 8,
    weights: Annotated[bool, typer.Option("--weights", help="Show mean weights after each answer.")] = False,
    specialist_path: SpecialistPathOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantise: QuantiseOption = None,
    json_path: JsonOption = None,
) -> None:
    """Answer one prompt, or a file of them; each token in the colour of the specialist that speaks."""
    from ultrafuser.cli.answering import Showing, answer_prompts, read_prompts
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.generation import Sampling

    conversations = read_prompts(prompt, file, system)
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    opened = open_fused(
        model, revision=revision, device=device, specialist_paths=specialist_path, only=only,
        dtype=dtype, quantise=quantise,
    )  # fmt: skip
    show = Showing(human_console(json_path), weights=weights, batch_size=None if file is None else batch_size)
    write_json(json_path, answer_prompts(opened, conversations, sampling, only, show))


def chat(
    model: ModelArgument,
    system: SystemOption = None,
    max_new_tokens: LengthOption = 512,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: SeedOption = None,
    only: OnlyOption = None,
    weights: Annotated[bool, typer.Option("--weights", help="Show mean weights after each answer.")] = False,
    specialist_path: SpecialistPathOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantise: QuantiseOption = None,
    json_path: JsonOption = None,
) -> None:
    """Talk to a fused model; each token in the colour of the specialist that speaks. `/help` lists the commands."""
    from ultrafuser.cli.chat_loop import Chat
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.generation import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    opened = open_fused(
        model, revision=revision, device=device, specialist_paths=specialist_path, only=only,
        dtype=dtype, quantise=quantise,
    )  # fmt: skip
    shown = "line" if weights else "off"
    talk = Chat(opened, human_console(json_path), sampling, system=system, only=only, weights=shown)
    talk.run()
    write_json(json_path, talk.as_dict())


def explain(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="A prompt; the model answers it.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="TEXT", help="With --prompt: explain this answer, write none.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Explain a text read without any template; - = stdin.")
    ] = None,
    messages: Annotated[
        Path | None, typer.Option("--messages", metavar="FILE", help="Explain a conversation: a JSON list of messages.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = PAGE,
    system: SystemOption = None,
    max_new_tokens: LengthOption = 256,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: SeedOption = None,
    only: OnlyOption = None,
    specialist_path: SpecialistPathOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantise: QuantiseOption = None,
    json_path: JsonOption = None,
) -> None:
    """Write one self-contained page: each token coloured by its weights, exact values on hover.

    Give a --prompt (the model answers), a --prompt and an --answer, a --text, or --messages.
    """
    from ultrafuser.cli.explaining import Material, check_page_path, explain_model
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.generation import Sampling

    material = Material.choose(prompt=prompt, answer=answer, text=text, messages=messages, system=system)
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    check_page_path(output)
    opened = open_fused(
        model, revision=revision, device=device, specialist_paths=specialist_path, only=only,
        dtype=dtype, quantise=quantise,
    )  # fmt: skip
    page = explain_model(opened, material, sampling, only, output, human_console(json_path))
    write_json(json_path, page.as_dict())
