"""Moved images by hand, and what shares of categories are worth, against scipy and closed forms."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from helpers import real_batch, step_at

from ganutils.families import invariance
from ganutils.latents import stream

SHAPE = (9, 7, 1)


NONE, SOME = ((0.0, 0.0), (0.0, 0.0)), ((0.3, 0.5), (0.1, 0.2))


@pytest.mark.parametrize(("shift", "warp"), [(2.0, NONE), (0.0, SOME), (1.5, SOME)])
def test_an_image_is_moved_as_scipy_moves_it(shift, warp):
    images = real_batch(shape=(4, *SHAPE))
    moved = invariance.move(images, shift=shift, warp=warp, seed=3, step=step_at(5))
    key = stream(3, 5, "move")
    draws = tf.random.stateless_uniform((4, 6), key, minval=-1.0, maxval=1.0).numpy()
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    points = np.stack([columns.ravel(), rows.ravel()]) - middle[:, None]  # (x, y) by pixel
    for image, found, draw in zip(
        images[..., 0], moved[..., 0], draws.reshape(4, 2, 3), strict=True
    ):
        matrix = np.eye(2) + np.array(warp) * draw[:, :2]
        x, y = matrix @ points + (middle + shift * draw[:, 2])[:, None]
        expected = scipy.ndimage.map_coordinates(
            image, [y, x], order=1, mode="grid-constant", cval=-1.0
        )
        np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-4)


def test_an_image_moved_by_nothing_is_itself_and_another_step_moves_otherwise():
    images = real_batch(shape=(4, *SHAPE))
    still = invariance.move(images, shift=0.0, warp=NONE, seed=3, step=0)
    np.testing.assert_allclose(still, images, atol=1e-6)
    one, again, other = (
        invariance.move(images, shift=2.0, warp=SOME, seed=3, step=step) for step in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def test_what_shares_tell_is_their_mutual_information():
    logits = np.random.default_rng(0).normal(0, 2, (50, 4)).astype(np.float32)
    joint = scipy.special.softmax(logits, axis=1) / 50  # of image and category
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    expected = scipy.stats.entropy(joint.ravel(), independent.ravel())
    assert float(invariance.category_information(logits)) == pytest.approx(expected, rel=1e-5)


def test_sure_and_even_shares_tell_log_k_and_equal_ones_nothing():
    sure = 1000.0 * tf.one_hot([0, 1, 2, 3, 3, 2, 1, 0], 4)
    assert float(invariance.category_information(sure)) == pytest.approx(math.log(4), rel=1e-5)
    alike = tf.tile([[1.0, -2.0, 1000.0, 0.0]], (8, 1))
    assert float(invariance.category_information(alike)) == pytest.approx(0, abs=1e-6)


def test_consistency_is_the_cross_entropy_and_moves_the_twin_alone():
    logits, moved = (tf.Variable(x) for x in np.random.default_rng(1).normal(size=(2, 6, 3)))
    with tf.GradientTape() as tape:
        loss = invariance.consistency_loss(logits, moved)
    shares, moved_shares = (scipy.special.softmax(x.numpy(), axis=1) for x in (logits, moved))
    assert float(loss) == pytest.approx(-(shares * np.log(moved_shares)).sum(axis=1).mean())
    held, slope = tape.gradient(loss, [logits, moved])
    assert held is None
    np.testing.assert_allclose(slope, (moved_shares - shares) / 6, rtol=1e-5, atol=1e-9)


def linear_reader(seed):
    kernel = np.random.default_rng(seed).normal(size=(63, 3)).astype(np.float32)
    return kernel, lambda x: tf.reshape(x, (-1, 63)) @ kernel


def test_an_image_is_changed_along_the_slope_of_its_reading_and_no_further():
    images, (kernel, read) = real_batch(shape=(4, *SHAPE)), linear_reader(2)
    twins = invariance.confuse(read, images, read(images), size=2.5, seed=3, step=step_at(7))
    change = np.reshape(twins - images, (4, 63))
    np.testing.assert_allclose(np.linalg.norm(change, axis=1), 2.5, rtol=1e-5)
    noise = tf.random.stateless_normal((4, *SHAPE), stream(3, 7, "conf")).numpy().reshape(4, 63)
    pixels = images.numpy().reshape(4, 63)
    first = pixels + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    shares, others = (scipy.special.softmax(x @ kernel, axis=1) for x in (pixels, first))
    slope = (others - shares) @ kernel.T
    expected = 2.5 * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-4)


def test_nothing_is_learned_through_the_direction():
    images, kernel = real_batch(shape=(4, *SHAPE)), tf.Variable(linear_reader(2)[0])

    def read(x):
        return tf.reshape(x, (-1, 63)) @ kernel

    with tf.GradientTape() as tape:
        twins = invariance.confuse(read, images, read(images), size=2.5, seed=3, step=step_at(7))
    assert tape.gradient(twins, kernel) is None


def test_the_term_is_the_weighted_sum_and_refuses_weights_below_0():
    images, (_, read) = real_batch(shape=(4, *SHAPE)), linear_reader(2)
    draw, how = {"seed": 3, "step": 7}, {"shift": 1.0, "warp": SOME}
    term = invariance.make_invariance_term(read, weights=(2.0, 0.25), size=0.5, seed=3, **how)
    moved = invariance.move(images, **how, **draw)
    confused = invariance.confuse(read, images, read(images), size=0.5, **draw)
    losses = [invariance.consistency_loss(read(images), read(twin)) for twin in (moved, confused)]
    expected = 2 * sum(losses) - 0.25 * invariance.category_information(read(images))
    assert float(term(images, step_at(7))) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="weights"):
        invariance.make_invariance_term(read, seed=3, weights=(1.0, -0.1))
