"""`ultrafuser generate`: the engine's answer, plain when piped, coloured on a terminal, the same in JSON."""

import json

import pytest
from rich.console import Console

from ultrafuser.cli.speaking import TokenPrinter, terminal_safe
from ultrafuser.generation import TokenEvent, stream


def answer_of(fused_folder, messages, **options):
    from transformers import AutoTokenizer

    from ultrafuser import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_pretrained(fused_folder)
    return list(stream(model, AutoTokenizer.from_pretrained(fused_folder), messages, **options))


def test_piped_output_is_the_answer_alone(run, fused_folder):
    result = run("generate", fused_folder, "What is 12 plus 30?", "--max-new-tokens", "12", "--device", "cpu")
    events = answer_of(fused_folder, [{"role": "user", "content": "What is 12 plus 30?"}], max_new_tokens=12)
    assert result.exit_code == 0
    assert result.stdout == "".join(e.text for e in events) + "\n"
    assert "untrained gate" in result.stderr


def test_json_holds_what_is_shown(run, fused_folder, tmp_path):
    target = tmp_path / "answer.json"
    args = ["--system", "be brief", "--weights", "--max-new-tokens", "8", "--json", target]
    result = run("generate", fused_folder, "hello", *args)
    data = json.loads(target.read_text(encoding="utf-8"))
    answer = data["answers"][0]
    assert data["specialists"] == ["text", "code", "math"]
    assert data["gate_trained"] is False
    assert answer["messages"][0] == {"role": "system", "content": "be brief"}
    assert answer["answer"] in result.stdout
    assert len(answer["tokens"]) == 8
    assert answer["finished"] is False
    means = answer["mean_weights"]
    assert sum(means.values()) == pytest.approx(1, abs=1e-4)
    for name, mean in means.items():
        assert f"{name} {100 * mean:.0f}%" in result.stdout
    token = answer["tokens"][0]
    assert sum(token["weights"].values()) == pytest.approx(1, abs=1e-4)
    assert 0 < token["probability"] <= 1


def test_json_on_standard_output_leaves_it_clean(run, fused_folder):
    result = run("generate", fused_folder, "hello", "--max-new-tokens", "4", "--json", "-")
    data = json.loads(result.stdout)
    assert data["answers"][0]["answer"] + "\n" in result.stderr


def test_prompt_comes_from_standard_input(run, fused_folder):
    piped = run("generate", fused_folder, "--max-new-tokens", "6", input="What is 3?\n")
    given = run("generate", fused_folder, "What is 3?", "--max-new-tokens", "6")
    assert piped.exit_code == 0
    assert piped.stdout == given.stdout
    assert run("generate", fused_folder, input="").stderr.startswith("error: PROMPT: it is empty")


def test_seed_repeats_a_sample(run, fused_folder):
    options = ["--max-new-tokens", "10", "--temperature", "1.5", "--top-p", "0.95", "--top-k", "50"]
    first, again, other = (run("generate", fused_folder, "hi", *options, "--seed", s).stdout for s in ("1", "1", "2"))
    assert first == again != other


def test_only_one_specialist_speaks(run, fused_folder, tmp_path):
    run("generate", fused_folder, "hi", "--only", "code", "--max-new-tokens", "3", "--json", tmp_path / "x.json")
    answer = json.loads((tmp_path / "x.json").read_text())["answers"][0]
    assert answer["mean_weights"] == {"text": 0, "code": 1, "math": 0}


def test_unknown_specialist_is_refused_before_weights_are_read(run, fused_folder, monkeypatch):
    from ultrafuser import UltraFuserForCausalLM

    monkeypatch.setattr(UltraFuserForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were read"))
    result = run("generate", fused_folder, "hi", "--only", "mat")
    assert result.exit_code == 2
    assert result.stderr == "error: only: 'mat' is not one of code, math, text; did you mean 'math'?\n"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperature", "-1", "temperature: -1.0"),
        ("--top-p", "2", "top_p: 2.0"),
        ("--max-new-tokens", "0", "max_new_tokens: 0"),
        ("--specialist-path", "text", "--specialist-path: 'text' must read NAME=FOLDER"),
        ("--device", "gpu", "--device: 'gpu' is not one of cpu, cuda, mps"),
        ("--device", "cuda:99", "--device: 'cuda:99' is not on this machine; there is"),
        ("--file", "nowhere.jsonl", "give one of them"),
    ],
)
def test_bad_options_are_refused_first(run, fused_folder, option, value, message):
    result = run("generate", fused_folder, "hi", option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_of_prompts_is_answered_in_batches(run, fused_folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    conversation = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    lines = ["What is 3?", {"prompt": "def add"}, {"messages": [*conversation, {"role": "user", "content": "three"}]}]
    prompts.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    target = tmp_path / "out.json"
    args = ["--file", prompts, "--batch-size", "2", "--max-new-tokens", "6", "--json", target, "--weights"]
    result = run("generate", fused_folder, *args)
    assert result.exit_code == 0, result.output
    answers = json.loads(target.read_text(encoding="utf-8"))["answers"]
    assert [a["messages"][-1]["content"] for a in answers] == ["What is 3?", "def add", "three"]
    assert result.stdout.count("text ") >= 3
    for answer in answers:
        single = answer_of(fused_folder, answer["messages"], max_new_tokens=6)
        assert answer["answer"] == "".join(e.text for e in single)
        assert answer["answer"] in result.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ('{"promt": "x"}', "line 2: has neither prompt nor messages"),
        ('{"messages": []}', "line 2: messages must be a list that is not empty"),
        ('{"messages": [{"role": "usr", "content": "x"}]}', "messages[0].role: 'usr' is not one of"),
        ('{"messages": [{"role": "user"}]}', "messages[0] must be an object with role and content"),
    ],
)
def test_mistakes_in_a_file_name_its_line(run, fused_folder, tmp_path, line, message):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"fine"\n' + line + "\n")
    result = run("generate", fused_folder, "--file", prompts)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", "")


