"""Losses against their formulas: sigmoids and logarithms in float64, and Goodfellow's theory."""

import math

import numpy as np
import pytest
import tensorflow as tf

from ganutils import losses

RANDOM = np.random.default_rng(0)
REAL_LOGITS = RANDOM.normal(size=(6, 1), scale=3).astype(np.float32)
FAKE_LOGITS = RANDOM.normal(size=(6, 1), scale=3).astype(np.float32)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def test_a_discriminator_that_cannot_tell():
    zeros = tf.zeros((5, 1))
    assert float(losses.discriminator_loss(zeros, zeros)) == pytest.approx(2 * math.log(2), 1e-6)
    assert float(losses.generator_loss(zeros)) == pytest.approx(math.log(2), 1e-6)
    assert float(losses.saturating_generator_loss(zeros)) == pytest.approx(-math.log(2), 1e-6)


def test_losses_are_their_formulas():
    d_real, d_fake = sigmoid(REAL_LOGITS), sigmoid(FAKE_LOGITS)
    d_loss = -np.mean(np.log(d_real)) - np.mean(np.log(1 - d_fake))
    assert float(losses.discriminator_loss(REAL_LOGITS, FAKE_LOGITS)) == pytest.approx(d_loss, 1e-5)
    g_loss = -np.mean(np.log(d_fake))
    assert float(losses.generator_loss(FAKE_LOGITS)) == pytest.approx(g_loss, 1e-5)
    g_loss = np.mean(np.log(1 - d_fake))
    assert float(losses.saturating_generator_loss(FAKE_LOGITS)) == pytest.approx(g_loss, 1e-5)


def test_real_and_fake_are_not_interchangeable():
    sure, fooled = tf.fill((2, 1), 3.0), tf.fill((2, 1), -3.0)
    right = 2 * math.log(1 + math.exp(-3))
    wrong = 2 * math.log(1 + math.exp(3))
    assert float(losses.discriminator_loss(sure, fooled)) == pytest.approx(right, 1e-5)
    assert float(losses.discriminator_loss(fooled, sure)) == pytest.approx(wrong, 1e-5)


def test_losses_are_scalars_and_means_for_any_shape_and_batch_size():
    d_loss = losses.discriminator_loss(REAL_LOGITS, FAKE_LOGITS)
    assert d_loss.shape == () and d_loss.dtype == tf.float32
    twice = losses.discriminator_loss(np.tile(REAL_LOGITS, (2, 3)), FAKE_LOGITS.ravel())
    np.testing.assert_allclose(twice, d_loss, rtol=1e-6)
    for loss in (losses.generator_loss, losses.saturating_generator_loss):
        assert loss(FAKE_LOGITS).shape == ()
        np.testing.assert_allclose(loss(np.tile(FAKE_LOGITS, 3)), loss(FAKE_LOGITS), rtol=1e-6)


def test_extreme_logits_stay_finite_with_finite_gradients():
    for real, fake, expected in [(1e4, -1e4, 0), (-1e4, 1e4, 2e4), (1e4, 1e4, 1e4)]:
        real, fake = tf.Variable([[real]]), tf.Variable([[fake]])
        with tf.GradientTape() as tape:
            d_loss = losses.discriminator_loss(real, fake)
        assert float(d_loss) == expected
        assert np.isfinite(tape.gradient(d_loss, [real, fake])).all()
    assert float(losses.generator_loss(tf.constant([[-1e4]]))) == 1e4
    assert float(losses.generator_loss(tf.constant([[1e4]]))) == 0
    assert float(losses.saturating_generator_loss(tf.constant([[1e4]]))) == -1e4
    assert float(losses.saturating_generator_loss(tf.constant([[-1e4]]))) == 0


def gradient(loss, *logits):
    logits = [tf.Variable(x) for x in logits]
    with tf.GradientTape() as tape:
        value = loss(*logits)
    return [g.numpy() for g in tape.gradient(value, logits)]


