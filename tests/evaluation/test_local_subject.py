"""Models under test in memory: what they answer, what the record learns of it, and what does not stop a run."""

import json

import pytest
import torch

from ultrafuser.evaluation.benchmark import Item, Needs, Query
from ultrafuser.evaluation.subject import Asking
from ultrafuser.evaluation.subjects import local
from ultrafuser.evaluation.subjects.alone import only_specialist
from ultrafuser.evaluation.subjects.local import LocalSubject
from ultrafuser.generation import generate_batch, likelihoods, only_weights, stream
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.templates import encode_prompt

ASKING = Asking(max_new_tokens=9)
SHORT, LONGER = "fox", "the quick brown fox jumps over the lazy dog"
FULL = "zebra " * 300


@pytest.fixture
def subject(fused_model, tiny_tokenizer):
    return LocalSubject(fused_model, tiny_tokenizer, name="runs/fused")


def user(content):
    return {"role": "user", "content": content}


def speak(item_id, *turns):
    return Item(item_id, {}, turns=turns)


def judge(item_id, *queries):
    return Item(item_id, {}, queries=queries)


def ask(subject, items, asking=ASKING):
    found = dict(subject.answer(items, asking))
    assert sorted(found) == list(range(len(items)))
    return [found[index] for index in range(len(items))]


def alone(subject, messages, **options):
    return list(stream(subject.model, subject.tokenizer, messages, max_new_tokens=9, **options))


def test_a_batch_answers_as_each_item_alone(subject):
    answers = ask(subject, [speak("a", LONGER), speak("b", SHORT), speak("c", "What is 12 plus 30?")])
    for answer, text in zip(answers, (LONGER, SHORT, "What is 12 plus 30?"), strict=True):
        events = alone(subject, [user(text)])
        assert answer.texts == ("".join(event.text for event in events),)
        assert answer.tokens == len(events)
        assert answer.finished == (events[-1].token_id == 1)
        assert answer.seconds > 0
        for j, name in enumerate(("text", "code", "math")):
            mean = sum(event.weights[j] for event in events) / len(events)
            assert answer.gate_weights[name] == pytest.approx(mean, abs=1e-5)
    assert len({answer.texts for answer in answers}) == 3


def test_later_turns_see_the_models_own_answers(subject):
    items = [speak("one", SHORT), speak("two", LONGER, "and then?"), speak("three", SHORT, "why?", "who?")]
    one, two, three = ask(subject, items)
    assert [len(answer.texts) for answer in (one, two, three)] == [1, 2, 3]
    said = three.texts
    history = [user(SHORT), {"role": "assistant", "content": said[0]}, user("why?")]
    second = alone(subject, history)
    assert said[1] == "".join(event.text for event in second)
    third = alone(subject, [*history, {"role": "assistant", "content": said[1]}, user("who?")])
    assert said[2] == "".join(event.text for event in third)
    assert three.tokens == len(alone(subject, [user(SHORT)])) + len(second) + len(third)
    assert one.texts[0] == said[0]
    assert said[1] in three.prompts["math"]


def test_prompts_are_what_each_specialist_read(subject):
    (answer,) = ask(subject, [speak("a", SHORT, "and then?")])
    messages = [user(SHORT), {"role": "assistant", "content": answer.texts[0]}, user("and then?")]
    assert answer.prompts["code"] == f"<s>[INST] fox [/INST]{answer.texts[0]}</s>[INST] and then? [/INST]"
    assert list(answer.prompts) == ["text", "code", "math"]
    ids = encode_prompt(messages, subject.model.config.templates, subject.tokenizer)
    for text, own in zip(answer.prompts.values(), ids, strict=True):
        assert subject.tokenizer.decode(own) == text


def test_sampling_repeats_with_its_seed(subject):
    items = [speak("a", LONGER), speak("b", SHORT)]
    asking = Asking(max_new_tokens=9, temperature=1.5, top_p=0.95, seed=4)
    texts = [answer.texts for answer in ask(subject, items, asking)]
    assert [answer.texts for answer in ask(subject, items, asking)] == texts
    options = {"max_new_tokens": 9, "temperature": 1.5, "top_p": 0.95, "seed": 4}
    batch = generate_batch(subject.model, subject.tokenizer, [[user(LONGER)], [user(SHORT)]], **options)
    assert [(one.text,) for one in batch] == texts
    other = Asking(max_new_tokens=9, temperature=1.5, top_p=0.95, seed=5)
    assert [answer.texts for answer in ask(subject, items, other)] != texts


