"""Losses against their formulas: sigmoids and logarithms in float64, and Goodfellow's theory."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import math

import numpy as np
import pytest
import tensorflow as tf

from ganutils import losses

assert runtime  # used by being imported

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
    assert losses.least_squares == (
        losses.least_squares_discriminator_loss,
        losses.least_squares_generator_loss,
    )
    assert losses.hinge == (losses.hinge_loss, losses.score_loss)
    assert losses.wasserstein == (losses.critic_loss, losses.score_loss)


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


# The other pairs, and smoothing.


@pytest.mark.parametrize(
    "pair, at_zero",
    [
        ("non_saturating", (2 * math.log(2), math.log(2))),
        ("minimax", (2 * math.log(2), -math.log(2))),
        ("least_squares", (0.5, 0.5)),
        ("hinge", (2, 0)),
        ("wasserstein", (0, 0)),
    ],
)
def test_every_pair_at_zero_scores(pair, at_zero):
    d_loss, g_loss = getattr(losses, pair)
    zeros = tf.zeros((5, 1))
    values = d_loss(zeros, zeros), g_loss(zeros)
    assert [(x.shape, x.dtype) for x in values] == [((), tf.float32)] * 2
    np.testing.assert_allclose(values, at_zero, rtol=1e-6)


def numpy_losses(real, fake):
    """Loss (by name) of scores in float64, written out example by example."""
    real, fake = real.astype(np.float64).ravel(), fake.astype(np.float64).ravel()
    return {
        "least_squares_discriminator_loss": sum((r - 1) ** 2 for r in real) / (2 * len(real))
        + sum(f**2 for f in fake) / (2 * len(fake)),
        "least_squares_generator_loss": sum((f - 1) ** 2 for f in fake) / (2 * len(fake)),
        "hinge_loss": -np.minimum(0, real - 1).mean() - np.minimum(0, -1 - fake).mean(),
        "critic_loss": fake.sum() / len(fake) - real.sum() / len(real),
        "score_loss": -fake.sum() / len(fake),
    }


@pytest.mark.parametrize("name", numpy_losses(REAL_LOGITS, FAKE_LOGITS))
def test_scores_give_what_numpy_gives_for_any_shape_and_batch_size(name):
    loss, fakes = getattr(losses, name), np.concatenate([FAKE_LOGITS, REAL_LOGITS[:3]])
    arguments = (
        (fakes,) if name.endswith(("generator_loss", "score_loss")) else (REAL_LOGITS, fakes)
    )
    expected = numpy_losses(REAL_LOGITS, fakes)[name]
    assert abs(expected) > 0.1
    assert float(loss(*arguments)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(*[np.tile(x, (2, 3)) for x in arguments])) == pytest.approx(expected, 1e-5)


def test_hinge_takes_no_notice_beyond_the_margin():
    real, fake = np.float32([[-2], [0.5], [1.5]]), np.float32([[-1.5], [-0.5], [2]])
    by_real, by_fake = gradient(losses.hinge_loss, real, fake)
    np.testing.assert_allclose(by_real.ravel(), [-1 / 3, -1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(by_fake.ravel(), [0, 1 / 3, 1 / 3], rtol=1e-6)
    (by_fake,) = gradient(losses.score_loss, fake)
    np.testing.assert_allclose(by_fake.ravel(), [-1 / 3] * 3, rtol=1e-6)


def test_least_squares_is_least_at_its_targets():
    right = losses.least_squares_discriminator_loss(tf.ones((4, 1)), tf.zeros((3, 1)))
    wrong = losses.least_squares_discriminator_loss(tf.zeros((4, 1)), tf.ones((3, 1)))
    assert (float(right), float(wrong)) == (0, 1)
    assert float(losses.least_squares_generator_loss(tf.ones((3, 1)))) == 0
    halves = tf.fill((4, 1), 0.5)
    assert float(losses.least_squares_discriminator_loss(halves, halves)) == 0.25
    assert float(losses.least_squares_generator_loss(halves)) == 0.125


def test_the_best_critic_of_two_points_is_the_distance_between_them():
    # Over 1-Lipschitz f(x) = a x, |a| <= 1: the distance of the means, which is W1 of two points.
    real, fake = np.float32([[3], [3]]), np.float32([[0.5], [0.5], [0.5]])
    values = [float(losses.critic_loss(a * real, a * fake)) for a in np.linspace(-1, 1, 9)]
    assert min(values) == values[-1] == -2.5


def test_smoothing_by_its_formula():
    d_real, d_fake = sigmoid(REAL_LOGITS), sigmoid(FAKE_LOGITS)
    for smoothing in (0.1, 0.3):
        expected = -np.mean((1 - smoothing) * np.log(d_real) + smoothing * np.log(1 - d_real))
        expected -= np.mean(np.log(1 - d_fake))
        d_loss = losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS, smoothing=smoothing)
        assert float(d_loss) == pytest.approx(expected, 1e-5)
        zeros = tf.zeros((5, 1))
        at_zero = losses.smoothed_discriminator_loss(zeros, zeros, smoothing=smoothing)
        assert float(at_zero) == pytest.approx(2 * math.log(2), 1e-6)
    default = losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS)
    tenth = losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS, smoothing=0.1)
    assert float(default) == float(tenth)


def test_no_smoothing_is_the_plain_loss():
    plain = float(losses.discriminator_loss(REAL_LOGITS, FAKE_LOGITS))
    none = losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS, smoothing=0)
    some = losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS, smoothing=0.01)
    assert float(none) == plain != float(some)


@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.5, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing=.* must be in"):
        losses.smoothed_discriminator_loss(REAL_LOGITS, FAKE_LOGITS, smoothing=smoothing)


@pytest.mark.parametrize("p, q", [(4, 1), (2, 2), (1, 6), (3, 0)])
def test_the_best_logit_under_smoothing(p, q):
    """A point with p of 8 real samples and q of 8 generated ones; the others stay at logit 0."""

    def d_loss(logit, smoothing):
        real, fake = (np.where(np.arange(8) < count, logit, 0.0) for count in (p, q))
        return float(losses.smoothed_discriminator_loss(real, fake, smoothing=smoothing))

    # Setting the derivative -0.9 p (1 - D) + 0.1 p D + q D to 0 gives D = 0.9 p / (p + q).
    best = math.log(0.9 * p / (q + 0.1 * p))
    scan = best + np.linspace(-4, 4, 161)
    values = [d_loss(logit, 0.1) for logit in scan]
    assert scan[np.argmin(values)] == pytest.approx(best, abs=1e-9)
    assert sigmoid(best) == pytest.approx(0.9 * p / (p + q))
    # Without it the best logit is another one: log(p / q), and beyond all bounds where q is 0.
    assert d_loss(best + 0.05, 0) < d_loss(best, 0)
