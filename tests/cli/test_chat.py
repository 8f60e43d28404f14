"""`ultrafuser chat` through a pipe and through a real terminal."""

import json
import os
import pty
import re
import select
import signal
import sys
import time

import pytest

from ultrafuser.templates import encode_prompt

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def chat(run, folder, *lines, args=(), tokens=6):
    result = run("chat", folder, "--max-new-tokens", tokens, *args, input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    return result


def talk(run, folder, *lines, args=(), tokens=6):
    """The chat's JSON."""
    target = folder.parent / f"chat-{time.time_ns()}.json"
    chat(run, folder, *lines, args=(*args, "--json", target), tokens=tokens)
    return json.loads(target.read_text(encoding="utf-8"))


def answers(data):
    return [turn["text"] for turn in data["turns"] if turn["role"] == "assistant"]


def test_greeting_legend_and_untrained_gate(run, fused_folder):
    shown = chat(run, fused_folder, "/quit").stdout
    assert "3 specialists fused" in shown
    assert "■ text  ■ code  ■ math" in shown
    assert "untrained gate: The weights come from random numbers (seed 3)" in shown
    assert "/help" in shown


def test_every_specialist_reads_its_own_history(run, fused_folder, monkeypatch):
    """The second answer is the model's answer to the whole conversation in every template."""
    from transformers import AutoTokenizer

    from ultrafuser import UltraFuserForCausalLM

    data = talk(run, fused_folder, "/system be kind", "What is 12 plus 30?", "and then?", "/quit")
    first, second = answers(data)
    model = UltraFuserForCausalLM.from_pretrained(fused_folder)
    tokenizer = AutoTokenizer.from_pretrained(fused_folder)
    history = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "What is 12 plus 30?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and then?"},
    ]
    prompts = encode_prompt(history, model.config.templates, tokenizer)
    assert len({len(prompt) for prompt in prompts}) == 3
    inputs = model.prepare_prompts([prompts])
    out = model.generate(**inputs, do_sample=False, max_new_tokens=6)
    assert second == tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_end_of_input_ends_the_chat(run, fused_folder):
    assert len(answers(talk(run, fused_folder, "hello", "", "   "))) == 1


def test_weights_are_shown_as_line_or_table(run, fused_folder):
    lines = ["/weights", "hi", "/weights table", "hi", "/weights", "hi", "/weights often", "/quit"]
    shown = chat(run, fused_folder, *lines).stdout
    assert "weights are shown as a line" in shown
    assert len(re.findall(r"█ text \d+%  ▒ code \d+%  ░ math \d+%", shown)) == 1
    assert shown.count("of 6 tokens") == 3
    assert "weights are hidden" in shown
    assert "/weights: 'often' is not one of line, off, table" in shown


def test_only_lets_one_speak_until_off(run, fused_folder):
    data = talk(run, fused_folder, "/only math", "hi", "/only off", "/reset", "hi")
    tokens = [t for turn in data["turns"] if turn["role"] == "assistant" for t in turn["tokens"]]
    assert tokens[0]["weights"]["text"] > 0  # the reset forgot the first answer
    data = talk(run, fused_folder, "/only math", "hi")
    assert {t["weights"]["math"] for t in data["turns"][1]["tokens"]} == {1.0}
    shown = chat(run, fused_folder, "/only mth", "/only", "/only math", "/only").stdout
    assert "error: only: 'mth' is not one of code, math, text; did you mean 'math'?" in shown
    assert "all specialists speak" in shown
    assert "only math speaks" in shown


def test_system_prompt_can_be_set_and_removed(run, fused_folder):
    data = talk(run, fused_folder, "/system be kind", "hi")
    assert data["turns"][0] == {"role": "system", "text": "be kind"}
    assert data["system"] == "be kind"
    other = talk(run, fused_folder, "/system be kind", "/system off", "hi")
    assert other["turns"][0]["role"] == "user"
    assert answers(other) == answers(talk(run, fused_folder, "hi")) != answers(data)
    assert answers(talk(run, fused_folder, "hi", args=["--system", "be kind"])) == answers(data)


def test_reset_forgets(run, fused_folder):
    data = talk(run, fused_folder, "one", "/reset", "two")
    assert [turn["text"] for turn in data["turns"] if turn["role"] == "user"] == ["two"]
    assert answers(data) == answers(talk(run, fused_folder, "two"))


def test_temperature_with_a_seed_repeats_the_chat_but_not_the_answer(run, fused_folder):
    lines = ["/temperature 1.5", "hi", "hi"]
    data = talk(run, fused_folder, *lines, args=["--seed", "4"], tokens=12)
    assert answers(data) == answers(talk(run, fused_folder, *lines, args=["--seed", "4"], tokens=12))
    assert data["sampling"]["temperature"] == 1.5
    shown = chat(run, fused_folder, "/temperature", "/temperature warm", "/temperature -1", "/temperature").stdout
    assert shown.count("temperature 0 (most likely token)") == 2
    assert "/temperature: 'warm' is not a number" in shown
    assert "temperature: -1.0 must be 0" in shown


