"""The fused model against a float64 loop over plain Transformers models."""

import pytest
import torch

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.gate import normalise


def _training_batch(examples, answers):
    """Single-turn examples [example][specialist][ids] with answers [example][ids] as the training form."""
    n = len(examples[0])
    T = max(len(p) + len(a) for e, a in zip(examples, answers, strict=True) for p in e)
    R = max(len(a) for a in answers)
    batch = {
        "sequence_ids": torch.full((len(examples), n, T), 2),
        "sequence_mask": torch.zeros(len(examples), n, T, dtype=torch.long),
        "response_index": torch.zeros(len(examples), n, R, dtype=torch.long),
        "labels": torch.full((len(examples), R), -100),
    }
    for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        batch["labels"][i, : len(answer)] = torch.tensor(answer)
        for j, prompt in enumerate(example):
            ids = prompt + answer
            batch["sequence_ids"][i, j, : len(ids)] = torch.tensor(ids)
            batch["sequence_mask"][i, j, : len(ids)] = 1
            batch["response_index"][i, j, : len(answer)] = torch.arange(len(answer)) + len(prompt) - 1
    return batch


ANSWERS = [[20, 31, 42, 53, 1], [64, 75, 1], [86, 97, 108, 1]]


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_generation_form_equals_the_loop(fused_model, specialist_folders, reference, unequal_prompts, rule):
    fused_model.config.fusion["rule"] = rule
    truth = reference(specialist_folders.values(), fused_model)
    answer = [20, 31, 42, 53]
    inputs = fused_model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer] * 3)], dim=1)
    inputs["attention_mask"] = None
    with torch.no_grad():
        output = fused_model(**inputs)
    assert output.logits.dtype == torch.float32
    assert output.logits.shape == (3, P + 4, fused_model.config.vocab_size)
    for i, example in enumerate(unequal_prompts):
        sequences = [prompt + answer for prompt in example]
        positions = [range(len(prompt) - 1, len(prompt) + 4) for prompt in example]
        logits, weights = truth.logits(sequences, positions, rule)
        assert (output.logits[i, P - 1 :] - logits).abs().max() < 1e-4
        assert (output.gate_weights[i, P - 1 :] - weights).abs().max() < 1e-5


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_training_form_equals_the_loop(fused_model, specialist_folders, reference, unequal_prompts, rule):
    fused_model.config.fusion["rule"] = rule
    truth = reference(specialist_folders.values(), fused_model)
    batch = _training_batch(unequal_prompts, ANSWERS)
    output = fused_model(**batch, return_logits=True)
    total = 0.0
    for i, (example, answer) in enumerate(zip(unequal_prompts, ANSWERS, strict=True)):
        sequences = [prompt + answer for prompt in example]
        positions = [range(len(prompt) - 1, len(prompt) - 1 + len(answer)) for prompt in example]
        logits, weights = truth.logits(sequences, positions, rule)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none")
        assert (output.logits[i, : len(answer)] - logits).abs().max() < 1e-4
        assert (output.gate_weights[i, : len(answer)] - weights).abs().max() < 1e-5
        assert (output.token_loss[i, : len(answer)] - loss).abs().max() < 1e-4
        assert output.token_loss[i, len(answer) :].abs().sum() == 0
        assert output.gate_weights[i, len(answer) :].abs().sum() == 0
        total += loss.sum()
    assert output.loss.item() == pytest.approx(total.item() / sum(map(len, ANSWERS)), abs=1e-5)