def test_a_prompt_that_does_not_fit_ends_neither_run_nor_batch(subject):
    before, full, after, later = ask(
        subject, [speak("a", SHORT), speak("b", FULL), speak("c", LONGER), speak("d", SHORT, FULL, "and then?")]
    )
    assert (full.texts, full.finished, full.tokens, full.gate_weights) == (("",), False, 0, None)
    assert FULL in full.prompts["text"]
    expected = ask(subject, [speak("a", SHORT), speak("c", LONGER)])
    assert [before.texts, after.texts] == [answer.texts for answer in expected]
    assert later.texts == (before.texts[0], "", "")
    assert not later.finished
    assert later.tokens == before.tokens


def test_a_long_neighbour_does_not_cut_an_answer_short(subject):
    prompts = encode_prompt([user("")], subject.model.config.templates, subject.tokenizer)
    tight = "9" * (subject.model.config.max_position_embeddings - max(map(len, prompts)) - 3)
    subject.model.generation_config.suppress_tokens = [1]
    first, last = ask(subject, [speak("a", tight), speak("b", SHORT)])
    assert (first.tokens, last.tokens) == (3, 9)


def test_likelihoods_in_the_order_of_items_queries_and_continuations(subject):
    choice = Query((user(LONGER),), ("a", "b", "the"))
    texts = Query((user(SHORT),), (" jumps over", " dog", ""), end=True)
    mixed = Query((user(SHORT),), ("a", " jumps over"))
    single = Query((user("why?"),), ("a",))
    answers = ask(subject, [judge("a", texts, choice), judge("b", mixed), judge("c", choice, single)])
    for answer, queries in zip(answers, ((texts, choice), (mixed,), (choice, single)), strict=True):
        flat = [(query.messages, text, query.end) for query in queries for text in query.continuations]
        expected = likelihoods(subject.model, subject.tokenizer, flat)
        found = [one for query in answer.likelihoods for one in query]
        assert [len(query) for query in answer.likelihoods] == [len(query.continuations) for query in queries]
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-4)
        assert answer.tokens == sum(one.tokens for one in expected)
        code = sum(one.weights[1] * one.tokens for one in expected) / answer.tokens
        assert answer.gate_weights["code"] == pytest.approx(code, abs=1e-5)
        assert answer.finished
        assert answer.texts == ()
    assert answers[1].prompts["code"] == "<s>[INST] fox [/INST]"


def test_queries_that_do_not_fit_leave_the_others_their_likelihoods(subject):
    good = judge("b", Query((user(SHORT),), ("a", "b")))
    full, found = ask(subject, [judge("a", Query((user(SHORT),), ("a",)), Query((user(FULL),), ("a",))), good])
    assert (full.likelihoods, full.finished, full.tokens) == ((), False, 0)
    assert [found.likelihoods] == [answer.likelihoods for answer in ask(subject, [good])]


def test_turns_and_queries_may_share_a_batch(subject):
    spoken, judged = ask(subject, [speak("a", SHORT), judge("b", Query((user(SHORT),), ("a",)))])
    assert spoken.texts
    assert not spoken.likelihoods
    assert judged.likelihoods[0][0].tokens == 1


