"""What is refused at the door, and how it is said; what is fit passes unchanged."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ganutils import validation

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(-1, 1, (4, 6, 5, 1)).astype(np.float32)
FEATURES = RANDOM.normal(size=(8, 3)).astype(np.float32)
PROBABILITIES = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)


def with_value(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


def refused(words, check, *args, **kwargs):
    """The check refuses, in words that begin with the argument's name."""
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        check(*args, **kwargs)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant, np.float64, np.float16])
def test_images_come_back_as_float32(convert):
    checked = validation.as_images(convert(IMAGES), "these")
    assert checked.dtype == np.float32 and isinstance(checked, np.ndarray)
    np.testing.assert_allclose(checked, IMAGES, atol=1e-3)


@pytest.mark.parametrize(
    "images, words",
    [
        (np.uint8(IMAGES > 0) * np.uint8(255), "uint8; divide pixels by 127.5"),
        (np.int32(IMAGES), "floats, not int32"),
        (IMAGES[..., 0], r"height, width, channels\), not \(4, 6, 5\)"),
        (IMAGES[:, :0], r"not \(4, 0, 5, 1\)"),
        (IMAGES[:0], "0 rows; at least 1"),
        (with_value(IMAGES, np.nan), "NaN"),
        (with_value(IMAGES, -np.inf), "infinite"),
        (with_value(IMAGES, 1.001), "1.001.*127.5"),
        (with_value(IMAGES, -1.001), "-1.001.*127.5"),
        ((IMAGES + 1) * 127.5, "127.5 and subtract 1"),
        ((IMAGES + 1) / 2, "nothing below 0.*by 2 and subtract 1"),
    ],
)
def test_unfit_images_are_refused_by_name(images, words):
    refused(f"these .*{words}", validation.as_images, images, "these")


def test_images_at_the_edge_of_the_range_pass():
    edge = np.array([-1, 1], np.float32).reshape(1, 2, 1, 1)
    assert validation.as_images(edge, "edge").tolist() == edge.tolist()
    refused("these .*4 rows; at least 5", validation.as_images, IMAGES, "these", least=5)


def test_features_come_back_as_float64_in_their_order():
    real, fake = validation.as_feature_pair(FEATURES, tf.constant(FEATURES[:4]), full_rank=True)
    assert real.dtype == fake.dtype == np.float64
    assert (real.tolist(), fake.tolist()) == (FEATURES.tolist(), FEATURES[:4].tolist())
    refused("real has 3.*fake 2", validation.as_feature_pair, FEATURES, FEATURES[:, :2])


@pytest.mark.parametrize("name", ["real", "fake"])
@pytest.mark.parametrize(
    "unfit, words",
    [
        (np.int64(FEATURES), "floats, not int64"),
        (FEATURES[:, 0], r"\(count, dimensions\), not \(8,\)"),
        (FEATURES[:, :0], r"not \(8, 0\)"),
        (FEATURES[:1], "1 rows; at least 2"),
        (FEATURES[:3], "3 rows; a covariance of 3 dimensions needs at least 4"),
        (with_value(FEATURES, np.nan), "NaN"),
        (with_value(FEATURES, 1.1e30), "beyond 1e30"),
        (with_value(FEATURES, -1.1e30), "-1.1e.30"),
        ([[1.0, 2.0], [3.0]], r"an array, not \[\[1.0, 2.0\], \[3.0\]\]"),
    ],
)
def test_unfit_features_are_refused_by_name(name, unfit, words):
    pair = {"real": FEATURES, "fake": FEATURES} | {name: unfit}
    refused(f"{name} .*{words}", validation.as_feature_pair, *pair.values(), full_rank=True)


