"""Contracts of the tables: every step, every shipped domain, every preset, and what the page tells of them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from author import author
from hypothesis import given
from hypothesis import strategies as st

from ultrafuser.endpoint import Reply
from ultrafuser.recipe import RecipeError
from ultrafuser.synthesis import Journal, Spec, load_domain, load_spec
from ultrafuser.synthesis.domain import Domain
from ultrafuser.synthesis.domains import domain_names
from ultrafuser.synthesis.estimate import estimate
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.presets import preset, preset_names
from ultrafuser.synthesis.records import Ask, Reject
from ultrafuser.synthesis.spec import Budget, Counts, EndpointSpec, Generation, Responses, Turns
from ultrafuser.synthesis.steps import STEPS
from ultrafuser.synthesis.steps.instructions import distance, echoes
from ultrafuser.synthesis.steps.step import list_request

PAGE = (Path(__file__).parents[2] / "docs" / "synthesis.md").read_text(encoding="utf-8")
NOTE = {"count": 3, "known": ["One"], "sample": 0, "role": "user", "related": "weakly", "original": "x"}
SPEC = Spec(name="x", domains=["text"], endpoints=[{"base_url": "http://localhost:1"}])


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
class TestStep:
    def test_it_names_what_it_reads_and_makes(self, step):
        before = list(STEPS)[: list(STEPS).index(step.name)]
        assert set(step.reads) <= set(before)
        assert step.makes
        assert step.summary

    @given(text=st.text(max_size=200), finish=st.sampled_from(["stop", "length", "content_filter"]))
    def test_no_reply_upsets_it(self, step, text, finish):
        found = step.accept(Reply(text, finish), Ask((), list_request(SPEC, "x"), NOTE))
        records = found.salvage if isinstance(found, Reject) else found
        assert isinstance(found, Reject) or found
        assert all(
            set(record) <= set(step.makes) and all(record.values() or [0])
            for record in records
            if "sample" not in record
        )

    def test_the_page_describes_it(self, step):
        assert f"| `{step.name}` |" in PAGE


def test_requests_follow_from_what_was_made(serve, make_spec):
    spec = make_spec(serve(author).url, domains=["math"], turns={"extra": 1})
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        domain = load_domain("math", Path())
        for step in STEPS.values():
            round_ = 1 if step.name == "further_turns" else 0
            first, second = (list(step.requests(spec, domain, journal, round_)) for _ in range(2))
            assert first == second


@pytest.mark.parametrize("name", domain_names())
def test_shipped_domains_have_what_the_prompts_need(name):
    domain = load_domain(name, Path())
    rows = estimate(Spec(name="x", domains=[name], endpoints=[{"base_url": "http://x"}], turns={"extra": 1}), [domain])
    assert all(row.prompt_tokens > 0 for row in rows)
    assert len(domain.kinds) >= 8
    assert len({example.instruction for example in domain.examples}) == len(domain.examples)
    assert {"text": [], "code": ["code"], "math": ["math"]}[name] == domain.checks


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_specs(name, tmp_path):
    (tmp_path / "synth.yaml").write_text(preset(name), encoding="utf-8")
    assert load_spec(tmp_path / "synth.yaml").domains == ["text", "code", "math"]


def test_a_domain_of_ones_own_as_the_page_shows_it(tmp_path, serve, make_spec):
    (tmp_path / "law.yaml").write_text(re.search(r"```yaml\n(name: law.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    server = serve(author)
    spec = make_spec(server.url, domains=[str(tmp_path / "law.yaml")])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        assert {record.domain for record in journal.records("responses")} == {"law"}
    assert "law in everyday life" in server.bodies[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": []}, r"levels: \[\] is empty"),
        ({"titel": "x"}, "line .*titel: no such key; did you mean 'title'"),
        ({"prompts": {"respones": "x"}}, "'respones' is no stage; .*did you mean 'responses'"),
        ({"prompts": {"responses": "{% if"}}, "responses: line 1 is no Jinja"),
    ],
)
def test_mistakes_in_a_domain_file_are_told(tmp_path, change, words):
    file = tmp_path / "mine.yaml"
    data = load_domain("text", Path()).model_dump() | {"name": "mine"} | change
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(RecipeError, match=words):
        load_domain(str(file), Path())


def test_a_prompt_that_uses_what_is_not_there_says_so():
    domain = load_domain("text", Path()).model_copy(update={"prompts": {"responses": "{{ topics }}"}})
    with pytest.raises(
        ValueError, match=r"prompts\.responses of domain text: 'topics' is undefined; it may use domain"
    ):
        domain.prompt("responses", instruction="x")


@pytest.mark.parametrize("model", [Spec, Counts, EndpointSpec, Budget, Generation, Responses, Turns])
def test_the_page_names_every_key(model):
    assert [name for name in model.model_fields if f"`{name}`" not in PAGE] == []


def test_the_page_names_every_key_of_a_domain():
    law = re.search(r"```yaml\n(name: law.*?)```", PAGE, re.DOTALL)[1]
    assert [name for name in Domain.model_fields if f"{name}:" not in law and f"`{name}" not in PAGE] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("domains: [text]\n", "name: missing"),
        ("name: x\ndomains: []\n", r"domains: \[\] is empty"),
        ("name: x\ndomains: [text, text]\n", r"line 2: domains\[1\]: 'text' is listed twice"),
        ("name: x\ncount: {}\n", "line 2: count: no such key; did you mean 'counts'"),
        ("name: x\ncounts: {expansion: -1}\n", r"line 2: counts\.expansion: -1 is out of range"),
        ("name: x\nbudget: {money: 3.0}\n", r"line 2: budget\.money: 3 is a cap, but no endpoint has a price"),
    ],
)
def test_mistakes_in_a_spec_are_told_with_their_line(tmp_path, text, words):
    file = tmp_path / "synth.yaml"
    base = "endpoints:\n  - {base_url: http://localhost:1}\n" + ("" if "domains" in text else "domains: [text]\n")
    file.write_text(text + base, encoding="utf-8")
    with pytest.raises(RecipeError, match=words):
        load_spec(file)


def test_unknown_domains_and_counts_are_told(make_spec):
    from ultrafuser.synthesis import open_domains

    with pytest.raises(ValueError, match="'maths' is not one of code, math, text; did you mean 'math'"):
        open_domains(make_spec("http://x", domains=["maths"]))
    with pytest.raises(ValueError, match="domain_counts: 'cod' is not one of the domains text, code, math; did you"):
        open_domains(make_spec("http://x", domain_counts={"cod": {}}))


def test_distance_is_small_for_what_is_alike():
    a, b = "Write a poem about the sea.", "Write a poem about the sea at night."
    assert distance(a, a) == 0
    assert distance(a, b) < distance(a, "Compute 3 + 4.") == 1


@pytest.mark.parametrize(
    ("text", "is_echo"),
    [
        ("Write a letter to a landlord who keeps the deposit, and set a date for its return.", True),
        ("write a letter to a landlord who keeps the deposit and set a date for its return", True),
        ("Write a letter to a landlord who keeps the deposit", True),
        (
            "Please: Write a letter to a landlord who keeps the deposit, and set a date for its return. Thanks a lot!",
            True,
        ),
        ("Write a letter to a neighbour who plays the drums at night, and suggest a time for it.", False),
        ("Write a letter.", False),
    ],
)
def test_a_model_that_repeats_what_it_is_shown_is_noticed(text, is_echo):
    shown = ["Explain tides.", "Write a letter to a landlord who keeps the deposit, and set a date for its return."]
    assert echoes(text, shown) is is_echo
    reply = STEPS["instructions"].accept(
        Reply(json.dumps([text])), Ask((), list_request(SPEC, "x"), NOTE | {"known": shown})
    )
    if is_echo:
        assert reply == Reject("repeats what was shown")


def test_no_example_of_a_domain_gets_into_the_data(serve, make_spec):
    def script(body, number):
        shown = [example.instruction for example in load_domain("code", Path()).examples]
        asked = body["messages"][-1]["content"]
        return json.dumps(shown) if asked.startswith("People send requests") else author(body)

    spec = make_spec(serve(script).url, domains=["code"], attempts=1)
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        shown = [example.instruction for example in load_domain("code", Path()).examples]
        made = [record.data["text"] for record in journal.records("instructions")]
        assert not any(echoes(text, shown) for text in made)
