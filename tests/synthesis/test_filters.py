"""Filters over a journal: what each drops, why, and that a second run says the same."""

import json
from pathlib import Path

import pytest
from author import author
from scripted import completion

from ultrafuser.data.decontamination import words
from ultrafuser.endpoint import ChatRequest, Reply
from ultrafuser.synthesis import Journal, load_domain, open_domains
from ultrafuser.synthesis.estimate import estimate
from ultrafuser.synthesis.filters import FILTERS, apply_filter, check_filters, chosen_filters, restore
from ultrafuser.synthesis.filters.duplicates import similarity
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.records import Ask
from ultrafuser.synthesis.rows import Settled
from ultrafuser.synthesis.spec import Budget

QUESTION = (
    "A baker sells 24 rolls before noon and a third as many in the afternoon; how many rolls does he sell on that day?"
)
SHORT = "Which of these two rivers is longer than the Rhine?"


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "out") as opened:
        yield opened


@pytest.fixture
def filters(make_spec):
    """`filters(name, **options) -> Spec` with that one filter."""

    def make(name, **options):
        return make_spec("http://localhost:1/v1", filters=[{"name": name, "options": options}])

    return make


def put(journal, step, texts, domain="text", about=()):
    """Records with these texts, one request each; `about` is one parent for each."""
    asks = []
    for number, text in enumerate(texts):
        parents = (about[number],) if about else ()
        asks.append((domain, Ask(parents, ChatRequest(({"role": "user", "content": f"{step} {number} {text}"},)))))
    journal.plan(step, 0, asks, 0, "print")
    for (_, planned), text in zip(journal.waiting(step, -1, 10_000), texts, strict=True):
        data = text if isinstance(text, dict) else {"name" if "topics" in step else "text": text}
        journal.settle(planned, Reply(json.dumps(data), "stop"), Settled(made=[data]))
    return [record.id for record in journal.records(step)]


def dropped(spec, journal, step):
    """Texts that the spec's filters drop of a step, each with the reason."""
    domains = open_domains(spec)
    check_filters(spec, domains)
    restore(journal, step)
    for row, work in chosen_filters(spec, domains, journal, step):
        apply_filter(row, work)
    found = [record for record in journal.records(step, rejected=True) if record.state == "rejected"]
    return {record.data.get("text") or record.data.get("name"): record.reason for record in found}


def test_of_two_alike_the_plan_decides_which_stays(filters, journal):
    texts = ["Name three rivers of Spain.", "Name three lakes of Peru.", "name three  rivers of spain."]
    first = put(journal, "instructions", texts)[0]
    put(journal, "expansion", ["Name three lakes of Peru.", "Name a hill."], "code")
    spec = filters("duplicates")
    expected = {texts[2]: f"duplicates: same words as an earlier one: {first}"}
    assert dropped(spec, journal, "instructions") == expected
    assert dropped(spec, journal, "instructions") == expected
    assert [*dropped(spec, journal, "expansion")] == ["Name three lakes of Peru."]


def test_topics_are_compared_within_a_domain_and_instructions_by_every_sign(filters, journal):
    put(journal, "meta_topics", ["Trees", "trees!"])
    put(journal, "instructions", ["What is 3 + 4?", "What is 3 - 4?"])
    assert [*dropped(filters("duplicates"), journal, "meta_topics")] == ["trees!"]
    assert dropped(filters("duplicates"), journal, "instructions") == {}


def test_near_duplicates_by_exact_similarity(filters, journal):
    base = "Write a Python function that reads a file of temperatures, one a line, and returns the mean of them all"
    near, far = base + " as a float", "Explain to a child why the sea is salty and rivers are not"
    put(journal, "instructions", [base, far, near])
    threshold = similarity(base, near)
    assert [*dropped(filters("near_duplicates", threshold=threshold), journal, "instructions")] == [near]
    assert dropped(filters("near_duplicates", threshold=threshold + 0.01), journal, "instructions") == {}


def test_the_examples_of_a_domain_may_not_be_repeated(filters, journal):
    example = load_domain("math", Path()).examples[0].instruction
    texts = [example, example + " Please."]
    put(journal, "instructions", texts, "math")
    assert "example 1 of domain math" in dropped(filters("duplicates"), journal, "instructions")[example]
    assert [*dropped(filters("near_duplicates"), journal, "instructions")] == texts


def test_what_a_person_wrote_is_not_judged(filters, journal):
    first, second = put(journal, "instructions", ["Name three rivers of Spain.", "Name a hill."])
    journal.edit(second, {"text": "Name three rivers of Spain."}, "edited in review")
    assert dropped(filters("duplicates"), journal, "instructions") == {}
    journal.judge([(first, "removed in review")])
    restore(journal, "instructions")
    assert journal.record(first).state == "rejected"


