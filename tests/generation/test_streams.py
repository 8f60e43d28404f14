"""Token streams that grow unevenly and take tokens back: from the cache as from the beginning, also past a window."""

import random
from types import SimpleNamespace

import pytest
import torch

from ultrafuser.generation.streams import CachedStream, PlainStream, Streams
from ultrafuser.modeling.configuration import Group


def _open(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def _edited(ids, choose, size):
    """The sequence with some last tokens taken back (never the first) and others read after."""
    kept = ids[: max(1, len(ids) - choose.choice([0, 0, 0, 0, 0, 0, 1, 2, 9]))]
    return kept + [choose.randrange(4, size) for _ in range(choose.choice([0, 1, 1, 2, 2, 5]))]


@pytest.mark.parametrize("name", ["code", "text"])
@pytest.mark.parametrize("rows", [1, 4])
def test_cached_streams_equal_plain_ones_through_any_edits(tongue_folders, name, rows):
    model = _open(tongue_folders[name])
    choose = random.Random(rows)
    size = model.config.vocab_size
    sequences = [[choose.randrange(4, size) for _ in range(length)] for length in (5, 1, 11, 3)[:rows]]
    fast, slow = CachedStream(model), PlainStream(model)
    places, longest = list(range(rows)), 0
    with torch.no_grad():
        for step in range(30):
            found, expected = fast.read(places, sequences), slow.read(places, sequences)
            assert found.shape == (len(sequences), model.config.hidden_size)
            assert (found - expected).abs().max() < 1e-4, step
            longest = max(longest, *map(len, sequences))
            places = list(range(len(sequences)))
            if step in (12, 20) and rows > 1:
                del places[step % 3]
            sequences = [_edited(sequences[place], choose, size) for place in places]
    assert longest > 16  # twice the window of the Gemma


def test_nothing_new_gives_the_same_state_again(tongue_folders):
    model = _open(tongue_folders["text"])
    stream = CachedStream(model)
    with torch.no_grad():
        first = stream.read([0, 1], [[5, 6, 7], [8, 9]])
        again = stream.read([0, 1], [[5, 6, 7], [8, 9]])
        shorter = stream.read([0, 1], [[5, 6], [8, 9]])
    assert torch.allclose(first, again, atol=1e-5)
    assert torch.allclose(shorter[0], PlainStream(model).read([0], [[5, 6]])[0], atol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
def test_specialists_of_one_module_are_rows_of_one_pass(tongue_folders, plain):
    code, text = (_open(folder) for folder in tongue_folders.values())
    groups = [Group("shared0", (0, 2)), Group("specialist1", (1,))]
    fused = SimpleNamespace(shared0=code, specialist1=text, config=SimpleNamespace(groups=groups))
    streams = Streams(fused, plain=plain)
    first = [[[5, 6], [7]], [[9], [8, 7, 6]], [[5, 6, 7, 8], [4]]]
    later = [[[7, 11, 12]], [[8, 7, 5]], [[4, 4]]]  # the second example goes on
    widths = []
    code.register_forward_pre_hook(lambda _, args, kwargs: widths.append(1), with_kwargs=True)
    code.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with torch.no_grad():
        for places, sequences in (([0, 1], first), ([1], later)):
            found = streams.read(places, sequences)
            for j, module in enumerate((code, text, code)):
                expected = PlainStream(module).read(places, sequences[j])
                assert torch.allclose(found[j], expected, atol=1e-5)
    assert plain or widths[0] == 4


def test_architectures_that_keep_more_than_keys_and_values_are_read_from_the_beginning():
    from transformers import BambaConfig

    module = SimpleNamespace(config=BambaConfig(num_hidden_layers=2, attn_layer_indices=[1]))
    fused = SimpleNamespace(specialist0=module, config=SimpleNamespace(groups=[Group("specialist0", (0,))]))
    assert isinstance(Streams(fused).streams[0], PlainStream)
