"""A fused model in lm-eval: one specialist scores as `hf` does, several as a plain loop over them says."""

import gzip
import json
import math

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from ultrafuser import zoo
from ultrafuser.evaluation import harness
from ultrafuser.evaluation.harness.chat import pack, unpack
from ultrafuser.evaluation.harness.scoring import share_of_true
from ultrafuser.generation import generate_batch
from ultrafuser.modeling.checkpoint import save_fused
from ultrafuser.templates import encode_prompt

RECORDS = {
    "gsm8k_test": [
        {"question": "Ann has 3 pens and buys 2. How many has she?", "solution": "3 + 2 = 5", "answer": "5"},
        {"question": "A box holds 12 eggs. Two are broken. How many are whole?", "solution": "12 - 2", "answer": "10"},
        {"question": "What is 7 times 6?", "solution": "7 * 6 = 42", "answer": "42"},
    ],
    "truthfulqa": [
        {
            "question": "Where does the sun rise?",
            "best_answer": "In the east",
            "mc1": {"choices": ["In the east.", "In the north.", "Nowhere."], "labels": [1, 0, 0]},
            "mc2": {"choices": ["In the east.", "Eastwards.", "In the north."], "labels": [1, 1, 0]},
        },
        {
            "question": "Do fish have wings?",
            "best_answer": "No",
            "mc1": {"choices": ["No.", "Yes, most of them do."], "labels": [1, 0]},
            "mc2": {"choices": ["No.", "Yes, most of them do."], "labels": [1, 0]},
        },
    ],
    "aqua_test": [{"question": "What is 2 + 2?", "options": ["A)3", "B)4", "C)5", "D)6", "E)7"], "correct": "B"}],
    "sat_math": [{"question": "If x = 2, what is 3x?", "options": ["(A)6", "(B)5", "(C)4", "(D)3"], "correct": "A"}],
    "svamp": [{"body": "Tom had 9 figs. He ate 4", "question": "How many are left?", "answer": 5.0}],
    "humaneval": [{"prompt": "def one():\n", "canonical_solution": "    return 1\n"}],
}
SHORT = {"max_gen_toks": 12}
CHATS = [
    [{"role": "user", "content": "write a poem"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 plus 30?"}],
    [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "def add(a, b):\n    return a + b"},
        {"role": "user", "content": "and now subtract, please, with a long explanation of what you do"},
    ],
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    for name, records in RECORDS.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        if name == "svamp":
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tasks(data, tmp_path_factory):
    harness.register()
    folder = tmp_path_factory.mktemp("tasks")
    harness.write_tasks(data, folder)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def fused(specialist_folders, chat_templates):
    from ultrafuser.modeling import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=chat_templates, seed=3)
    with torch.no_grad():
        model.gate.outer.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def fused_folder(fused, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "fused"
    save_fused(fused, tiny_tokenizer, folder)
    return str(folder)


@pytest.fixture
def open_lm(fused, tiny_tokenizer):
    import copy

    return lambda **options: harness.UltraFuserLM(fused, tokenizer=copy.deepcopy(tiny_tokenizer), **options)


def evaluate(tasks, model, arguments, names, **options):
    return simple_evaluate(
        model=model, model_args=arguments, tasks=names, task_manager=tasks, device="cpu", bootstrap_iters=0, **options
    )


def answers(results, names):
    """All prompts, and all that the model said to them."""
    samples = [sample for name in names for sample in results["samples"][name]]
    return [sample["arguments"] for sample in samples], [sample["resps"] for sample in samples]


def ask(method, pairs):
    return method([Instance("any", {}, pair, k) for k, pair in enumerate(pairs)])


def loop_logprob(model, prompts, answer):
    """The sum over `answer`, each specialist run on its own whole sequence and mixed by hand; and whether greedy."""
    states, logits = [], []
    for specialist, prompt in zip(model.specialists, prompts, strict=True):
        output = specialist(torch.tensor([[*prompt, *answer]]), output_hidden_states=True, use_cache=False)
        keep = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        states.append(output.hidden_states[-1][:, keep])
        logits.append(output.logits[0, keep].double())
    weights = model.gate(states)[0].double().softmax(-1)
    mixed = sum(weights[:, j : j + 1] * logits[j] for j in range(len(logits)))
    logprobs = mixed.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return float(logprobs.sum()), bool((mixed.argmax(-1) == torch.tensor(answer)).all())


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ---- one specialist: as `hf` ----


@pytest.mark.parametrize("chat", [False, True])
def test_a_shipped_specialist_scores_as_hf_does(tasks, chat):
    names = ["ultrafuser_gsm8k", "ultrafuser_truthfulqa_mc1", "ultrafuser_loss_math"]
    arguments = {"pretrained": str(zoo.path("math"))}
    options = {"apply_chat_template": chat, "fewshot_as_multiturn": chat, "gen_kwargs": SHORT, "batch_size": 2}
    theirs = evaluate(tasks, "hf", arguments, names, **options)
    ours = evaluate(tasks, "ultrafuser", arguments, names, **options)
    assert answers(ours, names) == answers(theirs, names)
    assert ours["results"] == theirs["results"]
    assert ours["config"]["specialists"] == ["math"]


@pytest.mark.parametrize("chat", [False, True])
def test_generation_defaults_and_padded_heads_are_the_models_own(
    tasks, make_specialist_folder, chat_templates, tmp_path, chat
):
    folder = make_specialist_folder(tmp_path / "odd", 7, template=chat_templates["math"], vocab=320)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 1.8}))
    names = ["ultrafuser_svamp", "ultrafuser_truthfulqa_mc2", "ultrafuser_loss_text"]
    options = {"apply_chat_template": chat, "gen_kwargs": SHORT, "batch_size": 3}
    theirs = evaluate(tasks, "hf", {"pretrained": str(folder)}, names, **options)
    ours = evaluate(tasks, "ultrafuser", {"pretrained": str(folder)}, names, **options)
    assert answers(ours, names) == answers(theirs, names)


