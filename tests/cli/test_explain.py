"""`ultrafuser explain`: the page and the JSON of an answer, a text, a conversation."""

import json
from importlib import util
from pathlib import Path

import pytest

spec = util.spec_from_file_location("page_parser", Path(__file__).parents[1] / "analysis" / "test_page.py")
page_parser = util.module_from_spec(spec)
spec.loader.exec_module(page_parser)


def explain(run, folder, tmp_path, *args):
    page, data = tmp_path / "page.html", tmp_path / "page.json"
    result = run("explain", folder, *args, "--output", page, "--json", data)
    assert result.exit_code == 0, result.output
    return page_parser.Page(page.read_text(encoding="utf-8")), json.loads(data.read_text(encoding="utf-8")), result


def spans(page):
    return [e for e in page.find("span") if e.get("class", "").split()[:1] == ["t"]]


def test_prompt_is_answered_and_explained(run, fused_folder, tmp_path):
    args = ["--prompt", "What is <3>?", "--max-new-tokens", "9"]
    page, data, result = explain(run, fused_folder, tmp_path, *args)
    tokens = data["turns"][-1]["tokens"]
    shown = json.loads(page.find("script", id="data")[0]["text"])
    assert len(tokens) == len(spans(page)) == len(shown["tokens"]) == 9
    assert [t["id"] for t in tokens] == [t["id"] for t in shown["tokens"]]
    assert data["generated"] is True
    assert data["gate_trained"] is False
    assert "Untrained gate." in "".join(e["text"] for e in page.find("b"))
    assert "untrained gate" in result.stdout
    assert data["turns"][0] == {"role": "user", "text": "What is <3>?"}
    assert "of 9 tokens" in result.stdout


def test_weights_of_the_page_are_those_of_the_generation(run, fused_folder, tmp_path):
    options = ["--max-new-tokens", "9", "--json", "-"]
    generated = json.loads(run("generate", fused_folder, "What is 3?", *options).stdout)["answers"][0]["tokens"]
    _, data, _ = explain(run, fused_folder, tmp_path, "--prompt", "What is 3?", "--max-new-tokens", "9")
    for a, b in zip(generated, data["turns"][-1]["tokens"], strict=True):
        assert a["id"] == b["id"]
        assert a["weights"] == pytest.approx(b["weights"], abs=1e-4)
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-3)


def test_given_answer_is_explained_as_given(run, fused_folder, tmp_path):
    page, data, _ = explain(run, fused_folder, tmp_path, "--prompt", "Hi", "--answer", "roses 🦊\n</script>")
    assert data["turns"][-1]["text"] == "roses 🦊\n</script>"
    assert data["generated"] is False
    assert "".join(e["text"] for e in spans(page)).replace("▪", "").replace("↵", "") == "roses 🦊\n</script>"
    token = data["turns"][-1]["tokens"][0]
    assert set(token["specialist_probabilities"]) == {"text", "code", "math"}


def test_text_is_read_without_template(run, fused_folder, tmp_path):
    _, data, _ = explain(run, fused_folder, tmp_path, "--text", "def add(a, b):")
    assert [turn["role"] for turn in data["turns"]] == ["text"]
    assert data["turns"][0]["text"] == "def add(a, b):"
    assert data["nats_per_token"]["fused"] > 0
    assert set(data["nats_per_token"]) == {"fused", "text", "code", "math"}


def test_conversation_from_a_file_has_every_answer_coloured(run, fused_folder, tmp_path):
    messages = [{"role": role, "content": role[0] * 3} for role in ("user", "assistant", "user", "assistant")]
    file = tmp_path / "chat.json"
    file.write_text(json.dumps({"messages": messages}))
    page, data, _ = explain(run, fused_folder, tmp_path, "--messages", file, "--system", "kind")
    assert [turn["role"] for turn in data["turns"]] == ["system", "user", "assistant", "user", "assistant"]
    assert len(page.find("p", **{"class": "tokens"})) == 2
    file.write_text(json.dumps(messages[:3]))
    _, data, _ = explain(run, fused_folder, tmp_path, "--messages", file, "--max-new-tokens", "3")
    assert len(data["turns"][-1]["tokens"]) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing was given to explain"),
        (["--prompt", "x", "--text", "y"], "not --prompt and --text together"),
        (["--answer", "x"], "nothing was given to explain"),
        (["--text", "x", "--answer", "y"], "--answer: needs the --prompt"),
        (["--text", "  "], "--text: it is empty"),
        (["--text", "x", "--system", "y"], "--system: a --text is read without a template"),
        (["--messages", "nowhere.json"], "--messages: file 'nowhere.json' does not exist"),
        (["--text", "x", "--only", "prose"], "only: 'prose' is not one of"),
    ],
)
def test_options_that_do_not_go_together(run, fused_folder, tmp_path, args, message):
    result = run("explain", fused_folder, *args, "--output", tmp_path / "x.html")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "x.html").exists()


def test_other_files_are_not_written_over(run, fused_folder, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my notes</p>")
    result = run("explain", fused_folder, "--text", "hello", "--output", mine)
    assert result.exit_code == 2
    assert "exists and is no page of `ultrafuser explain`" in result.stderr
    assert mine.read_text() == "<p>my notes</p>"
    assert "is a folder" in run("explain", fused_folder, "--text", "x", "--output", tmp_path).stderr
    for _ in range(2):
        assert run("explain", fused_folder, "--text", "hello", "--output", tmp_path / "page.html").exit_code == 0
