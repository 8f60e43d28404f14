"""Decoding across tokenizers against plain models one by one, and a mixture over byte strings made by hand."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ultrafuser.generation.crossing import check_generation_config, decode, row_weights
from ultrafuser.generation.sampling import Sampling
from ultrafuser.modeling.configuration import Group
from ultrafuser.modeling.gate import build_gate, normalise
from ultrafuser.modeling.head import build_head
from ultrafuser.tokens import Alignment, TokenTable

TEXTS = (
    "hello", "def f(x):", "the quick", "数学 \U0001f98a", "x = 1\n", "aé", "12 + 30", "Überraschung in the tree",
    "print", "violets", "for i in", "return",
)  # fmt: skip
STEPS = 40


class Fused:
    """What decoding needs of a fused model, around plain models."""

    device = torch.device("cpu")

    def __init__(self, folders, dtype=torch.float32):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
        self.specialists = [AutoModelForCausalLM.from_pretrained(folder, dtype=dtype) for folder in folders]
        sizes = [model.config.vocab_size for model in self.specialists]
        self.alignment = Alignment([TokenTable(t, size) for t, size in zip(self.tokenizers, sizes, strict=True)])
        self.heads = [build_head(model, size) for model, size in zip(self.specialists, sizes, strict=True)]
        self.n_specialists = len(folders)
        for j, model in enumerate(self.specialists):
            setattr(self, f"specialist{j}", model)
        self.config = SimpleNamespace(groups=[Group(f"specialist{j}", (j,)) for j in range(self.n_specialists)])
        widths = [model.config.hidden_size for model in self.specialists]
        self.gate = build_gate({"type": "token", "hidden_size": 16, "seed": 3}, widths)
        self.gate.reset_parameters(3)
        with torch.no_grad():
            self.gate.outer.weight.mul_(8)

    def _weigh(self, hidden):
        return normalise(self.gate(hidden))

    def prompts(self, texts=TEXTS):
        return [[t(f"[INST] {text} [/INST]", add_special_tokens=False)["input_ids"] for t in self.tokenizers]
                for text in texts]  # fmt: skip


@pytest.fixture(scope="module")
def fused(tongue_folders):
    return Fused(list(tongue_folders.values()))


def run(fused, prompts, weights=None, plain=False, limit=256, **settings):
    """The steps of every row."""
    settings = {"max_new_tokens": STEPS} | settings
    given = None if weights is None else row_weights(weights, len(prompts), fused)
    found = [[] for _ in prompts]
    for step in decode(fused, prompts, Sampling(**settings), limit=limit, gate_weights=given, plain=plain):
        for chosen in step:
            found[chosen.row].append(chosen)
    return found


def said(fused, steps):
    return fused.alignment.tables[0].bytes_of(i for chosen in steps for i in chosen.ids)


# ---- one specialist alone ----


@pytest.mark.parametrize("j", [0, 1])
@pytest.mark.parametrize(("batch", "texts"), [(1, TEXTS[3:7]), (len(TEXTS), TEXTS)])
def test_all_weight_on_one_is_that_models_own_greedy_output_byte_for_byte(fused, j, batch, texts):
    prompts = fused.prompts(texts)
    weights = torch.nn.functional.one_hot(torch.tensor(j), 2).float()
    found = [
        steps
        for start in range(0, len(prompts), batch)
        for steps in run(fused, prompts[start : start + batch], weights)
    ]
    model, own_ids = fused.specialists[j], fused.alignment.to_union[j]
    partial = 0
    for prompt, steps in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt[j]])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=STEPS,
            suppress_tokens=np.flatnonzero(own_ids == -1).tolist(),
        )[0, ids.shape[1]:].tolist()  # fmt: skip
        own = fused.alignment.tables[j].bytes_of(out)
        assert said(fused, steps) == own
        assert len(steps) == len(out)
        assert steps[-1].last
        partial += "�" in own.decode(errors="replace")
    assert partial > 1


@pytest.mark.parametrize("j", [0, 1])
def test_all_weight_on_one_samples_that_models_own_tokens(fused, j):
    """Whatever is drawn, the specialist's stream stays the tokens it said, and its probabilities stay its own."""
    prompts = fused.prompts(TEXTS[:4])
    weights = torch.nn.functional.one_hot(torch.tensor(j), 2).float()
    for prompt, steps in zip(prompts, run(fused, prompts, weights, temperature=1.0, seed=5), strict=True):
        assert not any(chosen.retokenised[j] for chosen in steps)
        own, back = list(prompt[j]), fused.alignment.from_union[j]
        for chosen in steps:
            text = fused.alignment.tables[0].bytes_of(chosen.ids)
            with torch.no_grad():
                logprobs = fused.specialists[j](torch.tensor([own])).logits[0, -1].log_softmax(-1)
            ids = [
                int(back[u]) for u in range(fused.alignment.size) if fused.alignment.text(u) == text and back[u] >= 0
            ]
            ids = ids if text else [int(fused.alignment.eos[j][0])]
            nearest = min(ids, key=lambda i: abs(float(logprobs[i]) - chosen.logprob))  # a piece and a byte piece
            assert chosen.logprob == pytest.approx(float(logprobs[nearest]), abs=1e-3)
            own.append(nearest)