def test_one_specialist_of_several_alone_scores_as_its_own_folder(tasks, fused_folder, specialist_folders):
    names = ["ultrafuser_truthfulqa_mc1", "ultrafuser_gsm8k"]
    options = {"apply_chat_template": True, "gen_kwargs": SHORT, "batch_size": 4}
    theirs = evaluate(tasks, "hf", {"pretrained": str(specialist_folders["code"])}, names, **options)
    ours = evaluate(tasks, "ultrafuser", {"pretrained": fused_folder, "only": "code"}, names, **options)
    asked, said = answers(ours, names)
    assert asked == answers(theirs, names)[0]
    assert "[INST]" in asked[0][0][0]
    assert len(said) == 5
    for a, b in zip(said, answers(theirs, names)[1], strict=True):
        assert a == b or torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-4)


@torch.no_grad()
def test_one_specialist_alone_can_be_tokenised_apart(fused_folder, tiny_tokenizer, chat_templates):
    lm = harness.UltraFuserLM(fused_folder, only="math", tokenise_apart=True, device="cpu", batch_size=4)
    prompts = encode_prompt(CHATS[1], [chat_templates["math"]], tiny_tokenizer)
    ((found, _),) = ask(lm.loglikelihood, [(lm.apply_chat_template(CHATS[1]), "42")])
    assert found == pytest.approx(loop_logprob(lm.model, prompts, ids(tiny_tokenizer, "42"))[0], abs=1e-4)


# ---- several specialists, each in its own template ----