def test_training_form_of_a_conversation_with_several_turns(fused_model, specialist_folders, reference):
    """Each specialist's own text stands between the shared answers; only the answers count."""
    truth = reference(specialist_folders.values(), fused_model)
    turns = [[[5, 6, 7], [8, 9]], [[10], [11, 12, 13, 14]], [[15, 16, 17, 18, 19, 20], [21]]]  # [specialist][turn]
    answers = [[31, 32, 1], [33, 1]]
    sequences, positions = [], []
    for prefix in turns:
        ids, where = [], []
        for own, answer in zip(prefix, answers, strict=True):
            ids += own
            where += range(len(ids) - 1, len(ids) - 1 + len(answer))
            ids += answer
        sequences.append(ids)
        positions.append(where)
    longest = max(map(len, sequences))
    output = fused_model(
        sequence_ids=torch.tensor([[ids + [2] * (longest - len(ids)) for ids in sequences]]),
        sequence_mask=torch.tensor([[[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]]),
        response_index=torch.tensor([positions]),
        labels=torch.tensor([[31, 32, 1, 33, 1]]),
        return_logits=True,
    )
    logits, _ = truth.logits(sequences, positions)
    assert (output.logits[0] - logits).abs().max() < 1e-4


def test_plain_form_is_one_prompt_for_all(fused_model, specialist_folders, reference):
    """Without prompt_ids every specialist reads input_ids, left padding and positions as in Transformers."""
    truth = reference(specialist_folders.values(), fused_model)
    rows = [[5, 6, 7, 8, 9], [10, 11]]
    input_ids = torch.tensor([rows[0], [2, 2, 2, *rows[1]]])
    mask = torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    output = fused_model(input_ids=input_ids, attention_mask=mask, position_ids=positions)
    for i, row in enumerate(rows):
        logits, _ = truth.logits([row] * 3, [range(len(row))] * 3)
        assert (output.logits[i, -len(row) :] - logits).abs().max() < 1e-4
    last = fused_model(input_ids=input_ids, attention_mask=mask, position_ids=positions, logits_to_keep=2)
    assert last.gate_weights.shape == (2, 2, 3)
    assert (last.logits - output.logits[:, -2:]).abs().max() < 1e-5


def test_cached_greedy_equals_recomputation_token_for_token(
    fused_model, specialist_folders, reference, unequal_prompts
):
    fused_model.generation_config.eos_token_id = None
    truth = reference(specialist_folders.values(), fused_model)
    inputs = fused_model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 24, "do_sample": False}
    cached = fused_model.generate(**inputs, **options)[:, P:]
    recomputed = fused_model.generate(**inputs, **options, use_cache=False)[:, P:]
    assert cached.tolist() == recomputed.tolist()
    assert cached.tolist() == [truth.greedy(example, 24) for example in unequal_prompts]
    assert len({token for row in cached.tolist() for token in row}) > 10  # not a path that nothing could get wrong