@pytest.mark.parametrize("function", ["generate_batch", "likelihoods", "token_likelihoods"])
def test_a_batch_too_big_for_the_gpu_is_halved(subject, monkeypatch, function):
    items = [speak(str(i), f"{SHORT} {i}") for i in range(4)]
    if function != "generate_batch":
        texts = (" jumps over", " dog") if function == "likelihoods" else ("a", "b")
        items = [judge(str(i), Query((user(f"{SHORT} {i}"),), texts)) for i in range(4)]
    expected = ask(subject, items)
    real, tried = getattr(local, function), []

    def small_memory(*arguments, batch_size, **options):
        tried.append(batch_size)
        if batch_size > 1:
            raise torch.OutOfMemoryError("no room")
        return real(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(local, function, small_memory)
    found = ask(subject, items)
    assert tried == ([4, 2, 1] if function == "generate_batch" else [8, 4, 2, 1])
    assert [answer.texts for answer in found] == [answer.texts for answer in expected]
    for one, other in zip(found, expected, strict=True):
        nats = [pair.logprob for query in one.likelihoods for pair in query]
        assert nats == pytest.approx([pair.logprob for query in other.likelihoods for pair in query], abs=1e-4)


def test_no_room_for_a_single_row_is_an_error(subject, monkeypatch):
    def no_memory(*arguments, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(local, "generate_batch", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        ask(subject, [speak("a", SHORT), speak("b", SHORT)])


def test_length_is_the_longest_specialists(subject):
    longest = max(map(len, encode_prompt([user(LONGER)], subject.model.config.templates, subject.tokenizer)))
    assert subject.length(speak("a", LONGER)) == longest
    assert subject.length(judge("b", Query((user(LONGER),), ("a",), end=True))) == longest + 2
    assert subject.length(speak("c", LONGER, SHORT)) > longest
    assert subject.length(speak("d", FULL)) > subject.model.config.max_position_embeddings


def test_one_model_has_no_gate_to_speak_of(specialist_folders, tiny_tokenizer):
    model = UltraFuserForCausalLM.from_specialists({"code": specialist_folders["code"]})
    subject = LocalSubject(model, tiny_tokenizer, name="code")
    spoken, judged = ask(subject, [speak("a", SHORT), judge("b", Query((user(SHORT),), ("a",)))])
    assert spoken.gate_weights is judged.gate_weights is None
    about = subject.describe()
    assert (about["kind"], about["gate"], about["gate_trained"], about["fusion"]) == ("model", None, None, None)


def test_describe_says_which_model_it_was(subject, fused_model, specialist_folders):
    about = subject.describe()
    assert about == json.loads(json.dumps(about))
    assert about["kind"] == "fused"
    assert about["specialists"] == ["text", "code", "math"]
    assert (about["gate"], about["gate_trained"], about["dtype"], about["device"]) == ("token", False, "float32", "cpu")
    assert about["fusion"] == {"rule": "logits", "top_k": None}
    assert about["parameters"] == sum(p.numel() for p in fused_model.parameters())
    assert str(specialist_folders["text"].parent) not in json.dumps(about)
    assert subject.offers == frozenset(Needs)
    again = LocalSubject(fused_model, subject.tokenizer, name="elsewhere").describe()
    assert again == about
    with torch.no_grad():
        fused_model.gate.outer.weight.mul_(1.01)
    assert LocalSubject(fused_model, subject.tokenizer, name="runs/fused").describe() != about


def test_a_specialist_without_a_template_is_named_at_once(fused_model, tiny_tokenizer):
    fused_model.config.templates[1] = ""
    with pytest.raises(ValueError, match="specialist 'code' has no chat template"):
        LocalSubject(fused_model, tiny_tokenizer, name="runs/fused")


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_one_specialist_alone_equals_all_weight_on_it(fused_model, tiny_tokenizer, rule):
    fused_model.config.fusion["rule"] = rule
    code = only_specialist(fused_model, "code")
    assert code.specialist(0) is fused_model.specialist("code")
    assert code.config.specialist_names == ["code"]
    weights = only_weights(["text", "code", "math"], "code")
    alone = LocalSubject(code, tiny_tokenizer, name="runs/fused --only code")
    forced = list(generate_batch(fused_model, tiny_tokenizer, [[user(LONGER)], [user(SHORT)]], gate_weights=weights))
    found = ask(alone, [speak("a", LONGER), speak("b", SHORT)], Asking(max_new_tokens=256))
    assert [answer.texts[0] for answer in found] == [one.text for one in forced]
    assert [answer.tokens for answer in found] == [len(one.events) for one in forced]
    events = [event for one in forced for event in one.events]
    assert len({event.token_id for event in events}) > 5
    assert list(found[0].prompts) == ["code"]


def test_an_unknown_specialist_is_named_with_the_nearest(fused_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="'cod' is not one of text, code, math; did you mean 'code'"):
        only_specialist(fused_model, "cod")