def test_gradients_with_respect_to_the_logits():
    d_real, d_fake = sigmoid(REAL_LOGITS), sigmoid(FAKE_LOGITS)
    n = len(REAL_LOGITS)
    by_real, by_fake = gradient(losses.discriminator_loss, REAL_LOGITS, FAKE_LOGITS)
    np.testing.assert_allclose(by_real, -(1 - d_real) / n, rtol=1e-4)
    np.testing.assert_allclose(by_fake, d_fake / n, rtol=1e-4)
    (by_fake,) = gradient(losses.generator_loss, FAKE_LOGITS)
    np.testing.assert_allclose(by_fake, -(1 - d_fake) / n, rtol=1e-4)
    (by_fake,) = gradient(losses.saturating_generator_loss, FAKE_LOGITS)
    np.testing.assert_allclose(by_fake, -d_fake / n, rtol=1e-4)


def test_only_the_saturating_gradient_vanishes_where_the_discriminator_is_sure():
    sure = np.float32([[-10]])  # D(G(z)) = 0.00005
    (saturating,) = gradient(losses.saturating_generator_loss, sure)
    (non_saturating,) = gradient(losses.generator_loss, sure)
    assert -1e-4 < saturating[0, 0] < 0  # the same direction, and next to nothing of it
    assert non_saturating[0, 0] == pytest.approx(-1, abs=1e-4)


def test_objectives_are_pairs_of_discriminator_and_generator_loss():
    assert losses.non_saturating == (losses.discriminator_loss, losses.generator_loss)
    assert losses.minimax == (losses.discriminator_loss, losses.saturating_generator_loss)


def test_minimax_is_one_value_that_one_player_raises_and_the_other_lowers():
    d_loss, g_loss = losses.minimax
    d_real, d_fake = sigmoid(REAL_LOGITS), sigmoid(FAKE_LOGITS)
    value = np.mean(np.log(d_real)) + np.mean(np.log(1 - d_fake))
    assert -float(d_loss(REAL_LOGITS, FAKE_LOGITS)) == pytest.approx(value, 1e-5)
    # The part of V that G moves is its own loss, and the sum of both does not depend on it.
    rest = float(d_loss(REAL_LOGITS, FAKE_LOGITS) + g_loss(FAKE_LOGITS))
    assert rest == pytest.approx(-np.mean(np.log(d_real)), 1e-5)
    by_real, by_fake = gradient(lambda r, f: d_loss(r, f) + g_loss(f), REAL_LOGITS, FAKE_LOGITS)
    assert np.abs(by_fake).max() < 1e-7 < np.abs(by_real).min()
    # Zero-sum is a property of this pair, not of every pair.
    d_loss, g_loss = losses.non_saturating
    _, by_fake = gradient(lambda r, f: d_loss(r, f) + g_loss(f), REAL_LOGITS, FAKE_LOGITS)
    assert np.abs(by_fake).max() > 1e-2


def test_the_best_discriminator_of_two_known_distributions_is_the_log_ratio():
    # Three points with p = (4, 2, 2) / 8 and q = (1, 2, 5) / 8, as samples in these proportions.
    p, q = np.array([4, 2, 2]) / 8, np.array([1, 2, 5]) / 8
    real_points, fake_points = [0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2, 2, 2]
    logits = tf.Variable(np.zeros(3))

    for _ in range(200):
        with tf.GradientTape() as tape:
            d_loss = losses.discriminator_loss(
                tf.gather(logits, real_points), tf.gather(logits, fake_points)
            )
        logits.assign_sub(4 * tf.convert_to_tensor(tape.gradient(d_loss, logits)))
    np.testing.assert_allclose(logits, np.log(p / q), atol=1e-6)
    np.testing.assert_allclose(tf.sigmoid(logits), p / (p + q), atol=1e-6)
    middle = (p + q) / 2
    jensen_shannon = (p @ np.log(p / middle) + q @ np.log(q / middle)) / 2
    assert float(d_loss) == pytest.approx(2 * math.log(2) - 2 * jensen_shannon, abs=1e-9)