def test_step_by_step_logits_equal_one_pass(fused_model, unequal_prompts):
    inputs = fused_model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    answer = torch.tensor([[20, 31, 42], [64, 75, 86], [97, 98, 99]])
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], answer], 1), "attention_mask": None}
    with torch.no_grad():
        expected = fused_model(**whole).logits[:, P - 1 :]
        step = fused_model(**inputs, use_cache=True, logits_to_keep=1)
        got, prompts = [step.logits], {k: inputs[k] for k in ("prompt_ids", "prompt_mask")}
        for column in answer.split(1, dim=1):
            step = fused_model(input_ids=column, past_key_values=step.past_key_values, **prompts)
            got.append(step.logits)
    assert step.past_key_values.get_seq_length() == P + 3
    assert (torch.cat(got, 1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["text", "code"])
def test_one_specialist_alone_equals_it(specialist_folders, name):
    from transformers import AutoModelForCausalLM

    folder = specialist_folders[name]
    plain, fused = (
        AutoModelForCausalLM.from_pretrained(folder),
        UltraFuserForCausalLM.from_specialists({"only": folder}),
    )
    input_ids = torch.tensor([[5, 6, 7, 8], [2, 2, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    with torch.no_grad():
        assert (fused(input_ids=input_ids).logits - plain(input_ids=input_ids).logits).abs().max() < 1e-6
        labels = torch.tensor([[5, 6, 7, 8], [-100, -100, 9, 10]])
        for items in (None, 7):
            theirs = plain(input_ids=input_ids, labels=labels, num_items_in_batch=items).loss
            ours = fused(input_ids=input_ids, labels=labels, num_items_in_batch=items).loss
            assert torch.allclose(theirs, ours, atol=1e-6)
    for options in ({"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        options |= {"max_new_tokens": 15, "attention_mask": mask, "pad_token_id": 2}
        assert fused.generate(input_ids, **options).tolist() == plain.generate(input_ids, **options).tolist()
    prompts = fused.prepare_prompts([[[5, 6, 7, 8]], [[9, 10]]])
    options = {"max_new_tokens": 15, "do_sample": False, "pad_token_id": 2}
    ours = fused.generate(**prompts, **options)
    assert ours.tolist() == plain.generate(input_ids, attention_mask=mask, **options).tolist()


def test_training_form_and_generation_form_give_one_loss(fused_model, unequal_prompts):
    example, answer = unequal_prompts[0], [20, 31, 42, 53, 1]
    inputs = fused_model.prepare_prompts([example])
    P = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    inputs["attention_mask"] = None
    labels = torch.tensor([[-100] * P + answer])
    trained = fused_model(**_training_batch([example], [answer])).loss
    for form in (
        {"labels": labels},
        {"labels": labels, "return_logits": False},
        {"shift_labels": torch.tensor([[-100] * (P - 1) + [*answer, -100]])},
    ):
        assert torch.allclose(fused_model(**inputs, **form).loss, trained, atol=1e-5)


def test_gradient_by_a_specialists_logits_is_the_gate_weight_times_the_error():
    """d loss / d o_j = w_j (p - y), in float64 (Ding et al., ACL 2025, section 3.2)."""
    from ultrafuser.modeling.fusion import mix_logits

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 11, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = normalise(torch.randn(4, 3, dtype=torch.float64, generator=generator))
    labels = torch.tensor([1, 5, 0, 10])
    fused = mix_logits(weights, logits)
    torch.nn.functional.cross_entropy(fused, labels, reduction="sum").backward()
    error = fused.detach().softmax(-1) - torch.nn.functional.one_hot(labels, 11)
    expected = weights[:, :, None] * error[:, None, :]
    assert (logits.grad - expected).abs().max() < 1e-12


def test_gradient_through_the_whole_model_is_the_gate_weight_times_the_error(fused_model, unequal_prompts):
    """The same identity measured on the model itself: head biases added to specialist j receive w_j (p - y)."""
    model = fused_model.double()
    for specialist in model.specialists:
        specialist.requires_grad_(False)
        specialist.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size, dtype=torch.float64))
    batch = _training_batch(unequal_prompts[:1], ANSWERS[:1])
    output = model(**batch, return_logits=True, num_items_in_batch=1)
    output.loss.backward()
    error = output.logits[0].softmax(-1) - torch.nn.functional.one_hot(
        torch.tensor(ANSWERS[0]), output.logits.shape[-1]
    )
    for j, specialist in enumerate(model.specialists):
        expected = (output.gate_weights[0, :, j : j + 1] * error).sum(0)
        assert (specialist.lm_head.bias.grad - expected).abs().max() < 1e-12


def test_forcing_one_specialist_gives_that_specialist(fused_model, specialist_folders, unequal_prompts):
    from transformers import AutoModelForCausalLM

    batch = _training_batch(unequal_prompts, ANSWERS)
    for j, folder in enumerate(specialist_folders.values()):
        plain = AutoModelForCausalLM.from_pretrained(folder)
        one_hot = [float(k == j) for k in range(3)]
        output = fused_model(**batch, gate_weights=one_hot, return_logits=True)
        for i, (example, answer) in enumerate(zip(unequal_prompts, ANSWERS, strict=True)):
            own = plain(torch.tensor([example[j] + answer])).logits[0, len(example[j]) - 1 : -1]
            assert (output.logits[i, : len(answer)] - own).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 3), (3, 5, 3)])
def test_uniform_weights_in_every_shape(fused_model, unequal_prompts, shape):
    batch = _training_batch(unequal_prompts, ANSWERS)
    output = fused_model(**batch, gate_weights=torch.full(shape, 1 / 3), return_logits=True)
    alone = [fused_model(**batch, gate_weights=list(row), return_logits=True).logits for row in torch.eye(3).tolist()]
    assert (output.logits - sum(alone) / 3).abs().max() < 1e-5
    assert output.gate_weights[batch["labels"] != -100].unique().tolist() == pytest.approx([1 / 3])


def test_forced_weights_of_each_position_stay_at_their_position(fused_model, unequal_prompts):
    batch = _training_batch(unequal_prompts, ANSWERS)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 3, (3, 5), generator=generator)
    one_hot = torch.nn.functional.one_hot(chosen, 3).float()
    output = fused_model(**batch, gate_weights=one_hot, return_logits=True)
    alone = [fused_model(**batch, gate_weights=list(row), return_logits=True).logits for row in torch.eye(3).tolist()]
    for i, answer in enumerate(ANSWERS):
        for r in range(len(answer)):
            assert torch.allclose(output.logits[i, r], alone[chosen[i, r]][i, r], atol=1e-5)
    inputs = fused_model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    chosen = torch.nn.functional.one_hot(torch.randint(0, 3, (3, P), generator=generator), 3).float()
    whole = fused_model(**inputs, gate_weights=chosen)
    last = fused_model(**inputs, gate_weights=chosen, logits_to_keep=2)
    assert torch.equal(whole.gate_weights, chosen)
    assert torch.allclose(last.logits, whole.logits[:, -2:], atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], r"gate_weights: shape \(2,\), expected \(3,\)"),
        ([0.5, 0.5, 0.5], "sum to 1"),
        ([1.5, -0.5, 0.0], "at least 0"),
        ([float("nan"), 0.5, 0.5], "at least 0"),
        (torch.full((2, 3), 1 / 3), r"shape \(2, 3\)"),
    ],
)
def test_bad_forced_weights_are_named(fused_model, weights, message):
    with pytest.raises(ValueError, match=message):
        fused_model(input_ids=torch.tensor([[5, 6]]), gate_weights=weights)


