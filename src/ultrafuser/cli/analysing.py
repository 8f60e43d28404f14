"""Reading the instructions to analyse, and the analysis of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ultrafuser.analysis.diversity import Item, diversity
from ultrafuser.cli.common import resolve_data, resolve_source

__all__ = ["PAGE", "analyse", "read_items"]

PAGE, PICTURE, FIGURES = "analysis.html", "map.png", "analysis.json"
SPEC = (".yaml", ".yml")
JOURNAL = "journal.sqlite"


def read_items(sources: Sequence[str], per_domain: int, seed: int) -> list[Item]:
    """At most `per_domain` instructions of each domain, drawn by `seed`, without holding more.

    A source is a spec or the output folder of a run, an exported folder, a data file or folder, zoo-sample:DOMAIN/PART,
    each also as DOMAIN=SOURCE. Raises ValueError where one cannot be read or has too little.
    """
    from ultrafuser.synthesis.sampling import Reservoir

    kept: dict[str, Reservoir[Item]] = {}
    for source in sources:
        for item in _items(source):
            if item.text.strip():
                kept.setdefault(item.domain, Reservoir(per_domain, random.Random(f"{seed}:{item.domain}"))).take(item)
    items = [item for reservoir in kept.values() for item in reservoir.kept]
    if len(items) < 3:
        raise ValueError(f"SOURCE: {', '.join(sources)} hold {len(items)} instructions; an analysis needs at least 3")
    return items


def _items(source: str) -> Iterator[Item]:
    domain, mark, place = source.partition("=")
    if not mark or "/" in domain:
        domain, place = "", source
    path = Path(resolve_data(place)).expanduser()
    if path.suffix in SPEC or (path / JOURNAL).is_file():
        yield from _of_run(path)
        return
    files = sorted(path.glob("*/*/*.*")) if (path / "README.md").is_file() else []
    from ultrafuser.data.sources import SUFFIXES, iter_conversations

    found = [file for file in files if file.name.endswith(SUFFIXES)]
    for file in found or [path]:
        fallback = domain or file.name.partition(".")[0]
        for one, record in iter_conversations(str(file), fallback):
            name = domain or str(record.get("category") or fallback)
            first = next(message["content"] for message in one.messages if message["role"] == "user")
            topic = one.meta.get("sub_topic")
            yield Item(first, name, one.family, None if topic is None else str(topic))


def _of_run(path: Path) -> Iterator[Item]:
    from ultrafuser.synthesis import Journal, load_spec
    from ultrafuser.synthesis.sampling import pool_rows

    folder = load_spec(path).output_folder if path.suffix in SPEC else path
    with Journal(folder, create=False) as journal:
        for row in pool_rows(journal):
            yield Item(row.text, row.domain, row.meta_topic, row.sub_topic)


def analyse(
    items: Sequence[Item],
    model: str,
    folder: Path,
    *,
    title: str,
    method: str,
    seed: int,
    max_tokens: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write page, picture and figures to a folder; returns the figures, without the points."""
    from ultrafuser.analysis.data_page import DataPage, figure_png, render_data_page
    from ultrafuser.analysis.embedding import mean_states
    from ultrafuser.analysis.projection import nearest_similarities, project
    from ultrafuser.cli.opening import quiet_libraries
    from ultrafuser.files import write_json, write_whole
    from ultrafuser.modeling.specialists import open_specialist, open_tokenizer, resolve

    quiet_libraries()
    origin = resolve(resolve_source(model), field="--model")
    opened = open_specialist(origin, field="--model").eval()
    tokenizer = open_tokenizer(origin, "--model")
    texts = [item.text for item in items]
    vectors = mean_states(opened, tokenizer, texts, max_tokens=max_tokens, on_progress=on_progress)
    found = diversity(items, seed)
    for one in found:
        mine = vectors[[i for i, item in enumerate(items) if item.domain == one.domain]]
        one.nearest = nearest_similarities(mine, vectors.mean(0)).tolist() if len(mine) > 1 else []
    name = model if model.startswith("zoo:") else origin.path.name
    page = DataPage(title, name, method, items, project(vectors, method, seed), found)
    write_whole(folder / PAGE, render_data_page(page))
    write_whole(folder / PICTURE, figure_png(page))
    figures = page.as_dict()
    write_json(folder / FIGURES, figures)
    return {key: value for key, value in figures.items() if key != "points"}
