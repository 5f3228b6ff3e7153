"""What is refused at the door, and how it is said; what is fit passes unchanged."""

import numpy as np
import pytest
import tensorflow as tf

from ganutils import checks

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(-1, 1, (4, 6, 5, 1)).astype(np.float32)
FEATURES = RANDOM.normal(size=(8, 3)).astype(np.float32)
PROBABILITIES = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)


def with_value(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


@pytest.mark.parametrize("convert", [np.asarray, tf.constant, np.float64, np.float16])
def test_images_come_back_as_float32(convert):
    checked = checks.as_images(convert(IMAGES), "these")
    assert checked.dtype == np.float32 and isinstance(checked, np.ndarray)
    np.testing.assert_allclose(checked, IMAGES, atol=1e-3)


@pytest.mark.parametrize(
    "images, error, words",
    [
        (np.uint8(IMAGES > 0) * np.uint8(255), TypeError, "divide pixels by 127.5"),
        (np.int32(IMAGES), TypeError, "floats, not int32"),
        (IMAGES[..., 0], ValueError, r"height, width, channels\), not \(4, 6, 5\)"),
        (IMAGES[0], ValueError, r"not \(6, 5, 1\)"),
        (IMAGES[:, :0], ValueError, r"not \(4, 0, 5, 1\)"),
        (IMAGES[:0], ValueError, "0 rows; at least 1"),
        (with_value(IMAGES, np.nan), ValueError, "NaN"),
        (with_value(IMAGES, -np.inf), ValueError, "infinite"),
        (with_value(IMAGES, 1.001), ValueError, "1.001.*127.5"),
        (with_value(IMAGES, -1.001), ValueError, "-1.001.*127.5"),
        ((IMAGES + 1) * 127.5, ValueError, "127.5 and subtract 1"),
        ((IMAGES + 1) / 2, ValueError, "nothing below 0.*by 2 and subtract 1"),
    ],
)
def test_unfit_images_are_refused_by_name(images, error, words):
    with pytest.raises(error, match=f"^these .*{words}"):
        checks.as_images(images, "these")


def test_images_at_the_edge_of_the_range_pass():
    edge = np.array([-1, 1], np.float32).reshape(1, 2, 1, 1)
    assert checks.as_images(edge, "edge").tolist() == edge.tolist()
    with pytest.raises(ValueError, match="4 rows; at least 5"):
        checks.as_images(IMAGES, "these", least=5)


def test_features_come_back_as_float64_in_their_order():
    real, fake = checks.as_feature_pair(FEATURES, tf.constant(FEATURES[:4]), full_rank=True)
    assert real.dtype == fake.dtype == np.float64
    assert (real.tolist(), fake.tolist()) == (FEATURES.tolist(), FEATURES[:4].tolist())


@pytest.mark.parametrize("name", ["real", "fake"])
@pytest.mark.parametrize(
    "unfit, words",
    [
        (np.int64(FEATURES), "floats, not int64"),
        (FEATURES[:, 0], r"\(count, dimensions\), not \(8,\)"),
        (FEATURES[:, :0], r"\(count, dimensions\), not \(8, 0\)"),
        (FEATURES[:1], "1 rows; at least 2"),
        (FEATURES[:3], "3 rows; a covariance of 3 dimensions needs at least 4"),
        (with_value(FEATURES, np.nan), "NaN"),
        (with_value(FEATURES, np.inf), "infinite"),
        (with_value(FEATURES, 1.1e30), "to 1.1e.30; beyond 1e.30 its powers overflow"),
        (with_value(FEATURES, -1.1e30), "holds -1.1e.30 to"),
        ([[1.0, 2.0], [3.0]], r"an array, not \[\[1.0, 2.0\], \[3.0\]\] \(list\)"),
    ],
)
def test_unfit_features_are_refused_by_name(name, unfit, words):
    pair = {"real": FEATURES, "fake": FEATURES} | {name: unfit}
    with pytest.raises((TypeError, ValueError), match=f"^{name} .*{words}"):
        checks.as_feature_pair(**pair, full_rank=True)


def test_features_of_two_classifiers_are_refused():
    with pytest.raises(ValueError, match="real has 3 dimensions and fake 2; .*one classifier"):
        checks.as_feature_pair(FEATURES, FEATURES[:, :2])


def test_probabilities_pass_and_are_refused():
    checked = checks.as_probabilities(PROBABILITIES, "these")
    assert checked.dtype == np.float64 and checked.tolist() == PROBABILITIES.tolist()
    for unfit, words in [
        (PROBABILITIES * 1.01, "sums from 1.01 to 1.01"),
        (np.array([[-0.75, 1.75]]), "-0.75"),
        (np.log(PROBABILITIES + 1), "softmax"),
        (PROBABILITIES[0], r"\(count, classes\)"),
        (with_value(PROBABILITIES, np.nan), "NaN"),
        (PROBABILITIES[:0], "0 rows"),
        (PROBABILITIES > 0, "bool"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^these .*{words}"):
            checks.as_probabilities(unfit, "these")
    with pytest.raises(ValueError, match="2 rows; at least 3"):
        checks.as_probabilities(PROBABILITIES, "these", least=3)


def test_shares_pass_and_are_refused():
    assert checks.as_shares(PROBABILITIES[0], "these").tolist() == [0.25, 0.75]
    # Less than a normal number is nothing: a ratio with it would overflow.
    tiny = np.finfo(np.float64).tiny
    assert checks.as_shares(np.array([1.0, tiny, tiny / 2]), "these").tolist() == [1, tiny, 0]
    for unfit, words in [
        (np.array([3, 4]), "int64"),
        (np.array([3.0, 4.0]), "sum 7. Divide counts"),
        (np.array([-0.5, 1.5]), "-0.5"),
        (PROBABILITIES, r"\(classes\), not \(2, 2\)"),
        (np.array([np.nan, 1.0]), "NaN"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^these .*{words}"):
            checks.as_shares(unfit, "these")


def test_integers():
    for value in (3, np.int32(3), np.array(3)):
        number = checks.as_integer(value, "k", low=1, high=3)
        assert number == 3 and type(number) is int
    for value in (0, 4):
        with pytest.raises(ValueError, match=f"^k must be in 1..3, not {value}"):
            checks.as_integer(value, "k", low=1, high=3)
    for value in (2.0, "2", None):
        with pytest.raises(TypeError, match="^k must be an integer"):
            checks.as_integer(value, "k", low=1, high=3)


def test_positive_numbers():
    for value in (3, np.float32(0.5), 1e-300, np.array(2.0), tf.constant(2.0)):
        number = checks.as_positive(value, "width")
        assert number == value and type(number) is float
    for value in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="^width must be above 0 and finite"):
            checks.as_positive(value, "width")
    for value in ("3", None, [3.0], np.ones(1), 1j, True, 10**400, [[1], [2, 3]]):
        with pytest.raises(TypeError, match="^width must be a"):
            checks.as_positive(value, "width")


def test_numbers_for_float32():
    for value in (1e-30, 1, 1e30):
        number = checks.as_single(value, "width")
        assert number == value and type(number) is float
    for value in (1e-31, 1e31, 1e300):
        with pytest.raises(ValueError, match="^width must be in 1e-30..1e30, not 1e"):
            checks.as_single(value, "width")
    with pytest.raises(ValueError, match="^width must be above 0"):
        checks.as_single(-1, "width")


def test_what_numpy_cannot_hold_is_named():
    assert checks.as_array(tf.constant([1, 2]), "these").tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"^these must be an array, not \[\[1\], .* \(list\): "):
        checks.as_array([[1], [2, 3]], "these")
    with pytest.raises(TypeError, match=r"^k must be an integer, not \[0, 0, .*\.\.\.\] \(list\)"):
        checks.as_integer([0] * 10**5, "k", low=1, high=3)


def test_samples_and_modes_pass_and_are_refused():
    pair = {"samples": FEATURES[:, :2], "modes": FEATURES[:3, :2]}
    checked = checks.as_samples_and_modes(**pair)
    assert [x.dtype for x in checked] == [np.float64] * 2
    assert all(map(np.array_equal, checked, pair.values()))
    for name in pair:
        for unfit, words in [
            (np.ones((3, 2), int), "floats"),
            (FEATURES[0], "shape"),
            (FEATURES[:0, :2], "0 rows"),
            (np.full((3, 2), np.nan), "NaN"),
        ]:
            with pytest.raises((TypeError, ValueError), match=f"^{name} .*{words}"):
                checks.as_samples_and_modes(**pair | {name: unfit})
    with pytest.raises(ValueError, match="samples have 2 dimensions, modes 3"):
        checks.as_samples_and_modes(FEATURES[:, :2], FEATURES)
