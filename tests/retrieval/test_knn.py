"""Exact search against distances in float64, whatever the vectors, and however they are divided."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from retrieval.knn import Vectors, nearest, search


def noise(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def brute(gallery: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.linalg.norm(gallery.astype(np.float64) - query, axis=1)
    order = np.lexsort((np.arange(len(gallery)), distances))[:k]
    return distances[order], order


@pytest.mark.parametrize(
    ("gallery", "queries"),
    [
        (noise(5000, 40, 0), noise(9, 40, 1)),
        (noise(5000, 40, 0) * 1e4 + 3e4, noise(9, 40, 1) * 1e4 + 3e4),  # differences are lost in a product's rounding
        (noise(5000, 40, 0) + 300, noise(300, 40, 1) + 300),
        (np.repeat(noise(50, 16, 0), 100, 0), noise(5, 16, 0)),  # a hundred equals of each
        (noise(7, 3, 0), noise(2, 3, 1)),
        (np.zeros((3000, 4), np.float32), noise(2, 4, 1)),
    ],
    ids=["noise", "large", "far", "equal", "few", "zero"],
)
def test_it_is_exact(gallery: np.ndarray, queries: np.ndarray) -> None:
    for k in (1, 5, min(len(gallery), 150)):
        distances, positions = nearest(gallery, queries, k)
        for row, query in enumerate(queries):
            expected = brute(gallery, query, k)
            np.testing.assert_array_equal(positions[row], expected[1])
            np.testing.assert_allclose(distances[row], expected[0], rtol=1e-12)


def test_it_does_not_depend_on_how_vectors_are_divided() -> None:
    vectors, queries = noise(9000, 24, 0), noise(70, 24, 1)
    whole = Vectors.of(vectors)
    bounds = [0, 10, 2500, 2501, 9000]
    parts = [
        Vectors(vectors[start:stop], whole.half_squares[start:stop], whole.ids[start:stop])
        for start, stop in pairwise(bounds)
    ]
    expected = search([whole], queries, 8, threads=1)
    alone = [search([whole], queries[row : row + 1], 8)[0] for row in range(len(queries))]
    for other in (search(parts, queries, 8, threads=1), search(parts, queries, 8, threads=3), alone):
        for (distances, ids), (found, numbers) in zip(expected, other, strict=True):
            np.testing.assert_array_equal(numbers, ids)
            np.testing.assert_array_equal(found, distances)


def test_some_rows_only_and_no_more_than_there_are() -> None:
    vectors, queries = noise(5000, 24, 0), noise(3, 24, 1)
    rows = np.arange(3, 5000, 1250)
    some = Vectors(vectors, Vectors.of(vectors).half_squares, np.arange(5000) + 10, rows)
    for row, (distances, ids) in enumerate(search([some], queries, 9)):
        expected = brute(vectors[rows], queries[row], 9)
        np.testing.assert_array_equal(ids, rows[expected[1]] + 10)
        np.testing.assert_allclose(distances, expected[0])
    assert [len(ids) for _, ids in search([], queries, 3)] == [0, 0, 0]


def test_within_a_distance() -> None:
    vectors, queries = noise(20_000, 24, 0), noise(40, 24, 1)
    whole = search([Vectors.of(vectors)], queries, 10)
    radii = np.array([distances[row % 10] for row, (distances, _) in enumerate(whole)])
    radii[3] = np.inf
    for row, (distances, ids) in enumerate(search([Vectors.of(vectors)], queries, 10, within=radii)):
        wanted = 10 if row == 3 else row % 10 + 1
        assert len(ids) >= wanted and len(ids) <= wanted + 1
        np.testing.assert_array_equal(ids[:wanted], whole[row][1][:wanted])
        np.testing.assert_array_equal(distances[:wanted], whole[row][0][:wanted])
