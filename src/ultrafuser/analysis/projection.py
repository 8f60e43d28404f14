"""Vectors on a plane: t-SNE as in the paper's figure 3, or the two main components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ultrafuser.lookup import lookup

__all__ = ["PROJECTIONS", "nearest_similarities", "project"]

COMPONENTS = 50  # kept before t-SNE, as is usual for vectors of many dimensions
CHUNK = 1024  # rows compared with all others at a time


def project(vectors: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """(n, 2) places of (n, d) vectors, scaled to lie between -1 and 1. The same for the same vectors and seed.

    Raises ValueError for an unknown method and for fewer than three vectors.
    """
    chosen = lookup(PROJECTIONS, method, "method")
    if len(vectors) < 3:
        raise ValueError(f"{len(vectors)} texts cannot be laid out on a plane; give at least three")
    places = chosen(vectors.astype(np.float64), seed)
    places = places - (places.max(0) + places.min(0)) / 2
    return places / max(1e-12, float(np.abs(places).max()))


def _components(vectors: np.ndarray, count: int) -> np.ndarray:
    """The main components, each with the sign that makes its largest entry positive."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    places = centred @ axes[:count].T
    signs = np.sign(places[np.abs(places).argmax(0), np.arange(places.shape[1])])
    return places * np.where(signs == 0, 1, signs)


def _pca(vectors: np.ndarray, seed: int) -> np.ndarray:
    places = _components(vectors, 2)
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ValueError(
            "method: tsne needs scikit-learn; install ultrafuser[analysis], or take the method pca"
        ) from None
    reduced = _components(vectors, min(COMPONENTS, *vectors.shape))
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced))


PROJECTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"tsne": _tsne, "pca": _pca}


def nearest_similarities(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n,) cosine similarity of each of (n, d) vectors to the nearest other one, seen from `centre`.

    Mean states of a model share a large common part; taken away, the differences show.
    """
    unit = vectors - centre
    unit = unit / np.maximum(1e-12, np.linalg.norm(unit, axis=1, keepdims=True))
    found = np.zeros(len(unit), dtype=np.float32)
    for start in range(0, len(unit), CHUNK):
        block = unit[start : start + CHUNK] @ unit.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -1
        found[start : start + CHUNK] = block.max(1)
    return found