def test_plain_causal_lm_speaks_as_one_specialist(run, specialist_folders, tmp_path):
    target = tmp_path / "x.json"
    result = run("generate", specialist_folders["math"], "hi", "--max-new-tokens", "4", "--json", target)
    assert result.exit_code == 0, result.output
    data = json.loads(target.read_text())
    assert data["specialists"] == ["math"]
    assert data["gate_trained"] is True
    assert "untrained" not in result.output


def test_gate_only_model_finds_its_specialists(run, specialist_folders, chat_templates, tiny_tokenizer, tmp_path):
    import shutil

    from ultrafuser.modeling import UltraFuserForCausalLM, save_fused

    moved = {name: shutil.copytree(folder, tmp_path / "parts" / name) for name, folder in specialist_folders.items()}
    model = UltraFuserForCausalLM.from_specialists(moved, templates=chat_templates)
    save_fused(model, tiny_tokenizer, tmp_path / "gate", gate_only=True)
    before = run("generate", tmp_path / "gate", "hi", "--max-new-tokens", "4")
    assert before.exit_code == 0, before.output
    shutil.move(tmp_path / "parts" / "code", tmp_path / "elsewhere")
    lost = run("generate", tmp_path / "gate", "hi", "--max-new-tokens", "4")
    assert lost.exit_code == 2
    assert "specialists.code" in lost.stderr
    place = f"code={tmp_path / 'elsewhere'}"
    found = run("generate", tmp_path / "gate", "hi", "--max-new-tokens", "4", "--specialist-path", place)
    assert found.stdout == before.stdout
    for file in (tmp_path / "gate").glob("tokenizer*"):
        file.unlink()
    borrowed = run("generate", tmp_path / "gate", "hi", "--max-new-tokens", "4", "--specialist-path", place)
    assert borrowed.stdout == before.stdout  # in the tokenizer of its first specialist


def test_number_format_and_quantisation(run, fused_folder, specialist_folders, tmp_path):
    said = {}
    for options in ((), ("--dtype", "bfloat16"), ("--quantise", "int8"), ("--dtype", "bfloat16", "--quantise", "int4")):
        for model in (fused_folder, specialist_folders["text"]):
            result = run("generate", model, "hello", "--max-new-tokens", 8, "--device", "cpu", *options)
            assert result.exit_code == 0, result.output
            said.setdefault(model, []).append(result.stdout)
    assert all(len(set(answers)) > 1 for answers in said.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "float7"), "--dtype: 'float7' is no number format for weights; choose float32"),
        (("--quantise", "int3"), "--quantise: 'int3' is not one of int4, int8"),
        (("--quantise", "int4", "--dtype", "float32"), "--quantise: int4 computes in bfloat16"),
        (("--device", "cuda:93"), "--device: 'cuda:93' is not on this machine"),
        (("--device", "gpu"), "--device: "),
    ],
)
def test_bad_formats_and_devices_are_one_line(run, fused_folder, options, message):
    result = run("generate", fused_folder, "hello", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def token(text, weights=(0.9, 0.1)):
    return TokenEvent(5, text, weights, -0.1)


def test_terminal_gets_colour_and_a_file_does_not(tmp_path):
    for terminal, expected in ((True, "\x1b[38;2;"), (False, "hello")):
        with (tmp_path / "out").open("w+") as file:
            console = Console(file=file, force_terminal=terminal, color_system="truecolor" if terminal else None)
            TokenPrinter(console).write(token("hello"))
            file.seek(0)
            shown = file.read()
        assert shown.startswith(expected)
        assert "hello" in shown


def test_no_color_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    with (tmp_path / "out").open("w+") as file:
        TokenPrinter(Console(file=file, force_terminal=True)).write(token("hello"))
        file.seek(0)
        assert file.read() == "hello"


def test_answer_cannot_steer_the_terminal():
    assert terminal_safe("a\x1b[2Jb\x07\r\x9b\x7f\n\tö🦊") == "a␛[2Jb␇␍\ufffd␡\n\tö🦊"
