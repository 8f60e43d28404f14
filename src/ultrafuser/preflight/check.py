"""The check: every part of a recipe looked at in turn, nothing large read, nothing raised before all is collected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultrafuser.preflight.adapters import check_base, check_fit, check_groups, described
from ultrafuser.preflight.crossing import apart, check_overlap, check_positions
from ultrafuser.preflight.data_check import check_data
from ultrafuser.preflight.facts import Facts, read_facts
from ultrafuser.preflight.findings import Finding, Report
from ultrafuser.preflight.licences import check_licences
from ultrafuser.preflight.memory import check_memory, number_format, sharing
from ultrafuser.preflight.output import check_output
from ultrafuser.preflight.sources import Resolve, SourceError, locate
from ultrafuser.preflight.template_check import check_template
from ultrafuser.preflight.vocabulary import check_end_tokens, check_vocabularies
from ultrafuser.recipe import Recipe, RecipeError, load_recipe
from ultrafuser.tokens import Alignment

SMALL_HIDDEN = 1024  # below this width, a gate needs a larger learning rate than the paper's 2e-5
SMALL_RATE = 1e-4


def check(
    recipe: Recipe,
    *,
    resolve: Resolve | None = None,
    resolve_data: Resolve | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Report:
    """Look at specialists, templates, data, licences, memory and output of a recipe.

    `resolve` turns sources such as `zoo:text` into folders, `resolve_data` entries such as `zoo-sample:text/train` into
    files (both leave everything else alone). Reads configurations, tokenizers, safetensors headers and data files; and
    once the weights of a base whose hash an adapter records, of which `say` is told where that takes long.
    Never raises for what a user can mend: see `Report.raise_if_errors`.
    """
    report = Report()
    resolve = resolve or _leave
    facts, folders = _specialists(recipe, resolve, report, say)
    complete = len(facts) == len(recipe.specialists)
    speech = _speech(recipe, facts, report)
    check_groups(recipe, facts, report)
    _shapes(recipe, facts, report)
    data = check_data(recipe, speech.sources if complete else [], speech.tokenizer, resolve_data or _leave, report)
    if speech.alignment is not None:
        check_positions(speech.alignment, speech.names, data.answers, report)
    _context(recipe, facts, data.longest, report)
    _learning_rates(recipe, facts, report)
    if facts:
        check_licences({one.name: one.licence for one in facts}, report)
    if complete:
        check_memory(recipe, facts, data.longest, report)
    check_output(recipe, facts if complete else [], folders, report, overwrite=overwrite)
    return report


def check_file(path: str | Path, **options: Any) -> Report:
    """`check` of a recipe file; mistakes in the file itself become findings too."""
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        report = Report()
        report.findings += [Finding("error", p.field or "recipe", p.message, line=p.line) for p in error.problems]
        return report
    return check(recipe, **options)


def _leave(source: str) -> str:
    return source


def _specialists(
    recipe: Recipe, resolve: Resolve, report: Report, say: Callable[[str], None]
) -> tuple[list[Facts], dict[str, Path]]:
    """Facts of every specialist that can be read, and the folders they lie in."""
    facts, folders = [], {}
    for name, spec in recipe.specialists.items():
        where = f"specialists.{name}.source"
        try:
            located = locate(spec, resolve)
            if not spec.is_hub:
                folders[name] = located.folder if located.adapter is None else located.adapter.folder
            one = read_facts(name, located)
            check_fit(one, located)
        except SourceError as error:
            report.add("error", f"specialists.{name}.{error.part}", f"{spec.source!r}: {error.message}", error.fix)
            continue
        facts.append(one)
        report.specialists[name] = {"source": spec.source, **one.to_json()}
        if located.warning:
            report.add("warning", where, located.warning, "save the model as safetensors to have it checked")
        report.add("ok", where, described(one))
        check_base(one, located, report, say)
    return facts, folders


@dataclass
class _Speech:
    """What the specialists read and write with; `alignment` where tokenizers differ, its `names` canonical first."""

    tokenizer: Any = None
    sources: list[str] = field(default_factory=list)
    alignment: Alignment | None = None
    names: list[str] = field(default_factory=list)


def _speech(recipe: Recipe, facts: Sequence[Facts], report: Report) -> _Speech:
    """Notes what is wrong with tokenizers and templates."""
    found = _Speech()
    first = next((one for one in facts if one.name == recipe.tokenizer_name), None)
    if first is None:
        return found
    found.tokenizer = first.tokenizer
    check_end_tokens(facts, first.name, report)
    others = apart(facts, first.name) if recipe.fusion.rule == "probabilities" else []
    if others and recipe.gate.type == "evidence":
        report.add("error", "gate.type", "'evidence' needs one tokenizer for all", "use token, joint or constant")
    check_vocabularies([one for one in facts if one not in others], first.name, report)
    found.alignment = check_overlap(others, first, report)
    found.names = [first.name, *(one.name for one in others)]
    templates = []
    for one in facts:
        own = one.tokenizer if one in others else first.tokenizer
        templates.append(check_template(one.name, recipe.specialists[one.name], one, own, report))
    if first.tokenizer.eos_token_id is not None and None not in templates:
        found.sources = [source for source in templates if source is not None]
    return found


def _shapes(recipe: Recipe, facts: Sequence[Facts], report: Report) -> None:
    """The gate projects other widths; float16 and quantised weights do not learn; soft-capped heads are slow."""
    widths = {one.name: one.hidden_size for one in facts}
    if recipe.gate.type in ("token", "evidence") and len(set(widths.values())) > 1:
        shown = ", ".join(f"{name} {width}" for name, width in widths.items())
        width = recipe.gate.projection_size or min(widths.values())
        report.add(
            "ok", "gate.type", f"hidden sizes differ ({shown}): the gate learns a projection to {width} for the others"
        )
    halves = [one.name for one in facts if number_format(recipe, one) == "float16"]
    if halves and any(stage.train != "gate" for stage in recipe.stages):
        report.add(
            "error",
            "dtype",
            f"{', '.join(halves)} in float16 cannot be trained reliably",
            "use bfloat16 or float32, or train the gate alone",
        )
    packed = [
        one.name
        for group in sharing(facts)
        for one in group
        if len(group) == 1 and one.adapter is None and recipe.specialists[one.name].quantisation is not None
    ]
    for one in facts:
        kind = recipe.specialists[one.name].quantisation
        if kind is not None:
            where = f"specialists.{one.name}.quantisation"
            report.add("ok", where, f"{kind} weights are made anew at every opening: train with --gate-only to save")
    for i, stage in enumerate(recipe.stages):
        if packed and stage.train != "gate":
            report.add(
                "error",
                f"stages[{i}].train",
                f"{stage.train} would change {', '.join(packed)}, whose quantised weights cannot learn",
                "train the gate alone (train: gate), or leave quantisation out",
            )
    capped = [one.name for one in facts if one.soft_cap]
    if capped:
        report.add(
            "ok", "fusion.rule", f"{', '.join(capped)} caps its logits: fused by the plain rule, which is slower"
        )


def _context(recipe: Recipe, facts: Sequence[Facts], longest: int | None, report: Report) -> None:
    """max_length and the longest conversation against the shortest context."""
    known = [(one.context, one.name) for one in facts if one.context]
    if not known:
        return
    context, name = min(known)
    if longest is not None and longest > context:
        report.add(
            "error",
            "max_length",
            f"conversations of up to {longest} tokens are kept, but {name} was made for {context}",
            f"set max_length to {context} or less",
        )
    elif recipe.max_length > context:
        report.add(
            "warning",
            "max_length",
            f"{recipe.max_length} is more than the {context} tokens that {name} was made for",
            f"set it to {context}",
        )


def _learning_rates(recipe: Recipe, facts: Sequence[Facts], report: Report) -> None:
    """Adam moves a weight by at most its learning rate a step: 2e-5 does not move a small gate far enough."""
    if not facts or max(one.hidden_size for one in facts) >= SMALL_HIDDEN:
        return
    for i, stage in enumerate(recipe.stages):
        if stage.train == "gate" and stage.learning_rate < SMALL_RATE:
            reach = stage.learning_rate * stage.steps
            report.add(
                "warning",
                f"stages[{i}].learning_rate",
                f"{stage.learning_rate:g} over {stage.steps} steps moves a weight by {reach:.1g} at most: too little "
                "for models this small",
                "set it to about 1e-3",
            )