def test_save_writes_page_json_or_text(run, fused_folder, tmp_path):
    files = [tmp_path / name for name in ("a.html", "a.json", "a.txt")]
    lines = ["/system be kind", "hello <b>", *(f"/save {file}" for file in files), "/save", f"/save {tmp_path}"]
    shown = chat(run, fused_folder, *lines).stdout
    page, data, text = (file.read_text(encoding="utf-8") for file in files)
    assert "hello &lt;b&gt;" in page
    assert 'class="t' in page
    assert len(json.loads(data)["turns"]) == 3
    assert text.startswith("system: be kind\n\nuser: hello <b>\n\nassistant: ")
    assert shown.count("saved ") == 3
    assert "/save: name a file" in shown
    assert shown.count("exists already; name another file") == 1


def test_save_replaces_only_what_this_chat_wrote(run, fused_folder, tmp_path):
    mine, chats = tmp_path / "notes.txt", tmp_path / "chat.txt"
    mine.write_text("my notes")
    shown = chat(run, fused_folder, f"/save {mine}", f"/save {chats}", "hello", f"/save {chats}").stdout
    assert mine.read_text() == "my notes"
    assert "exists already" in shown
    assert chats.read_text().startswith("user: hello")


def test_wrong_command_names_the_nearest_and_the_chat_goes_on(run, fused_folder):
    shown = chat(run, fused_folder, "/wieghts", "/", "/help").stdout
    assert "did you mean 'weights'?" in shown
    for name in ("/help", "/weights", "/only", "/system", "/reset", "/temperature", "/save", "/quit"):
        assert f"\n{name}" in shown


def test_a_backslash_goes_on_in_the_next_line(run, fused_folder):
    data = talk(run, fused_folder, "first \\", "second")
    assert data["turns"][0]["text"] == "first \nsecond"


def test_oldest_exchanges_leave_when_the_context_is_full(run, fused_folder):
    long = "x y z " * 60
    result = chat(run, fused_folder, long, long, "short", "y " * 900, "still here")
    assert "(the oldest 1 of 1 exchanges no longer fit and are left out)" in result.stdout
    assert "specialists read 512 at most" in result.stdout
    assert result.stdout.count("error:") == 1


def test_template_that_refuses_is_an_error_line_not_an_end(run, specialist_folders, tiny_tokenizer, tmp_path):
    from ultrafuser.modeling import UltraFuserForCausalLM, save_fused

    picky = "{% if messages | length > 1 %}{{ raise_exception('one question, please') }}{% endif %}"
    picky += "{{ messages[0].content }}"
    model = UltraFuserForCausalLM.from_specialists({"a": specialist_folders["text"]}, templates={"a": picky})
    save_fused(model, tiny_tokenizer, tmp_path / "picky")
    shown = chat(run, tmp_path / "picky", "hi", "hi", "/reset", "hi", "/weights").stdout
    assert shown.count("one question, please") == 1
    assert shown.count("cut off after 6 tokens") == 2
    assert "weights are shown" in shown


# ---- a real terminal ----


class Terminal:
    """The command in a pseudo terminal."""

    def __init__(self, *args):
        self.process, self.fd = pty.fork()
        if self.process == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", OMP_NUM_THREADS="1")
            os.environ.pop("NO_COLOR", None)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in a shell's background
            os.execv(sys.executable, [sys.executable, "-m", "ultrafuser", *map(str, args)])
        self.seen = ""
        self.mark = 0

    def wait_for(self, pattern, seconds=90, nudge=""):
        """Everything up to and including the next match of `pattern`; `nudge` is typed anew every second until then."""
        end = time.monotonic() + seconds
        typed = 0.0
        while True:
            found = re.search(pattern, ANSI.sub("", self.seen[self.mark :]))
            if found:
                shown, self.mark = self.seen[self.mark :], len(self.seen)
                return shown
            if time.monotonic() > end:
                pytest.fail(f"{pattern!r} did not come; seen: {self.seen[-2000:]!r}")
            if nudge and time.monotonic() > typed + 1:
                self.send(nudge)
                typed = time.monotonic()
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")

    def send(self, text):
        """Type."""
        os.write(self.fd, text.encode())

    def close(self):
        """Wait for the end; the exit status."""
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def test_terminal_colours_interrupt_and_quit(fused_folder):
    terminal = Terminal("chat", fused_folder, "--max-new-tokens", "480", "--device", "cpu")
    try:
        greeting = terminal.wait_for("> ")
        assert "\x1b[38;2;47;111;224m■ text" in greeting
        terminal.send("hello\n")
        terminal.wait_for(r"hello\s+\S")
        terminal.send("\x03")
        stopped = terminal.wait_for(r"\(stopped\)[\s\S]*> ")
        assert "Traceback" not in stopped
        # Python's readline misses a Ctrl-C in the instant between showing a prompt and waiting at it: press again.
        assert "/quit or Ctrl-D" in terminal.wait_for(r"ends the chat\.[\s\S]*> ", nudge="\x03")
        terminal.send("/weights\n")
        terminal.wait_for(r"shown as a line[\s\S]*> ")
        terminal.send("/only code\n")
        terminal.wait_for(r"only code speaks[\s\S]*> ")
        terminal.send("hi\n")
        terminal.wait_for(r"hi\s+\S")
        terminal.send("\x03")
        last = terminal.wait_for(r"code 100%[\s\S]*> ")
        assert "\x1b[38;2;210;105;30m" in last  # the colour of the second specialist
        terminal.send("\x04")
        assert terminal.close() == 0
    except BaseException:
        os.kill(terminal.process, 9)
        raise