# ---- the mixture ----


class ByHand:
    """The slow truth: float64, everything from the beginning, strings and their probabilities in a dictionary."""

    def __init__(self, folders, fused):
        self.fused = Fused(folders, dtype=torch.float64)
        self.gate = {name: value.double() for name, value in fused.gate.state_dict().items()}
        self.keys = [self._keys(t) for t in self.fused.tokenizers]

    @staticmethod
    def _keys(tokenizer):
        """(bytes, how many tokens before it are the same) by id, None for the end; special tokens are left out."""
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        shown = {character: byte for byte, character in bytes_to_unicode().items()}
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[0].startswith("<0x"), item[1]))
        byte_pieces, seen, keys = "<0x41>" in dict(pieces), Counter(), {}
        for piece, i in pieces:
            if piece in tokenizer.all_special_tokens:
                if i == tokenizer.eos_token_id:
                    keys[i] = None
                continue
            if not byte_pieces:
                text = bytes(shown[character] for character in piece)
            elif piece.startswith("<0x"):
                text = bytes([int(piece[3:5], 16)])
            else:
                text = piece.replace("▁", " ").encode()
            keys[i] = (text, seen[text])
            seen[text] += 1
        return keys

    @torch.no_grad()
    def step(self, sequences):
        """Probability of each string, the gate's weights, each model's own probabilities of its strings."""
        scores, own = [], []
        for j, (model, ids) in enumerate(zip(self.fused.specialists, sequences, strict=True)):
            output = model(torch.tensor([ids]), output_hidden_states=True)
            hidden = output.hidden_states[-1][0, -1]
            projection = self.gate.get(f"projections.{j}.weight")
            hidden = hidden if projection is None else projection @ hidden
            inner = (self.gate["inner.weight"] @ hidden + self.gate["inner.bias"]).clamp_min(0)
            scores.append((self.gate["outer.weight"] @ inner)[0])
            chances = output.logits[0, -1].softmax(-1).tolist()
            own.append({key: chances[i] for i, key in self.keys[j].items()})
        weights = torch.stack(scores).softmax(-1).tolist()
        mixed = Counter()
        for weight, chances in zip(weights, own, strict=True):
            for key, chance in chances.items():
                mixed[key] += weight * chance
        return mixed, weights, own

    def greedy(self, prompts, steps):
        """(string, log probability, weights) of each step."""
        answer, streams, found = b"", [list(ids) for ids in prompts], []
        for _ in range(steps):
            mixed, weights, own = self.step(streams)
            key = max(mixed, key=mixed.get)
            found.append((key and key[0], np.log(mixed[key]), weights))
            if key is None:
                break
            answer += key[0]
            shares = [w * chances.get(key, -1) for w, chances in zip(weights, own, strict=True)]
            for j, chances in enumerate(own):
                ids = {k: i for i, k in self.keys[j].items()}
                if max(chances, key=chances.get) == key or shares[j] == max(shares):
                    streams[j].append(ids[key])
                else:
                    streams[j] = [*prompts[j], *self.fused.alignment.tables[j].encode(answer)]
        return found


@pytest.fixture(scope="module")
def by_hand(tongue_folders, fused):
    return ByHand(list(tongue_folders.values()), fused)


def test_greedy_mixture_equals_the_one_made_by_hand(fused, by_hand):
    prompts = fused.prompts(TEXTS[:4])
    for prompt, steps in zip(prompts, run(fused, prompts), strict=True):
        expected = by_hand.greedy(prompt, STEPS)
        assert [said(fused, [chosen]) for chosen in steps] == [text or b"" for text, _, _ in expected]
        for chosen, (_, logprob, weights) in zip(steps, expected, strict=True):
            assert chosen.logprob == pytest.approx(logprob, abs=1e-3)
            assert chosen.weights == pytest.approx(weights, abs=1e-3)


