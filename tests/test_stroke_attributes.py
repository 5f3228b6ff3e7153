"""Strokes: bars and rings drawn with smooth edges, a regression, the distance transform."""

import math

import numpy as np
import pytest
import scipy.ndimage
from bars import drawn, sheared_bar, turned_bar

from ganutils import data
from ganutils.stroke_attributes import stroke_slant, stroke_width


@pytest.mark.parametrize("slant", [-0.6, -0.25, 0.0, 0.1, 0.5])
def test_the_slant_of_a_sheared_bar_is_its_shear(slant):
    for width in (2.0, 4.0):
        assert stroke_slant(sheared_bar(slant, width))[0] == pytest.approx(slant, abs=0.01)


def test_slant_does_not_depend_on_place_brightness_or_company():
    image = sheared_bar(0.3)
    slant = stroke_slant(image)[0]
    moved, pale = np.roll(image, (2, -3), axis=(1, 2)), (image + 1) * 0.3 - 1
    together = stroke_slant(np.concatenate([moved, pale, image[:, :, ::-1]]))
    np.testing.assert_allclose(together, [slant, slant, -slant], atol=1e-6)


def test_slant_agrees_with_a_weighted_regression_of_right_on_up():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 9, 7, 1)).astype(np.float32)
    ink = (image[0, :, :, 0].astype(np.float64) + 1) / 2
    rows, columns = np.mgrid[:9, :7]
    slope = np.polyfit(-rows.ravel(), columns.ravel(), 1, w=np.sqrt(ink.ravel()))[0]
    variance = np.average((rows - np.average(rows, weights=ink)) ** 2, weights=ink)
    expected = slope * variance / (variance + 1 / 12)
    assert stroke_slant(image)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("width", [2.5, 3.0, 4.0])
def test_the_width_of_a_bar_is_its_width(width):
    for degrees in (0, 20, 45, 70, 90):
        measured = stroke_width(turned_bar(math.radians(degrees), width))[0]
        assert measured == pytest.approx(width / (1 + width / 20), rel=0.07)


@pytest.mark.parametrize("width", [2.0, 3.5])
def test_the_width_of_a_ring_is_that_of_its_stroke(width):
    ring = drawn(lambda x, y: abs(np.hypot(x, y) - 8) <= width / 2)
    assert stroke_width(ring)[0] == pytest.approx(width, rel=0.03)


def test_width_does_not_depend_on_place_or_brightness():
    image = turned_bar(0.4, 3.0)
    np.testing.assert_allclose(stroke_width((image + 1) * 0.3 - 1), stroke_width(image), rtol=1e-6)
    inner = turned_bar(0.0, 3.0)
    edge = np.roll(inner, 12, axis=2)  # its last column is the image's
    assert edge[0, 14, -1] > -1
    np.testing.assert_allclose(stroke_width(edge), stroke_width(inner), rtol=0.02)


def test_on_digits_width_agrees_with_the_distance_transform():
    def by_distance(one):
        inside = scipy.ndimage.distance_transform_edt(scipy.ndimage.zoom(one, 4, order=1) > 0.5)
        return inside[inside > 0].mean()  # a quarter of the width of a bar

    images = data.load_images("digits", split="test")[0][:80]
    expected = [by_distance(one) for one in (images[..., 0] + 1) / 2]
    assert np.corrcoef(expected, stroke_width(images))[0, 1] > 0.8


@pytest.mark.parametrize("measure", [stroke_slant, stroke_width])
def test_bad_images_are_refused(measure):
    empty = np.concatenate([sheared_bar(0.0), np.full((1, 28, 28, 1), -1, np.float32)])
    for images, error, words in [
        (empty, ValueError, "image 1 has no ink"),
        (sheared_bar(0.0)[0], ValueError, "shape"),
        (np.zeros((1, 28, 28, 1), np.uint8), TypeError, "floats"),
    ]:
        with pytest.raises(error, match=words):
            measure(images)