@pytest.mark.parametrize("step", ["instructions", "responses"])
def test_every_planted_benchmark_item_is_found(filters, journal, tmp_path, step):
    file = tmp_path / "bench.jsonl"
    file.write_text("".join(json.dumps({"id": i, "question": q}) + "\n" for i, q in enumerate([QUESTION, SHORT])))
    planted = []
    for item in (QUESTION, SHORT):
        planted += [item, item.upper(), " -- ".join(words(item)) + "!!", item.replace(" ", "\n")]
        planted += [f"Before I ask: {item} Thank you, and explain every step of it."]
    clean = ["How many rolls does a baker sell on a day?", "Which of these two rivers is the longer one?"]
    put(journal, step, [*planted, *clean])
    found = dropped(filters("decontamination", files=[str(file)]), journal, step)
    assert [*found] == planted
    assert "bench.jsonl, line 1: a baker sells 24 rolls" in found[QUESTION]
    assert found[SHORT].endswith("bench.jsonl, line 2: which of these two rivers is longer than the rhine")


def test_short_benchmark_items_count_as_a_whole_request_only(filters, journal, tmp_path):
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps({"question": "Who was Ada Lovelace?", "answer": "A mathematician"}))
    put(journal, "instructions", ["Who was Ada Lovelace?", "Who was Ada Lovelace? Write a poem about her."])
    put(journal, "responses", ["Who was Ada Lovelace?"])
    spec = filters("decontamination", files=[str(file)], fields=["question"])
    assert [*dropped(spec, journal, "instructions")] == ["Who was Ada Lovelace?"]
    assert dropped(spec, journal, "responses") == {}


def test_languages(filters, journal):
    german = "Die Straße war nach dem Regen so glatt, dass wir langsam gingen und uns an den Händen hielten."
    quoted = f'Translate into English and say which tense the sentence is written in, and why: "{german}"'
    english = "The street was so slippery after the rain that we walked slowly and held each other's hands."
    put(journal, "instructions", [german, quoted, english, "Größe?", f"```\n{german}\n```"])
    assert [*dropped(filters("language"), journal, "instructions")] == [german]
    assert english in dropped(filters("language", languages=["de"]), journal, "instructions")


def test_lengths_by_step(filters, journal):
    put(journal, "responses", ["x" * 9, "x" * 10, "x" * 31])
    spec = filters("length", limits={"responses": [10, 30]})
    reasons = dropped(spec, journal, "responses")
    assert reasons["x" * 9] == "length: too short: 9 characters, at least 10 are wanted"
    assert reasons["x" * 31] == "length: too long: 31 characters, at most 30 are wanted"
    assert len(reasons) == 2


def test_code_is_parsed_and_its_own_tests_are_run(filters, journal):
    right = "```python\ndef twice(x):\n    return 2 * x\n\nassert twice(2) == 4\n```\nIt doubles."
    wrong = right.replace("2 * x", "3 * x")
    tests = "```python\ndef test_it():\n    assert 1 + 1 == 3\n```"
    broken = "```python\ndef twice(x:\n    return\n```"
    lacking = "```python\nimport a_package_that_is_not_there\nassert 1 == 2\n```"
    session = "```python\n>>> 1 +\n```"
    asking = "```python\nx = input()\nassert x\n```"
    others = ['```json\n{"a": 1,}\n```', "```rust\nfn main( {\n```", "no code"]
    put(journal, "responses", [right, wrong, tests, broken, lacking, session, asking, *others], "code")
    reasons = dropped(filters("code"), journal, "responses")
    assert [*reasons] == [wrong, tests, broken, others[0]]
    assert reasons[wrong] == "code: its own tests fail: AssertionError: assert twice(2) == 4"
    assert reasons[broken].startswith("code: code does not parse: python: ")
    assert [*dropped(filters("code", run=False), journal, "responses")] == [broken, others[0]]
    assert "no code" in dropped(filters("code", run=False, required=True), journal, "responses")


def test_a_domain_that_does_not_name_the_check_is_not_judged_by_it(filters, journal):
    put(journal, "responses", ["```python\n1 +\n```"], "text")
    assert dropped(filters("code"), journal, "responses") == {}
    assert dropped(filters("code", domains=["text"]), journal, "responses") != {}


def test_samples_of_an_instruction_must_agree(filters, journal):
    one, two, three = put(journal, "instructions", ["How far?", "How long?", "How many?"], "math")
    far = ["Answer: 0.5 km", "so \\boxed{\\frac{1}{2}}", "Answer: 7 km"]
    long = ["Answer: 1", "Answer: 2", "it depends"]
    many = ["The answer is 12.", "#### 12", "Answer: 12 apples"]
    put(journal, "responses", [*far, *long, *many], "math", [one] * 3 + [two] * 3 + [three] * 3)
    reasons = dropped(filters("math"), journal, "responses")
    assert [*reasons] == [far[2], *long]
    assert reasons[far[2]].startswith("math: differs from most samples: 7 km")
    assert reasons[long[0]] == "math: samples do not agree: 1 (1), 2 (1)"
    assert reasons[long[2]] == "math: no final answer"


