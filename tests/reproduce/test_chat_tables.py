"""Tables 5 and 7 on a micro trio, without a judge and with a scripted one."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "endpoint"))

from scripted import ScriptedServer

from ultrafuser.reproduce import make_plan, reproduce
from ultrafuser.reproduce.cells import MEAN
from ultrafuser.reproduce.chat.questions import CATEGORIES, chat_items, load_questions, reference_talks
from ultrafuser.reproduce.chat.runs import CHAT, JUDGE, LIKELIHOOD, answers_run, losses_run, picks_run, ratings_run
from ultrafuser.reproduce.context import Context
from ultrafuser.reproduce.experiments import fused_run, specialists_run
from ultrafuser.reproduce.methods import METHOD, method_run
from ultrafuser.reproduce.runs import Results, Store, in_order
from ultrafuser.reproduce.tables import table7, wanted_runs


def likes(body, number):
    """Gives 7 to the first turn and 4 to the second; keeps the candidate whose text is longest."""
    prompt = body["messages"][-1]["content"]
    if "ready" in prompt:
        return "ready"
    if "Rating:" in prompt:
        return f"Rating: {4 if '--- user 2' in prompt else 7}"
    texts: dict[str, int] = {}
    pieces = re.split(r"--- assistant ([A-Z]), answer \d+ \w+ ---\n", prompt)
    for letter, text in zip(pieces[1::2], pieces[2::2], strict=True):
        texts[letter] = texts.get(letter, 0) + len(text.partition("--- end of answer")[0])
    return "Verdict: " + max(texts, key=lambda letter: texts[letter])


@pytest.fixture(scope="module")
def runs(micro_recipe, tmp_path_factory):
    """Both tables without a judge, then in the same folder with one: (plan, report) each, and the store."""
    patch = pytest.MonkeyPatch()
    patch.setenv("NO_PROXY", "*")
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    folder = tmp_path_factory.mktemp("chat") / "run"
    alone = make_plan("smoke", ["table5", "table7"], recipe=micro_recipe)
    first = reproduce(folder, alone, workers=0)
    server = ScriptedServer(likes, ("m",))
    judged = make_plan("smoke", ["table5", "table7"], recipe=micro_recipe, judge=server.url, judge_model="m")
    done = []
    second = reproduce(folder, judged, workers=0, on_event=lambda e: done.append(e.run) if e.kind == "done" else None)
    yield (alone, first), (judged, second), Store(folder, alone), done
    server.close()
    patch.undo()


def test_shipped_questions_are_whole() -> None:
    questions = load_questions()
    assert {one["category"] for one in questions} == set(CATEGORIES)
    assert all(sum(one["category"] == name for one in questions) == 2 for name in CATEGORIES)
    assert all(len(one["turns"]) == len(one["reference"]) == 2 for one in questions)
    assert len({one["question_id"] for one in questions}) == len(questions)
    assert [one["category"] for one in load_questions(1)] == list(CATEGORIES)
    item, talk = chat_items(questions)[0], reference_talks(questions)[0]
    assert item.turns == tuple(m["content"] for m in talk.messages if m["role"] == "user")


def test_only_a_judges_word_has_the_judge_in_its_key(micro_plan) -> None:
    plan = micro_plan("table5")
    judged = plan.model_copy(update={"judge": {"url": "http://x/v1", "model": "a"}})
    other = plan.model_copy(update={"judge": {"url": "http://x/v1", "model": "b"}})
    fused = fused_run(plan, 0)
    for run in (fused, answers_run(plan, "text"), losses_run(plan), picks_run(plan, LIKELIHOOD, 0)):
        assert run.key(plan) == run.key(judged)
    assert ratings_run(judged, fused).key(judged) != ratings_run(other, fused).key(other)
    assert picks_run(judged, JUDGE, 0).key(judged) != picks_run(other, JUDGE, 0).key(other)
    names = {run.name for run in in_order(wanted_runs(plan), plan).values()}
    more = {run.name for run in in_order(wanted_runs(judged), judged).values()} - names
    assert more
    assert all(name.startswith(("ratings/", "picks-judge/")) for name in more)


def test_without_a_judge_the_tables_say_what_is_missing(runs) -> None:
    (_, report), _, _, _ = runs
    assert not report.failures
    assert "give --judge URL" in report.tables["table5"].text
    assert "these are no ratings" in report.tables["table7"].text
    numbers = report.numbers()
    assert set(numbers["table5"]) == {"text", "code", "math", "likelihood", "oracle", "fused_stage2"}
    assert numbers["table7"] == {}  # the micro models read 256 tokens, and every question has more


def test_losses_on_reference_answers_are_those_of_plain_models(tmp_path) -> None:
    """The shipped trio: one conversation against Transformers' own loss, then the table's means."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ultrafuser import zoo
    from ultrafuser.reproduce.chat.runs import read_references
    from ultrafuser.templates import encode_conversation

    plan = make_plan("smoke", ["table7"])
    run = losses_run(plan)
    result = read_references(Context(plan, Store(tmp_path, plan)), dict(run.inputs), {})
    assert result["left_out"] == []
    talk = reference_talks(load_questions(1))[4]
    model = AutoModelForCausalLM.from_pretrained(zoo.path("code"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("code"))
    encoded = encode_conversation(talk.messages, [tokenizer.chat_template], tokenizer)
    ids, labels = [], []
    for prompt, response in zip(encoded.prompt_ids[0], encoded.response_ids, strict=True):
        ids += [*prompt, *response]
        labels += [*[-100] * len(prompt), *response]
    with torch.no_grad():
        loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    row = next(row for row in result["items"]["code"] if row[0] == talk.id)
    assert row[2] / row[3] == pytest.approx(loss, rel=1e-4)
    Store(tmp_path, plan).write(run, result, 0.0)
    table = table7.make(plan, Results(Store(tmp_path, plan), {}))
    row = next(row for row in table.rows if row.key == "code")
    assert row.cells["coding"].mean == pytest.approx(loss, rel=1e-4)
    assert row.cells[MEAN].mean == pytest.approx(sum(row.cells[n].mean for n in CATEGORIES) / len(CATEGORIES))


def test_the_loss_of_selection_is_that_of_whose_answer_was_taken(runs) -> None:
    (plan, _), _, store, _ = runs
    alone = store.read(specialists_run(plan))["items"]
    taken = store.read(method_run(plan, "selection", 0))["items"][METHOD]
    for place, row in enumerate(taken):
        assert row[2] in [pytest.approx(alone[name][place][2], rel=1e-6) for name in plan.specialists]


def test_a_judge_rates_and_picks(runs) -> None:
    _, (plan, report), store, done = runs
    assert not report.failures
    assert all(name.startswith(("ratings/", "picks-judge/")) for name in done)  # nothing else was done again
    seven, five = report.numbers()["table7"], report.numbers()["table5"]
    answers = {name: store.read(answers_run(plan, name))["answers"][CHAT] for name in plan.specialists}
    spoken = all(text.strip() for own in answers.values() for texts in own.values() for text in texts)
    for name in plan.specialists:
        assert seven[name]["coding"]["mean"] <= 5.5
        if spoken:
            assert seven[name]["coding"]["mean"] == five[name]["rating"]["mean"] == 5.5
    picks = store.read(picks_run(plan, JUDGE, 0))["picks"][CHAT]
    for item, pick in picks.items():
        lengths = {name: sum(map(len, answers[name][item])) for name in plan.specialists}
        if list(lengths.values()).count(max(lengths.values())) == 1:
            assert pick["name"] == max(lengths, key=lambda name: lengths[name])
            assert pick["detail"]["agreed"] is True
    assert "The judge: m." in report.tables["table5"].text
    assert five["judge"]["rating"]["mean"] <= five["oracle"]["rating"]["mean"]


def test_a_judges_name_needs_its_address(micro_recipe) -> None:
    with pytest.raises(ValueError, match="--judge-model: 'm' needs --judge URL"):
        make_plan("smoke", ["table5"], recipe=micro_recipe, judge_model="m")