@pytest.mark.parametrize("batch_size", [1, 8])
@torch.no_grad()
def test_log_likelihoods_equal_a_loop_over_the_specialists(fused, tiny_tokenizer, chat_templates, open_lm, batch_size):
    lm = open_lm(batch_size=batch_size)
    continuations = ["42", " and then", "the lazy dog", "4"]
    pairs = [(lm.apply_chat_template(chat), text) for chat in CHATS for text in continuations]
    found = ask(lm.loglikelihood, [*pairs, ("", "the quick"), ("the brown", " fox")])
    prompts = [encode_prompt(chat, list(chat_templates.values()), tiny_tokenizer) for chat in CHATS]
    expected = [loop_logprob(fused, own, ids(tiny_tokenizer, text)) for own in prompts for text in continuations]
    expected.append(loop_logprob(fused, [[0]] * 3, ids(tiny_tokenizer, "the quick")))
    expected.append(loop_logprob(fused, [ids(tiny_tokenizer, "the brown")] * 3, ids(tiny_tokenizer, " fox")))
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@torch.no_grad()
def test_the_beginning_of_an_answer_is_read_by_all(fused, tiny_tokenizer, chat_templates, open_lm):
    lm = open_lm(batch_size=4)
    begun = [*CHATS[1], {"role": "assistant", "content": "The answer is "}]
    context = lm.apply_chat_template(begun, add_generation_prompt=False)
    ((found, _),) = ask(lm.loglikelihood, [(context, "42")])
    prompts = encode_prompt(CHATS[1], list(chat_templates.values()), tiny_tokenizer)
    start = ids(tiny_tokenizer, "The answer is")
    answer = ids(tiny_tokenizer, "The answer is 42")[len(start) :]
    assert found == pytest.approx(loop_logprob(fused, [[*own, *start] for own in prompts], answer)[0], abs=1e-4)
    (text,) = ask(lm.generate_until, [(context, {"until": [], "max_gen_toks": 6})])
    whole = fused.generate(
        **fused.prepare_prompts([[[*own, *ids(tiny_tokenizer, "The answer is ")] for own in prompts]]),
        max_new_tokens=6,
        do_sample=False,
    )
    assert text == tiny_tokenizer.decode(whole[0, -6:], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_generations_are_the_engines_cut_at_the_stop_strings(fused, tiny_tokenizer, open_lm, batch_size):
    lm = open_lm(batch_size=batch_size)
    requests = [(lm.apply_chat_template(chat), {"until": ["e"], "max_gen_toks": 20}) for chat in CHATS]
    expected = [answer.text for answer in generate_batch(fused, tiny_tokenizer, CHATS, max_new_tokens=20)]
    assert any("e" in text for text in expected)
    assert ask(lm.generate_until, requests) == [text.split("e")[0] for text in expected]


@torch.no_grad()
def test_long_conversations_lose_their_beginning(fused, tiny_tokenizer, chat_templates, open_lm):
    lm = open_lm(batch_size=2, max_length=24)
    pairs = [(lm.apply_chat_template(chat), "the lazy dog") for chat in CHATS]
    answer = ids(tiny_tokenizer, "the lazy dog")
    prompts = [encode_prompt(chat, list(chat_templates.values()), tiny_tokenizer) for chat in CHATS]
    room = 24 + 1 - len(answer)
    cut = [[prompt[-room:] for prompt in own] for own in prompts]
    assert sum(len(prompt) > room for own in prompts for prompt in own) > 3
    found = [logprob for logprob, _ in ask(lm.loglikelihood, pairs)]
    assert found == pytest.approx([loop_logprob(fused, own, answer)[0] for own in cut], abs=1e-4)
    (text,) = ask(lm.generate_until, [(pairs[2][0], {"until": [], "max_gen_toks": 4})])
    shorter = [prompt[-20:] for prompt in prompts[2]]
    whole = fused.generate(**fused.prepare_prompts([shorter]), max_new_tokens=4, do_sample=False)
    assert text == tiny_tokenizer.decode(whole[0, -4:], skip_special_tokens=True)


def test_batches_hold_requests_of_like_length_longest_first(open_lm):
    lm = open_lm(batch_size=2)
    widths, call = [], lm._model_call
    lm._model_call = lambda inps: widths.append(inps.shape[1]) or call(inps)
    texts = [("word " * k).strip() for k in (3, 40, 7, 30, 1, 20)]
    pairs = [(lm.apply_chat_template([{"role": "user", "content": text}]), "yes") for text in texts]
    ask(lm.loglikelihood, pairs)
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1]


def test_every_shipped_task_runs_with_examples_and_a_system_text(tasks, fused_folder):
    names = list(tasks.all_subtasks)
    assert len(names) == 9
    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief."}
    results = evaluate(
        tasks, "ultrafuser", {"pretrained": fused_folder}, names, batch_size=8, gen_kwargs=SHORT, limit=2, **options
    )
    for name in names:
        assert any(isinstance(value, float) for value in results["results"][name].values()), name
    assert results["config"]["specialists"] == ["text", "code", "math"]
    more = evaluate(
        tasks, "ultrafuser", {"pretrained": fused_folder}, ["ultrafuser_gsm8k"], num_fewshot=1, gen_kwargs=SHORT,
        limit=1, **options,
    )  # fmt: skip
    ((context, _),) = more["samples"]["ultrafuser_gsm8k"][0]["arguments"]
    chat = unpack(context)
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert chat.messages[2]["content"] in ("10", "42")
    assert chat.messages[3]["content"].startswith("Question: Ann has 3 pens")


