"""Digits in another hand: bars of known width, the distance transform, places, digits kept."""

import math

import numpy as np
import pytest
import scipy.ndimage
from bars import sheared_bar, turned_bar

from ganutils import _morph, classifier, data
from ganutils.stroke_attributes import stroke_slant, stroke_width

DIGITS, LABELS, _ = data.load_images("digits", split="test")
SEEDED = {"swollen", "fractured"}


@pytest.mark.parametrize("look, share", [("thin", -0.5), ("thick", 0.7)])
@pytest.mark.parametrize("width", [3.0, 4.0])
def test_a_bar_gets_half_as_thick_or_seven_tenths_thicker(width, look, share):
    """To a fine pixel, a third of a pixel; with less than half of that where many are averaged."""
    errors = []
    for degrees in range(0, 91, 10):
        bar = turned_bar(math.radians(degrees), width)
        grown = share * stroke_width(bar)[0]
        area = (width + grown) * (20 + grown)  # its ends move, too
        area -= (1 - math.pi / 4) * max(grown, 0) ** 2  # and its corners get round
        ink = (data.morphed_digits(bar, look) + 1) / 2
        errors.append((ink.sum() - area) / 20)
    assert np.abs(errors).max() < 1 / 3 and abs(np.mean(errors)) < 1 / 8


def test_what_wears_and_grows_is_the_distance_transform():
    ink = (DIGITS[:20, :, :, 0] + 1) / 2
    mask = _morph._white(_morph._fine(ink))
    radius = np.full(20, 7.0)
    found = _morph._distance(mask, radius)
    for image, distance in zip(mask, found, strict=True):
        exact = scipy.ndimage.distance_transform_edt(~image)
        near = exact <= 8
        assert near.any() and not near.all()
        np.testing.assert_allclose(distance[near], exact[near], rtol=1e-6)
        assert (distance[~near] > 8).all()


def test_fine_pixels_are_linear_interpolation_and_coarse_ones_their_mean():
    ink = np.random.default_rng(0).uniform(0, 1, (3, 5, 7)).astype(np.float32)
    fine, padded = _morph._fine(ink), np.pad(ink, [(0, 0), (1, 1), (1, 1)])
    places = np.meshgrid(np.arange(3), np.arange(3, 18) / 3 - 1 / 3, np.arange(3, 24) / 3 - 1 / 3)
    places = [np.swapaxes(p, 0, 1) for p in places]
    expected = scipy.ndimage.map_coordinates(padded, places, order=1)
    np.testing.assert_allclose(fine[:, 3:-3, 3:-3], expected, atol=1e-6)
    np.testing.assert_allclose(_morph._coarse(fine * 0 + 0.25), np.full((3, 5, 7), 0.25))


def test_strokes_of_digits_get_thinner_and_thicker_and_swell():
    before = stroke_width(DIGITS)
    ratio = {
        look: stroke_width(data.morphed_digits(DIGITS, look)) / before for look in _morph.LOOKS
    }
    assert (ratio["thin"] < 0.8).all() and np.mean(ratio["thin"]) == pytest.approx(0.5, abs=0.05)
    assert (ratio["thick"] > 1.2).all() and 1.5 < np.mean(ratio["thick"]) < 1.7  # holes close
    assert np.mean(ratio["swollen"]) > 1.1 and np.mean(ratio["fractured"]) < 0.9


@pytest.mark.parametrize("look, added", [("left", -0.5), ("right", 0.5)])
def test_a_bar_leans_by_half_a_pixel_for_a_pixel(look, added):
    for slant in (-0.2, 0.0, 0.2):
        bar = sheared_bar(slant, 3.0)
        leaning = data.morphed_digits(bar, look)
        assert stroke_slant(leaning)[0] == pytest.approx(slant + added, abs=0.02)


def test_four_quarter_turns_are_none():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 1)).astype(np.float32)
    turned = data.morphed_digits(image, "turned")
    np.testing.assert_allclose(turned[:, 0, :, 0], image[:, :, -1, 0], atol=1e-6)
    for _ in range(3):
        turned = data.morphed_digits(turned, "turned")
    np.testing.assert_allclose(turned, image, atol=1e-6)


def test_edges_go_once_around_and_touch_the_stroke():
    image = np.full((1, 9, 9, 1), -1, np.float32)
    image[0, 3:6, 4] = 1
    expected = np.full((9, 9), -1)
    expected[2:7, 3:6] = 1
    expected[3:6, 4] = -1
    np.testing.assert_array_equal(data.morphed_digits(image, "edges")[0, :, :, 0], expected)


