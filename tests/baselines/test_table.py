"""The contract of BASELINES: every row is made from a small recipe, gives what it promises, and can be measured."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest

from ultrafuser.baselines import BASELINES, find_baseline
from ultrafuser.baselines.making import check_needs, make_baseline, read_made
from ultrafuser.baselines.scores import measure
from ultrafuser.cli.opening import open_fused
from ultrafuser.generation import stream

PACKAGES = {"mergekit"}
VARIANTS = {"scratch": "equal-steps", "oracle": "sample"}  # where there is no plain form, or it needs the zoo's cards
NAMES, DOMAINS = ["text", "code", "math"], ["text", "code", "math"]


@pytest.mark.parametrize("name", BASELINES)
def test_a_row_says_what_it_is(name):
    row = BASELINES[name]
    assert row.name == name
    assert ":" not in name
    assert row.summary
    assert row.paper
    assert row.summary[0].islower()
    variants = row.variants(NAMES, DOMAINS)
    assert variants
    assert len(set(variants)) == len(variants)
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs/baselines.md").read_text(encoding="utf-8")
    assert find_baseline(f"{name}:x/y") == (row, "x/y")


@pytest.mark.parametrize("name", BASELINES)
def test_a_row_makes_what_it_promises(name, make_setting):
    row = BASELINES[name]
    for package in PACKAGES & set(row.needs):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    setting = make_setting(VARIANTS.get(name, ""), steps=4)
    made = make_baseline(row, setting)
    assert read_made(setting.folder) == made
    json.dumps(made.as_dict(), allow_nan=False)
    assert made.note
    assert made.parameters_used > 0
    assert (made.training_operations > 0) == (made.steps > 0) == (made.parameters_trained > 0)
    assert made.folder is not None or row.score is not None
    scores = row.score(setting, "heldout") if row.score is not None else measure(setting, made.folder)
    assert [(r.domain, r.id, r.tokens) for r in scores.rows] == [
        (setting.material.heldout.categories[e.category], e.id, e.n_response_tokens)
        for e in setting.material.heldout.examples
    ]
    assert all(math.isfinite(loss) for loss in scores.by_domain().values())
    if made.folder is not None:  # as eval, chat and generate open it
        opened = open_fused(str(made.folder), device="cpu")
        assert next(iter(stream(opened.model, opened.tokenizer, [{"role": "user", "content": "hi"}], max_new_tokens=1)))


@pytest.mark.parametrize("name", ["routing", "single", "ties", "copies"])
def test_a_variant_of_what_has_none_is_refused(name, make_setting) -> None:
    with pytest.raises(ValueError, match=f"variant: {name} has none, so leave out ':x'"):
        check_needs(BASELINES[name], make_setting("x"))
