"""Analysis of a data set: vectors, map, figures, page."""

import json
import re

import numpy as np
import pytest

from ultrafuser.analysis.data_page import DataPage, figure_png, render_data_page
from ultrafuser.analysis.diversity import Item, diversity
from ultrafuser.analysis.projection import nearest_similarities, project


@pytest.fixture
def page():
    draw = np.random.default_rng(0)
    texts = ["Say <b>why</b> </script> it rains", "Add one and two", "Sort the list of names"]
    items = [
        Item(texts[i % 3] + f" {i}", ("weather", "sums", "code")[i % 3], None, f"topic {i % 5}") for i in range(30)
    ]
    vectors = (
        draw.normal(size=(30, 8)) + 9 * np.eye(3)[np.arange(30) % 3] @ np.ones((3, 8)) * (np.arange(30) % 3)[:, None]
    )
    found = diversity(items)
    for one in found:
        one.nearest = [0.5, 0.9]
    return DataPage("A < B", "some model", "tsne", items, project(vectors), found)


def test_mean_states_do_not_depend_on_the_batch(specialist_folders, tiny_tokenizer):
    import torch

    from ultrafuser.analysis.embedding import mean_states
    from ultrafuser.modeling.specialists import open_specialist

    model = open_specialist(specialist_folders["text"]).eval()
    texts = ["one", "a much longer text with many words in it", "two words", "one"]
    together = mean_states(model, tiny_tokenizer, texts)
    alone = np.concatenate([mean_states(model, tiny_tokenizer, [text], batch_tokens=1) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    ids = torch.tensor([tiny_tokenizer(texts[1])["input_ids"]])
    states = model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
    np.testing.assert_allclose(together[1], states.detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="text 2 has no token"):
        mean_states(model, tiny_tokenizer, ["one", ""])


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_groups_stay_together_on_the_map(method):
    draw = np.random.default_rng(1)
    vectors = np.concatenate([draw.normal(size=(20, 16)) + 12 * k * (np.arange(16) % 3 == k) for k in range(3)])
    places = project(vectors, method)
    assert np.array_equal(places, project(vectors, method))
    assert np.abs(places).max() == pytest.approx(1)
    groups = np.repeat(np.arange(3), 20)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(60)
    assert (groups[gaps.argmin(1)] == groups).all()


def test_few_and_unknown_are_told():
    with pytest.raises(ValueError, match="at least three"):
        project(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="umap"):
        project(np.zeros((5, 4)), "umap")


def test_nearest_similarity_is_that_of_all_pairs():
    vectors = np.random.default_rng(2).normal(size=(50, 6)).astype(np.float32)
    unit = vectors - vectors.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = (unit @ unit.T - 3 * np.eye(50)).max(1)
    np.testing.assert_allclose(nearest_similarities(vectors, vectors.mean(0)), expected, atol=1e-5)


def test_diversity_by_hand():
    same = [Item("say it", "dull", None, "one") for _ in range(4)]
    varied = [Item(f"tell me of w{i} x{i}", "wide", None, f"t{i % 2}") for i in range(4)]
    dull, wide = diversity([*same, *varied])
    assert (dull.items, dull.words, dull.vocabulary, dull.exact_copies) == (4, 8, 2, 3)
    assert dull.compared == wide.compared == 8
    assert dull.distinct == {1: 0.25, 2: 0.25, 3: 0.0}
    assert wide.distinct[1] == 1 - 3 / 8
    assert wide.growth[-1] == (20, 11)
    assert (dull.evenness, wide.evenness, wide.topics) == (None, 1.0, 2)


def test_the_page_is_whole_and_escapes(page):
    html = render_data_page(page)
    assert "<b>why" not in html
    assert html.count("</script>") == 2
    assert "<title>A &lt; B</title>" in html
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    assert len(data["points"]) == 30
    assert data["names"] == ["weather", "sums", "code"]
    assert render_data_page(page) == html
    assert figure_png(page).startswith(b"\x89PNG")