def test_a_reference_answer_decides_where_there_is_one(filters, journal):
    asked = put(journal, "instructions", [{"text": "How much?", "answer": "1/4"}], "math")
    put(journal, "responses", ["Answer: 0.25", "Answer: 4"], "math", asked * 2)
    assert [*dropped(filters("math"), journal, "responses")] == ["Answer: 4"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("duplicate", {}, "filters[0].name: 'duplicate' is not one of .*did you mean 'duplicates'"),
        ("length", {"limit": {}}, "filters[0].options.limit: length has no such option.*did you mean 'limits'"),
        ("length", {"limits": {"responses": [5, 1]}}, "filters[0].options.limits: .*responses: .5, 1. must be"),
        ("near_duplicates", {"threshold": 2.0}, "filters[0].options.threshold: 2.0: input should be less"),
        ("language", {"languages": ["xx"]}, "filters[0].options.languages: 'xx' is none that can be told"),
        ("decontamination", {}, "filters[0].options.files: is missing"),
        ("decontamination", {"files": ["none.jsonl"]}, "filters[0].options.files: .*none.jsonl does not exist"),
        ("math", {"steps": ["instructions"]}, "filters[0].options.steps: 'instructions' is not one of responses"),
        ("math", {"domains": ["maths"]}, "filters[0].options.domains: 'maths' is not one of .*did you mean 'math'"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(filters, name, options, said):
    spec = filters(name, **options)
    with pytest.raises(ValueError, match=said.replace("[0]", r"\[0\]")):
        check_filters(spec, open_domains(spec))


def test_every_filter_says_what_it_is_for():
    assert all(row.name == name and row.summary and row.steps for name, row in FILTERS.items())


def judged(body, number=0):
    """A completion; a judge rates what it is shown by the length of the answer's mark."""
    prompt = body["messages"][-1]["content"]
    if "Rate the assistant's answer" in prompt:
        return completion(f"Reasons: so.\nRating: {3 + len(prompt) % 2 * 5}")
    return author(body, number)


def test_a_run_with_filters_and_a_judge_resumes_and_reports(serve, make_spec):
    server = serve(judged)
    filters = ["length", "duplicates", {"name": "judge", "options": {"least": 6.0}}]
    spec = make_spec(server.url, filters=filters, budget={"requests": 60})
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False).kind == "budget"
    spec = spec.model_copy(update={"budget": Budget()})
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        asked = len(server.bodies)
        assert Pipeline(spec, journal).run(review=False) is None
        responses = list(journal.records("responses", rejected=True))
        reasons = {record.reason for record in responses if record.state == "rejected"}
        by = journal.removed("responses")
    assert len(server.bodies) == asked, "nothing is asked twice"
    assert sum("Rate the assistant" in body["messages"][-1]["content"] for body in server.bodies) == len(responses)
    assert reasons == {"judge: rated too low: 3, at least 6"}
    report = json.loads((spec.output_folder / "removed.json").read_text())
    told = report["steps"]["responses"]
    rejected = sum(one["judge"] for one in by.values())
    assert 0 < rejected == told["removed"] == told["filters"]["judge"]["removed"] < told["made"]
    lines = (spec.output_folder / "removed.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["filter"] == "judge" for line in lines) == rejected
    assert f"judge, {rejected} removed" in (spec.output_folder / "removed.md").read_text()


def test_another_set_of_filters_takes_back_what_the_first_dropped(serve, make_spec):
    server = serve(judged)
    spec = make_spec(server.url, filters=[{"name": "length", "options": {"limits": {"instructions": [3000, 4000]}}}])
    with Journal(spec.output_folder) as journal:
        Pipeline(spec, journal).run(review=False)
        assert not list(journal.records("instructions"))
        spec = spec.model_copy(update={"filters": []})
        assert Pipeline(spec, journal).run(review=False) is None
        assert len(list(journal.records("instructions", "text"))) == 12


def test_the_plan_counts_what_a_judge_is_asked(filters):
    spec = filters("judge", domains=["code"])
    rows = {(row.domain, row.step): row for row in estimate(spec, open_domains(spec))}
    assert rows["code", "responses/judge"].requests == rows["code", "responses"].requests > 0
    assert ("text", "responses/judge") not in rows


def test_a_changed_benchmark_file_is_looked_at_again(serve, make_spec, tmp_path):
    server = serve(judged)
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps({"question": QUESTION}))
    spec = make_spec(server.url, filters=[{"name": "decontamination", "options": {"files": [str(file)]}}])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        first = next(journal.records("instructions", "text"))
        file.write_text(json.dumps({"question": first.data["text"]}))
        asked = len(server.bodies)
        assert Pipeline(spec, journal).run(review=False) is None
        assert journal.record(first.id).state == "rejected"
        assert first.id not in {record.parents[0] for record in journal.records("responses")}
        file.write_text(json.dumps({"question": QUESTION}))
        after = len(server.bodies)
        assert Pipeline(spec, journal).run(review=False) is None
        assert journal.record(first.id).state == "kept"
    assert after - asked < asked / 2
    assert len(server.bodies) == after, "what was answered before is found again"