def test_probabilities_and_shares():
    checked = validation.as_probabilities(PROBABILITIES, "these")
    assert checked.dtype == np.float64 and checked.tolist() == PROBABILITIES.tolist()
    for unfit, words in [
        (PROBABILITIES * 1.01, "1.01 to 1.01"),
        (np.array([[-0.75, 1.75]]), "-0.75"),
        (np.log(PROBABILITIES + 1), "softmax"),
        (PROBABILITIES[0], r"\(count, classes\)"),
        (with_value(PROBABILITIES, np.nan), "NaN"),
        (PROBABILITIES[:0], "0 rows"),
        (PROBABILITIES > 0, "bool"),
    ]:
        refused(f"these .*{words}", validation.as_probabilities, unfit, "these")
    refused("these .*2 rows", validation.as_probabilities, PROBABILITIES, "these", least=3)

    classes = {"shape": ("classes",)}
    shares = validation.as_probabilities(PROBABILITIES[0], "these", **classes)
    assert shares.dtype == np.float64 and shares.tolist() == [0.25, 0.75]
    for unfit, words in [
        (np.array([3, 4]), "int64"),
        (np.array([3.0, 4.0]), "7.*division by their sum"),
        (PROBABILITIES, r"\(classes\), not \(2, 2\)"),
    ]:
        refused(f"these .*{words}", validation.as_probabilities, unfit, "these", **classes)


def test_samples_and_modes():
    pair = {"samples": FEATURES[:, :2], "modes": FEATURES[:3, :2]}
    check = functools.partial(validation.as_feature_pair, names=tuple(pair), least=1)
    checked = check(*pair.values())
    assert [x.dtype for x in checked] == [np.float64] * 2
    assert all(map(np.array_equal, checked, pair.values()))
    for name in pair:
        for unfit, words in [
            (np.ones((3, 2), int), "floats"),
            (FEATURES[0], "shape"),
            (FEATURES[:0, :2], "0 rows"),
            (np.full((3, 2), np.nan), "NaN"),
        ]:
            case = pair | {name: unfit}
            refused(f"{name} .*{words}", check, *case.values())
    refused("samples .* 2.* modes 3", check, FEATURES[:, :2], FEATURES)


def test_labels():
    for labels in ([0, 2, 1], np.array([0, 2, 1], np.uint8), tf.constant([0, 2, 1])):
        checked = validation.as_labels(labels, 3, 3)
        assert checked.dtype == np.int32 and checked.tolist() == [0, 2, 1]
    for labels, classes, words in [
        ([0, 1, 2], 2, "labels .*from 0 to 1; found 0 to 2"),
        ([0, -1, 1], 2, "labels .*found -1 to 1"),
        ([0, 1], 2, r"labels .*\(3,\), not \(2,\)"),
        (np.eye(3), 3, "labels .*integers, not float64"),
        (np.eye(3, dtype=int), 3, r"labels .*not \(3, 3\)"),
        ([0, 1, 1], 1, "classes"),
        ([0, 1, 1], 2.5, "classes"),
    ]:
        refused(words, validation.as_labels, labels, 3, classes)


def test_integers():
    for value in (3, np.int32(3), np.array(3), tf.constant(3)):
        number = validation.as_integer(value, "k", low=1, high=3)
        assert number == 3 and type(number) is int
    for value in (0, 4):
        refused(f"k .*1..3, not {value}", validation.as_integer, value, "k", low=1, high=3)
    for value in (2.0, "2", None, [0] * 10**5):
        refused("k must be an integer", validation.as_integer, value, "k", low=1, high=3)


def test_positive_numbers():
    for value in (3, np.float32(0.5), 1e-30, 1e30, np.array(2.0), tf.constant(2.0)):
        number = validation.as_positive(value, "width")
        assert number == value and type(number) is float
    for value in (0, -1.0, np.nan, np.inf, 1e-31, 1e31, np.float16(np.inf)):
        refused("width must be above 0 and finite", validation.as_positive, value, "width")
    for value in ("3", None, [3.0], np.ones(1), 1j, True, 10**400, [[1], [2, 3]]):
        refused("width must be a", validation.as_positive, value, "width")
