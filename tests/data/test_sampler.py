"""Balance, purity in (seed, step), epochs without replacement, cutting into micro-batches."""

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultrafuser.data import SAMPLERS, ClassBalancedBatchSampler, FlatBatchSampler, make_sampler


@st.composite
def data_sets(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    categories = [place for place, size in enumerate(sizes) for _ in range(size)]
    return draw(st.permutations(categories))


@given(data_sets(), st.integers(1, 6), st.integers(1, 9), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_batch_holds_exactly_n_of_each_category(categories, per_category, steps, seed, with_lengths):
    lengths = np.random.default_rng(seed).integers(1, 50, len(categories)) if with_lengths else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = ClassBalancedBatchSampler(categories, per_category, steps=steps, seed=seed, lengths=lengths)
    flat = list(sampler)
    size = sampler.batch_size
    assert len(flat) == len(sampler) == steps * size
    for step in range(steps):
        batch = flat[step * size : (step + 1) * size]
        assert batch == sampler.batch(step)
        assert Counter(categories[i] for i in batch) == dict.fromkeys(set(categories), per_category)
        if lengths is not None:
            assert (np.diff(lengths[batch]) <= 0).all()


@given(data_sets(), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_each_epoch_of_a_category_holds_every_example_once(categories, per_category, seed):
    sizes = Counter(categories)
    steps = 3 * max(sizes.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = ClassBalancedBatchSampler(categories, per_category, steps=steps, seed=seed)
    drawn = {category: [] for category in sizes}
    for step in range(steps):
        for index in sampler.batch(step):
            drawn[categories[index]].append(index)
    for category, stream in drawn.items():
        size = sizes[category]
        for epoch in range(len(stream) // size):
            window = stream[epoch * size : (epoch + 1) * size]
            assert sorted(window) == [i for i, c in enumerate(categories) if c == category]


@given(data_sets(), st.integers(0, 3), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(categories, seed, step):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = ClassBalancedBatchSampler(categories, 2, steps=99, seed=seed)
        b = ClassBalancedBatchSampler(categories, 2, steps=61, seed=seed)
    for earlier in range(0, step, 7):
        a.batch(earlier)
    assert a.batch(step) == b.batch(step)


def test_seed_and_epoch_change_the_order():
    categories = [0] * 40 + [1] * 40
    one, two = (ClassBalancedBatchSampler(categories, 20, steps=8, seed=seed) for seed in (0, 1))
    assert one.batch(0) != two.batch(0)
    assert sorted(one.batch(0) + one.batch(1)) == sorted(one.batch(2) + one.batch(3))
    assert one.batch(0) != one.batch(2)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_micro_batches_are_balanced_too_where_the_counts_allow(chunks):
    categories = [0] * 9 + [1] * 20 + [2] * 30
    sampler = ClassBalancedBatchSampler(categories, 8, steps=5, seed=0, chunks=chunks)
    share = sampler.batch_size // chunks
    for step in range(5):
        batch = sampler.batch(step)
        for chunk in range(chunks):
            part = batch[chunk * share : (chunk + 1) * share]
            assert Counter(categories[i] for i in part) == dict.fromkeys(range(3), 8 // chunks)


def test_chunks_that_do_not_divide_a_category_still_keep_the_batch():
    sampler = ClassBalancedBatchSampler([0] * 9 + [1] * 9 + [2] * 9, 4, steps=2, seed=0, chunks=3)
    assert Counter(i // 9 for i in sampler.batch(1)) == {0: 4, 1: 4, 2: 4}


def test_random_sampler_ignores_categories():
    categories = [0] * 90 + [1] * 10
    sampler = make_sampler("random", categories, 10, steps=5, seed=0)
    flat = list(sampler)
    assert sampler.batch_size == 20
    assert sorted(flat) == list(range(100)), "five batches of 20 are one epoch of 100"
    assert any(sum(categories[i] for i in sampler.batch(step)) != 10 for step in range(5))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_table_is_pure(name):
    sampler = make_sampler(name, [0, 1] * 10, 4, steps=9, seed=2)
    assert list(sampler) == [i for step in range(9) for i in sampler.batch(step)]


def test_small_category_warns_and_wraps():
    with pytest.warns(UserWarning, match=r"data\.code: 2 examples for 5 of it per batch"):
        sampler = ClassBalancedBatchSampler([0] * 9 + [1, 1], 5, steps=2, seed=0, names=["text", "code"])
    assert Counter(sampler.batch(0))[9] + Counter(sampler.batch(0))[10] == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["a", "b", "c"]}, "data.c: holds no example"),
        ({"per_category": 0}, "examples_per_category: 0"),
        ({"steps": 0}, "steps: 0"),
        ({"chunks": 3}, "cannot be cut into 3 equal micro-batches"),
        ({"categories": []}, "no example to draw from"),
        ({"name": "balancd"}, "sampler: 'balancd' is not one of balanced, random; did you mean 'balanced'?"),
    ],
)
def test_bad_settings(change, said):
    given_ = {"name": "balanced", "categories": [0, 0, 0, 0, 1, 1, 1, 1], "per_category": 4, "steps": 2, "seed": 0}
    with pytest.raises(ValueError) as error:
        make_sampler(**(given_ | change))
    assert said in str(error.value)


def test_groups_and_counts_must_match():
    with pytest.raises(ValueError, match="counts"):
        FlatBatchSampler([[0, 1]], [1, 1], steps=1, seed=0)