def test_fast_decoding_equals_the_slow_reference(fused):
    prompts = fused.prompts(TEXTS[1:8])
    fast, slow = run(fused, prompts), run(fused, prompts, plain=True)
    assert [[chosen.ids for chosen in steps] for steps in fast] == [[chosen.ids for chosen in steps] for steps in slow]
    flat = [chosen for steps in fast for chosen in steps]
    for a, b in zip(flat, (chosen for steps in slow for chosen in steps), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert a.weights == pytest.approx(b.weights, abs=1e-4)
        assert (a.took_part, a.retokenised) == (b.took_part, b.retokenised)
    # The test means something only where all of this came up.
    for j in range(2):
        assert any(chosen.retokenised[j] for chosen in flat)
        assert any(not chosen.took_part[j] for chosen in flat)
    assert any(len(chosen.ids) > 1 for chosen in flat)


def test_steps_that_only_take_part_say_so(fused):
    for chosen in (chosen for steps in run(fused, fused.prompts(TEXTS[:5])) for chosen in steps):
        text = fused.alignment.tables[0].bytes_of(chosen.ids)
        if chosen.ids == [fused.alignment.end]:
            assert chosen.took_part == (True, True)
            continue
        for table, part in zip(fused.alignment.tables, chosen.took_part, strict=True):
            assert not part or text in table.ids


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.6}, {"temperature": 0.7, "top_k": 5}, {"temperature": 1.2, "top_p": 0.6}]
)
def test_one_sampled_step_follows_the_mixture_made_by_hand(fused, by_hand, settings):
    (prompt,) = fused.prompts(["def f(x):"])
    mixed, _, _ = by_hand.step(prompt)
    keys = sorted(mixed, key=mixed.get, reverse=True)
    settings = {"temperature": 1.0} | settings
    chances = np.array([mixed[key] for key in keys]) ** (1 / settings["temperature"])
    chances = chances[: settings.get("top_k")] / chances[: settings.get("top_k")].sum()
    if "top_p" in settings:
        chances = chances[: int(np.searchsorted(chances.cumsum(), settings["top_p"])) + 1]
        chances /= chances.sum()
    expected = Counter()
    for key, chance in zip(keys, chances, strict=False):
        expected[b"" if key is None else key[0]] += chance
    draws = 2500
    steps = run(fused, [prompt] * draws, max_new_tokens=1, seed=1, **settings)
    counts = Counter(said(fused, own) for own in steps)
    assert set(counts) <= set(expected)
    distance = sum(abs(counts[text] / draws - chance) for text, chance in expected.items()) / 2
    noise = sum(np.sqrt(chance * (1 - chance) / draws) for chance in expected.values()) / 2
    assert distance < 1.3 * noise


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(fused):
    prompts = fused.prompts(TEXTS[:3])
    first, again, other = (
        [[c.ids for c in steps] for steps in run(fused, prompts, temperature=1.0, seed=seed)] for seed in (4, 4, 5)
    )
    assert first == again != other


# ---- ends ----


@pytest.mark.parametrize("j", [0, 1])
def test_stops_at_any_specialists_end(tongue_folders, fused, j):
    prompts = fused.prompts(TEXTS[:4])
    weights = torch.nn.functional.one_hot(torch.tensor(j), 2).float()
    free = run(fused, prompts, weights)
    string = next(text for chosen in free[0][4:] if len(text := said(fused, [chosen])) > 1)
    stopping = Fused(list(tongue_folders.values()))
    aligned, token = stopping.alignment, stopping.alignment.tables[j].ids[string]
    aligned.from_union[j][aligned.to_union[j][token]] = -1
    aligned.to_union[j][token] = aligned.end  # as if the specialist had two tokens that end an answer
    for before, steps in zip(free, run(stopping, prompts, weights), strict=True):
        strings = [said(fused, [chosen]) for chosen in before]
        place = strings.index(string) if string in strings else None
        if place is not None:
            assert [said(stopping, [chosen]) for chosen in steps] == [*strings[:place], b""]
            assert steps[-1].ids == [stopping.alignment.end]
    assert said(stopping, run(stopping, prompts[:1], weights)[0]) + string in said(fused, free[0])


def test_every_row_ends_where_its_own_context_ends(fused):
    prompts = fused.prompts(["x", "x y z " * 10, "a longer text than the others " * 4])
    limit = max(len(ids) for prompt in prompts for ids in prompt) + 12
    together = run(fused, prompts, limit=limit, max_new_tokens=999)
    alone = [run(fused, [prompt], limit=limit, max_new_tokens=999)[0] for prompt in prompts]
    assert [[c.ids for c in steps] for steps in together] == [[c.ids for c in steps] for steps in alone]
    for prompt, steps in zip(prompts, together, strict=True):
        answer = said(fused, steps)
        longest = max(
            len(ids) + len(table.encode(answer)) for ids, table in zip(prompt, fused.alignment.tables, strict=True)
        )
        assert steps[-1].ids == [fused.alignment.end] or longest >= limit - 6
        assert 1 <= len(steps) <= limit


def test_bytes_that_one_specialist_cannot_read_are_never_said(tongue_folders, fused):
    banned = Fused(list(tongue_folders.values()))
    for table in banned.alignment.tables:
        table.ids = {text: i for text, i in table.ids.items() if text != b"\xff"}
    settings = {"temperature": 3.0, "seed": 1}
    weights = (0.5, 0.5)
    assert any(b"\xff" in said(fused, steps) for steps in run(fused, fused.prompts() * 3, weights, **settings))
    assert not any(b"\xff" in said(banned, steps) for steps in run(banned, banned.prompts() * 3, weights, **settings))


def test_settings_that_work_on_token_ids_are_refused():
    from transformers import GenerationConfig

    check_generation_config(GenerationConfig(bos_token_id=0, eos_token_id=[1, 2], pad_token_id=3))
    with pytest.raises(ValueError, match=r"generation_config\.repetition_penalty: 3\.0 is not supported where"):
        check_generation_config(GenerationConfig(repetition_penalty=3.0))


def test_wrong_weights_are_refused(fused):
    with pytest.raises(ValueError, match=r"gate_weights: shape \(3,\)"):
        row_weights((0.2, 0.3, 0.5), 1, fused)
