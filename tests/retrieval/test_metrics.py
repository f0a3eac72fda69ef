"""Precision against an example worked by hand, and against scikit-learn's brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from infogan.errors import UserError
from retrieval.metrics import average_precision, graded_relevance, neighbour_report, precision_at

# On a line: a0 a1 b0 a2 | b1 b2, at these places. Products: a0 and a1 are colours of one product.
PLACES = np.array([[0.0], [1.0], [2.1], [4.0], [10.0], [11.5]], np.float32)
CLASSES = np.array(["a", "a", "b", "a", "b", "b"])
PRODUCTS = np.array(["p", "p", "q", "r", "s", "t"])


def test_the_example_worked_by_hand() -> None:
    report = neighbour_report(PLACES, CLASSES, PRODUCTS, k=2)
    # Two nearest: a0: a1 b0 → ½; a1: a0 b0 → ½; b0: a1 a2 → 0; a2: b0 a1 → ½; b1: b2 a2 → ½; b2: b1 a2 → ½.
    assert report["precision_at_k"] == pytest.approx(2.5 / 6)
    # Without the own product: a0: b0 a2 → ½; a1: b0 a2 → ½; the others as before.
    assert report["precision_at_k_other_product"] == pytest.approx(2.5 / 6)
    assert report["per_class"]["a"] == {
        "n": 3,
        "precision_at_k": pytest.approx(0.5),
        "precision_at_k_other_product": pytest.approx(0.5),
    }
    assert report["per_class"]["b"]["precision_at_k"] == pytest.approx(1 / 3)
    assert report["macro_precision_at_k"] == pytest.approx((0.5 + 1 / 3) / 2)
    # Average precision, by the ranks of the right ones, each query having two:
    # a0: 1, 3 → (1 + 2/3)/2; a1: 1, 3; b0 (order a1 a2? no: a1 1.1, a2 1.9, a0 2.1, b1 7.9, b2 9.4): 4, 5;
    # a2 (b0 1.9, a1 3, a0 4): 2, 3; b1 (b2, a2, b0): 1, 3; b2 (b1, a2, b0): 1, 3.
    expected = [(1 + 2 / 3) / 2] * 4 + [(1 / 4 + 2 / 5) / 2, (1 / 2 + 2 / 3) / 2]
    assert report["map_at_100"] == pytest.approx(np.mean(expected))
    assert report["k"] == 2 and report["n"] == 6


def test_other_product_looks_past_every_colour_of_the_product() -> None:
    features = np.array([[0.0], [0.1], [0.2], [0.3], [5.0], [6.0]], np.float32)
    classes = np.array(["a", "a", "a", "a", "b", "b"])
    products = np.array(["p", "p", "p", "p", "q", "r"])
    report = neighbour_report(features, classes, products, k=1)
    assert report["precision_at_k"] == 1.0
    assert report["per_class"]["a"]["precision_at_k_other_product"] == 0.0
    assert report["per_class"]["b"]["precision_at_k_other_product"] == 1.0
    assert report["macro_precision_at_k_other_product"] == 0.5


def test_duplicates_of_the_query_count_and_the_query_does_not() -> None:
    features = np.zeros((4, 3), np.float32)
    report = neighbour_report(features, np.array(["a", "a", "a", "b"]), np.arange(4), k=3)
    assert report["per_class"]["a"]["precision_at_k"] == pytest.approx(2 / 3)
    assert report["per_class"]["b"]["precision_at_k"] == 0.0


def test_one_product_only_has_no_other_product_figure() -> None:
    report = neighbour_report(PLACES, CLASSES, np.array(["p"] * 6), k=2)
    assert report["precision_at_k_other_product"] is None
    assert report["per_class"]["a"]["precision_at_k_other_product"] is None


def test_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(1500, 12)).astype(np.float32)
    classes, products = random.integers(0, 5, 1500), random.integers(0, 400, 1500)
    report = neighbour_report(features, classes, products, k=5)
    _, found = NearestNeighbors(algorithm="brute").fit(features).kneighbors()
    assert report["precision_at_k"] == pytest.approx((classes[found] == classes[:, None]).mean())
    _, found = NearestNeighbors(n_neighbors=200, algorithm="brute").fit(features).kneighbors()
    other = [row[products[row] != products[query]][:5] for query, row in enumerate(found)]
    expected = (classes[np.array(other)] == classes[:, None]).mean()
    assert report["precision_at_k_other_product"] == pytest.approx(expected)


def test_precision_and_average_precision_of_single_rows() -> None:
    right = np.array([[1, 0, 1, 1, 0]], bool)
    everyone = np.ones((1, 5), bool)
    assert precision_at(right, everyone, 3)[0] == pytest.approx(2 / 3)
    assert precision_at(right, np.array([[0, 1, 1, 0, 0]], bool), 3)[0] == pytest.approx(1 / 2)
    assert np.isnan(precision_at(right, np.zeros((1, 5), bool), 3)[0])
    assert average_precision(right, everyone, np.array([3]))[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(right, everyone, np.array([9]), depth=3)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(right, everyone, np.array([0]))[0] == pytest.approx(1 + 2 / 3 + 3 / 4)


def test_graded_precision_worked_by_hand() -> None:
    query = ["Men", "Footwear", "Shoes", "Casual Shoes", "Black"]
    answers = [
        ["Men", "Footwear", "Shoes", "Casual Shoes", "Black"],  # all five: 1.0
        ["Men", "Footwear", "Shoes", "Casual Shoes", "Brown"],  # but for the colour: 0.8
        ["Men", "Footwear", "Shoes", "Formal Shoes", "Black"],  # but for the article: 0.8
        ["Women", "Footwear", "Sandal", "Heels", "Black"],  # category and colour: 0.4
        ["Women", "Apparel", "Topwear", "Tshirts", "White"],  # nothing: 0.0
        ["Men", "Footwear", "Shoes", "Sports Shoes", ""],  # three, and a colour that nobody knows: 0.6
    ]
    grades = graded_relevance(np.array([query]), np.array([answers]), np.full(5, 0.2))
    assert grades[0] == pytest.approx([1.0, 0.8, 0.8, 0.4, 0.0, 0.6])
    assert grades.mean() == pytest.approx(3.6 / 6)  # graded P@6 of this query
    unknown = graded_relevance(np.array([[""]]), np.array([[[""]]]), np.ones(1))
    assert unknown == 0.0  # that both are unknown is nothing in common


@pytest.mark.parametrize("k", [0, -1, 6, 7])
def test_k_must_leave_the_query_out(k: int) -> None:
    with pytest.raises(UserError, match="must be in 1 … 5"):
        neighbour_report(PLACES, CLASSES, PRODUCTS, k)