@pytest.mark.parametrize("degrees", [0, 20, 45, 90])
def test_fractures_cut_a_bar_into_pieces_and_change_nothing_else(degrees):
    bar = turned_bar(math.radians(degrees), 3.0)
    pieces = []
    for seed in range(20):
        broken = data.morphed_digits(bar, "fractured", seed=seed)
        assert (broken <= bar).all()
        changed = broken != bar
        assert 10 <= changed.sum() <= 3 * 30
        numbers, _ = scipy.ndimage.label(broken[0, :, :, 0] > 0)
        pieces.append((np.bincount(numbers.ravel())[1:] > 3).sum())
    assert np.mean(pieces) > 3 and max(pieces) <= 4


def test_swelling_magnifies_by_the_power_law_and_reads_black_outside():
    bar = turned_bar(0.0, 3.0)
    grown = data.morphed_digits(bar, "swollen", seed=1)
    changed = np.argwhere(grown[0, :, :, 0] != bar[0, :, :, 0])
    reach = np.ptp(changed, axis=0) / 2
    assert (reach <= 3.5 * math.sqrt(stroke_width(bar)[0])).all()
    assert (grown + 1).sum() > 1.1 * (bar + 1).sum()


@pytest.mark.parametrize("look", _morph.LOOKS)
def test_a_row_depends_on_its_image_its_number_and_the_seed_alone(look):
    images = DIGITS[:130]
    all_rows, copy = data.morphed_digits(images, look, seed=3), images.copy()
    assert all_rows.shape == images.shape and all_rows.dtype == np.float32
    assert -1 <= all_rows.min() < all_rows.max() <= 1
    np.testing.assert_array_equal(data.morphed_digits(images, look, seed=3), all_rows)
    np.testing.assert_array_equal(data.morphed_digits(images[:7], look, seed=3), all_rows[:7])
    np.testing.assert_array_equal(images, copy)
    other = data.morphed_digits(images, look, seed=4)
    assert (np.abs(other - all_rows).max() > 0) == (look in SEEDED)


def test_points_are_drawn_by_weight():
    weight = np.zeros((4000, 3, 4), np.float32)
    weight[:, 0, 1], weight[:, 2, 3] = 1, 3
    y, x, down, right = _morph._place(weight, np.random.default_rng(0).random(4000))
    assert set(zip(y.ravel(), x.ravel(), strict=True)) == {(0, 1), (2, 3)}
    assert np.mean(y == 2) == pytest.approx(0.75, abs=0.03)
    assert (np.take_along_axis(down, y, 1) == 0).all()
    assert (np.take_along_axis(right, x, 2) == 0).all()


@pytest.mark.parametrize("look", _morph.LOOKS)
def test_pale_strokes_dots_and_lines_do_not_vanish(look):
    image = np.full((3, 9, 9, 1), -1, np.float32)
    image[0, 4, 4], image[1, 2:7, 4], image[2, 2:7, 3:6] = 1, 1, -0.8
    for seed in range(5):
        shown = (data.morphed_digits(image, look, seed=seed) > -1).any(axis=(1, 2, 3))
        # A gap may be longer than a dot.
        assert shown.all() or (look == "fractured" and shown[1:].all())


def test_digits_stay_what_they_are(monkeypatch, tmp_path):
    """Lower than on MNIST, where strokes are half as thick and the judge has seen more."""
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    images, labels, _ = data.load_images("digits")
    judge = classifier.digit_classifier(images, labels, steps=150)

    def kept(pictures):
        return np.mean(classifier.classify(judge, pictures)[1].argmax(axis=1) == LABELS)

    assert kept(DIGITS) > 0.9
    for look, least in (("swollen", 0.75), ("fractured", 0.65)):
        assert kept(data.morphed_digits(DIGITS, look)) > least
    assert kept(data.morphed_digits(DIGITS, "turned")) < 0.4


@pytest.mark.parametrize(
    "images, look, seed, error, named",
    [
        (DIGITS, "bold", 0, ValueError, "thin, thick, swollen, fractured, edges, left, right"),
        (DIGITS, None, 0, ValueError, "not None"),
        (DIGITS.repeat(3, axis=3), "thin", 0, ValueError, r"gray, of shape \(N, H, W, 1\)"),
        (DIGITS[..., 0], "thin", 0, ValueError, "count, height, width, channels"),
        ((DIGITS + 1) / 2, "thin", 0, ValueError, "Multiply pixels of 0 to 1 by 2"),
        (127.5 * (DIGITS + 1), "thin", 0, ValueError, r"must be in \[-1, 1\]"),
        (DIGITS.astype(int), "thin", 0, TypeError, "must hold floats"),
        (np.full((1, 8, 8, 1), -1.0), "thin", 0, ValueError, "no ink"),
        (DIGITS, "thin", -1, ValueError, "seed"),
        (DIGITS, "thin", 0.5, TypeError, "seed"),
    ],
)
def test_bad_input_is_refused(images, look, seed, error, named):
    with pytest.raises(error, match=named):
        data.morphed_digits(images, look, seed=seed)
