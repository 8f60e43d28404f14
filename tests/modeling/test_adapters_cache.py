"""Caches of a group of specialists: n x B rows that move as the rows of the examples do."""

import torch
from transformers import LlamaConfig

from ultrafuser.modeling import SpecialistCache
from ultrafuser.modeling.inputs import Columns
from ultrafuser.modeling.reading import stack_columns

CONFIG = LlamaConfig(num_hidden_layers=2)


def _filled(batch: int, columns: int = 4) -> SpecialistCache:
    """A group of three and one alone; each state is the number of its specialist and example, 10 j + b."""
    cache = SpecialistCache.for_configs([CONFIG, CONFIG], [3, 1])
    for own, first, n in zip(cache.caches, (0, 3), cache.sizes, strict=True):
        marks = torch.tensor([10.0 * (first + j) + b for j in range(n) for b in range(batch)])
        states = marks.view(-1, 1, 1, 1).expand(-1, 1, columns, 2)
        for layer in range(2):
            own.update(states, states, layer)
    return cache


def _marks(cache: SpecialistCache) -> list[list[int]]:
    """[specialist][example] marks, the same in all layers."""
    found = []
    for own, n in zip(cache.caches, cache.sizes, strict=True):
        assert torch.equal(own.layers[0].keys, own.layers[1].values)
        found += own.layers[0].keys[:, 0, 0, 0].view(n, -1).int().tolist()
    return found


def test_rows_of_all_specialists_move_together():
    cache = _filled(3)
    assert cache.batch_size == 3
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert _marks(cache) == [[2, 0, 0], [12, 10, 10], [22, 20, 20], [32, 30, 30]]
    cache.batch_select_indices(torch.tensor([1, 0]))
    assert _marks(cache) == [[0, 2], [10, 12], [20, 22], [30, 32]]
    cache.batch_repeat_interleave(2)
    assert _marks(cache) == [[0, 0, 2, 2], [10, 10, 12, 12], [20, 20, 22, 22], [30, 30, 32, 32]]
    assert cache.batch_size == 4
    cache.crop(-3)
    assert cache.get_seq_length() == 1


def test_an_empty_cache_has_no_rows():
    assert SpecialistCache.for_configs([CONFIG], [2]).batch_size == -1


def test_views_become_rows_specialist_by_specialist():
    masked = Columns(torch.tensor([[0, 5]]), torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    whole = Columns(torch.tensor([[6, 7]]))
    stacked = stack_columns([masked, whole])
    assert stacked.input_ids.tolist() == [[0, 5], [6, 7]]
    assert stacked.attention_mask.tolist() == [[0, 1], [1, 1]]
    assert stacked.position_ids.tolist() == [[0, 0], [0, 1]]


def test_a_later_column_of_a_view_without_a_mask_keeps_its_position():
    later = Columns(torch.tensor([[5]]), torch.tensor([[0, 1, 1]]), torch.tensor([[1]]))
    whole = Columns(torch.tensor([[6]]), None, torch.tensor([[2]]))
    stacked = stack_columns([later, whole])
    assert stacked.attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert stacked.position_ids.tolist() == [[1], [2]]


def test_sequences_of_unequal_width_are_padded_on_the_right():
    stacked = stack_columns([Columns(torch.tensor([[1, 2, 3]])), Columns(torch.tensor([[4]]))])
    assert stacked.input_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert stacked.attention_mask is None
    assert stacked.position_ids is None