def test_top_k_keeps_the_largest_and_renormalises(fused_model):
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    expected = torch.tensor([[0, 3.0, 2.0], [0.0, -1.0, 0]]).exp() * torch.tensor([[0, 1, 1], [1, 1, 0]])
    expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(normalise(scores, top_k=2), expected, atol=1e-6)
    assert torch.equal(normalise(scores, top_k=3), normalise(scores))
    full = fused_model(input_ids=torch.tensor([[5, 6, 7]])).gate_weights
    fused_model.config.fusion["top_k"] = 1
    hard = fused_model(input_ids=torch.tensor([[5, 6, 7]])).gate_weights
    assert torch.equal(hard, torch.nn.functional.one_hot(full.argmax(-1), 3).float())


def test_probability_mixture_by_hand():
    """Weights 0.25 and 0.75 on distributions (0.8, 0.2) and (0.4, 0.6) give (0.5, 0.5)."""
    from ultrafuser.modeling.fusion import mix_logits, mix_probabilities

    logits = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log() + torch.tensor([[3.0], [-2.0]])  # shifts do not matter
    weights = torch.tensor([0.25, 0.75])
    assert torch.allclose(mix_probabilities(weights, logits).exp(), torch.tensor([0.5, 0.5]), atol=1e-6)
    # The logit mixture is the normalised geometric mean: 0.8^.25 0.4^.75 against 0.2^.25 0.6^.75.
    first, second = 0.8**0.25 * 0.4**0.75, 0.2**0.25 * 0.6**0.75
    expected = torch.tensor([first, second]) / (first + second)
    assert torch.allclose(mix_logits(weights, logits).softmax(-1), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_ids": torch.ones(3, 2, 4, dtype=torch.long)}, r"sequence_ids: shape \(3, 2, 4\), expected"),
        ({"response_index": None}, "response_index: missing"),
        ({"response_index": torch.zeros(3, 2, 5, dtype=torch.long)}, "response_index: shape"),
        ({"labels": torch.zeros(3, 4, dtype=torch.long)}, r"labels: shape \(3, 4\), expected \(3, 5\)"),
        ({"input_ids": torch.ones(3, 2, dtype=torch.long)}, "either input_ids .* or sequence_ids"),
        ({"sequence_ids": None}, "either input_ids .* or sequence_ids"),
    ],
)
def test_wrong_training_inputs_are_named(fused_model, unequal_prompts, change, message):
    with pytest.raises(ValueError, match=message):
        fused_model(**(_training_batch(unequal_prompts, ANSWERS) | change))


def test_labels_and_positions_out_of_range_are_named(fused_model, unequal_prompts):
    batch = _training_batch(unequal_prompts, ANSWERS)
    labels = batch["labels"].clone()
    labels[1, 0] = 300
    with pytest.raises(ValueError, match="labels: token ids 1 to 300, but the fused vocabulary has 300 tokens"):
        fused_model(**(batch | {"labels": labels}))
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="labels: token ids -1 to 7"):
        fused_model(input_ids=ids, labels=torch.tensor([[5, -1, 7]]))
    index = batch["response_index"].clone()
    index[1, 1, 0] = 8  # specialist 1 has 2 + 3 tokens in example 1
    with pytest.raises(ValueError, match="response_index: points outside"):
        fused_model(**(batch | {"response_index": index}))


def test_left_padded_sequences_and_unknown_arguments_are_refused(fused_model, unequal_prompts):
    batch = _training_batch(unequal_prompts, ANSWERS)
    with pytest.raises(ValueError, match="padding must stand on the right"):
        fused_model(**(batch | {"sequence_mask": batch["sequence_mask"].flip(-1)}))
    with pytest.raises(TypeError, match="unknown argument 'gate_weight'"):
        fused_model(**batch, gate_weight=[1, 0, 0])
    with pytest.raises(ValueError, match="prompt_ids and prompt_mask go together"):
        fused_model(input_ids=torch.ones(1, 2, dtype=torch.long), prompt_ids=torch.ones(1, 3, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no example"),
        ([[[5], [6]]], r"prompts\[0\]: 2 prompts for 3 specialists"),
        ([[[5], [6], []]], r"prompts\[0\]\[2\]: empty"),
    ],
)
def test_wrong_prompts_are_named(fused_model, prompts, message):
    with pytest.raises(ValueError, match=message):
        fused_model.prepare_prompts(prompts)