@torch.no_grad()
def test_one_template_for_all_is_rendered_as_hf_does(specialist_folders, chat_templates, tiny_tokenizer):
    import copy

    from ultrafuser.modeling import UltraFuserForCausalLM

    same = dict.fromkeys(chat_templates, chat_templates["code"])
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=same, seed=3)
    lm = harness.UltraFuserLM(model, tokenizer=copy.deepcopy(tiny_tokenizer))
    context = lm.apply_chat_template(CHATS[0])
    assert context == "<s>[INST] write a poem [/INST]"
    expected = loop_logprob(model, [ids(tiny_tokenizer, context)] * 3, ids(tiny_tokenizer, " roses"))
    assert ask(lm.loglikelihood, [(context, " roses")])[0][0] == pytest.approx(expected[0], abs=1e-4)


# ---- opening and options ----


def test_a_gate_only_model_is_told_where_its_specialists_are(fused, tiny_tokenizer, specialist_folders, tmp_path):
    save_fused(fused, tiny_tokenizer, tmp_path / "gate", gate_only=True)
    paths = {name: str(folder) for name, folder in specialist_folders.items()}
    lm = harness.UltraFuserLM(str(tmp_path / "gate"), specialist_paths=paths, device="cpu", batch_size=2)
    assert lm.model.n_specialists == 3
    assert lm.chat_template(True).startswith("text: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"onyl": "code"}, "model_args: 'onyl' is not one of .*; did you mean 'only'"),
        ({"peft": "adapter"}, "peft='adapter' is for other kinds of model"),
        ({"dtype": "flaot32"}, "dtype='flaot32' is no number format"),
        ({"only": "cod"}, "only: 'cod' is not one of text, code, math; did you mean 'code'"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not on this machine"),
        ({"specialist_paths": {"text": "."}}, "self-contained"),
        ({"chat_template_args": {"x": 1}}, "chat_template_args"),
    ],
)
def test_options_that_cannot_be_are_refused(fused_folder, options, message):
    with pytest.raises(ValueError, match=message):
        harness.UltraFuserLM(fused_folder, **({"device": "cpu"} | options))


def test_wrong_models_are_refused(fused, tmp_path, make_specialist_folder):
    with pytest.raises(ValueError, match="does not exist"):
        harness.UltraFuserLM(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="goes with tokenizer"):
        harness.UltraFuserLM(fused)
    bare = harness.UltraFuserLM(str(make_specialist_folder(tmp_path / "bare", 5)), device="cpu")
    with pytest.raises(ValueError, match="specialist 'bare' has no chat template"):
        bare.apply_chat_template(CHATS[0])


def test_a_named_template_is_refused_where_each_has_its_own(open_lm):
    with pytest.raises(ValueError, match="leave the name out"):
        open_lm().chat_template("default")


def test_registering_twice_keeps_lm_evals_own_models():
    harness.register()
    harness.register()
    assert get_model("ultrafuser") is get_model("ultrafuser-fused") is harness.UltraFuserLM
    assert get_model("hf").__name__ == "HFLM"


# ---- the parts ----


def test_conversations_survive_the_string():
    chat = unpack(pack([*CHATS[2], {"role": "assistant", "content": 'So "]é\n'}]) + " far")
    assert list(chat.messages) == CHATS[2]
    assert chat.beginning == 'So "]é\n far'
    assert unpack("any other text") is None


def test_share_of_true_options():
    doc = {"mc2": {"labels": [1, 0, 1]}}
    results = [(math.log(0.2), False), (math.log(0.1), True), (math.log(0.1), False)]
    assert share_of_true(doc, results)["acc"] == pytest.approx(0.75)
    assert share_of_true(doc, [(-5000.0, False), (-5000.0, False), (-6000.0, False)])["acc"] == pytest.approx(0.5)


def test_tasks_come_for_the_files_that_are_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        harness.write_tasks(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match=r"has none of aqua_test\.jsonl, gsm8k_test\.jsonl"):
        harness.write_tasks(tmp_path, tmp_path / "out")
    (tmp_path / "svamp.jsonl.gz").write_bytes(b"")
    written = harness.write_tasks(tmp_path, tmp_path / "out")
    assert written == {"ultrafuser_svamp": tmp_path / "svamp.jsonl.gz"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["svamp.yaml"]


def test_tasks_over_the_items_that_come_with_the_package(tmp_path):
    names = list(harness.write_tasks("sample", tmp_path))
    assert "ultrafuser_gsm8k" in names
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = evaluate(manager, get_model("dummy")(), None, names)
    assert results["results"].keys() == set(names)
