"""Losses and penalties against formulas in float64, theory, known gradients, finite differences."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import gradient, sigmoid

from ganutils import latents, losses
from ganutils.families import mode_collapse

assert runtime  # used by being imported

RANDOM = np.random.default_rng(0)
REAL, FAKE = (RANDOM.normal(size=(6, 1), scale=3).astype(np.float32) for _ in range(2))
LOG2 = math.log(2)


# Losses.


def formulas(real, fake):
    """Loss (by name) and its arguments' number, written out in float64."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    as_fake = -np.mean(np.log(1 - sigmoid(fake)))
    return {
        "discriminator_loss": (2, -np.mean(np.log(sigmoid(real))) + as_fake),
        "generator_loss": (1, -np.mean(np.log(sigmoid(fake)))),
        "saturating_generator_loss": (1, -as_fake),
        "least_squares_discriminator_loss": (
            2,
            np.mean((real - 1) ** 2 / 2) + np.mean(fake**2 / 2),
        ),
        "least_squares_generator_loss": (1, np.mean((fake - 1) ** 2 / 2)),
        "hinge_discriminator_loss": (
            2,
            -np.minimum(0, real - 1).mean() - np.minimum(0, -1 - fake).mean(),
        ),
        "critic_loss": (2, fake.mean() - real.mean()),
        "wasserstein_generator_loss": (1, -fake.mean()),
    }


@pytest.mark.parametrize("name", formulas(REAL, FAKE))
def test_losses_are_their_formulas_for_any_shape_and_batch_size(name):
    loss, fakes = getattr(losses, name), np.concatenate([FAKE, REAL[:3]])
    count, expected = formulas(REAL, fakes)[name]
    arguments = (REAL, fakes)[-count:]
    value = loss(*arguments)
    assert value.shape == () and value.dtype == tf.float32 and abs(expected) > 0.1
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(loss(*[np.tile(x, (2, 3)) for x in arguments])) == pytest.approx(expected, 1e-5)
    assert float(loss(*[x.ravel() for x in arguments])) == pytest.approx(expected, 1e-5)


AT_ZERO = {
    "non_saturating": (losses.discriminator_loss, losses.generator_loss, 2 * LOG2, LOG2),
    "minimax": (losses.discriminator_loss, losses.saturating_generator_loss, 2 * LOG2, -LOG2),
    "least_squares": (
        losses.least_squares_discriminator_loss,
        losses.least_squares_generator_loss,
        0.5,
        0.5,
    ),
    "hinge": (losses.hinge_discriminator_loss, losses.wasserstein_generator_loss, 2, 0),
    "wasserstein": (losses.critic_loss, losses.wasserstein_generator_loss, 0, 0),
}


@pytest.mark.parametrize("name", AT_ZERO)
def test_objectives_are_pairs_with_known_values_at_zero(name):
    d_loss, g_loss = getattr(losses, name)
    *pair, d_value, g_value = AT_ZERO[name]
    assert [d_loss, g_loss] == pair
    zeros = tf.zeros((5, 1))
    np.testing.assert_allclose([d_loss(zeros, zeros), g_loss(zeros)], [d_value, g_value], rtol=1e-6)


def test_extreme_logits_stay_finite_with_finite_gradients():
    for real, fake, expected in [(1e4, -1e4, 0), (-1e4, 1e4, 2e4), (1e4, 1e4, 1e4)]:
        pair = [tf.constant([[real]]), tf.constant([[fake]])]
        assert float(losses.discriminator_loss(*pair)) == expected
        assert np.isfinite(gradient(losses.discriminator_loss, *pair)).all()
    low, high = tf.constant([[-1e4]]), tf.constant([[1e4]])
    assert (
        float(losses.generator_loss(low)) == 1e4 == -float(losses.saturating_generator_loss(high))
    )
    assert float(losses.generator_loss(high)) == 0 == float(losses.saturating_generator_loss(low))


def test_gradients_with_respect_to_the_logits():
    d_real, d_fake, n = sigmoid(REAL), sigmoid(FAKE), len(REAL)
    by_real, by_fake = gradient(losses.discriminator_loss, REAL, FAKE)
    np.testing.assert_allclose(by_real, -(1 - d_real) / n, rtol=1e-4)
    np.testing.assert_allclose(by_fake, d_fake / n, rtol=1e-4)
    (by_fake,) = gradient(losses.generator_loss, FAKE)
    np.testing.assert_allclose(by_fake, -(1 - d_fake) / n, rtol=1e-4)
    (by_fake,) = gradient(losses.saturating_generator_loss, FAKE)
    np.testing.assert_allclose(by_fake, -d_fake / n, rtol=1e-4)
    # Only the saturating gradient vanishes where D is sure: here D(G(z)) = 0.00005.
    sure = np.float32([[-10]])
    assert -1e-4 < gradient(losses.saturating_generator_loss, sure)[0] < 0
    assert gradient(losses.generator_loss, sure)[0] == pytest.approx(-1, abs=1e-4)


def test_minimax_is_one_value_that_one_player_raises_and_the_other_lowers():
    def total(pair):
        return lambda real, fake: pair[0](real, fake) + pair[1](fake)

    # The part of V that G moves is its own loss, and the sum of both does not depend on it.
    rest = float(total(losses.minimax)(REAL, FAKE))
    assert rest == pytest.approx(-np.mean(np.log(sigmoid(REAL))), 1e-5)
    by_real, by_fake = gradient(total(losses.minimax), REAL, FAKE)
    assert np.abs(by_fake).max() < 1e-7 < np.abs(by_real).min()
    # Zero-sum is a property of this pair, not of every pair.
    _, by_fake = gradient(total(losses.non_saturating), REAL, FAKE)
    assert np.abs(by_fake).max() > 1e-2


def test_the_best_discriminator_of_two_known_distributions_is_the_log_ratio():
    # Three points with p = (4, 2, 2) / 8 and q = (1, 2, 5) / 8, as samples in these proportions.
    p, q = np.array([4, 2, 2]) / 8, np.array([1, 2, 5]) / 8
    real_points, fake_points = [0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2, 2, 2]

    def d_loss(logits):
        real_logits, fake_logits = tf.gather(logits, real_points), tf.gather(logits, fake_points)
        return losses.discriminator_loss(real_logits, fake_logits)

    # The loss is convex in the logits, so a slope of 0 is the minimum.
    best = np.log(p / q)
    slopes = [gradient(d_loss, best + shift)[0] for shift in (-1, 0, 1)]
    np.testing.assert_allclose(slopes[1], np.zeros(3), atol=1e-15)
    assert np.all(slopes[0] < -0.01) and np.all(slopes[2] > 0.01)
    np.testing.assert_allclose(sigmoid(best), p / (p + q))
    middle = (p + q) / 2
    jensen_shannon = (p @ np.log(p / middle) + q @ np.log(q / middle)) / 2
    assert float(d_loss(tf.constant(best))) == pytest.approx(2 * LOG2 - 2 * jensen_shannon)


def test_hinge_takes_no_notice_beyond_the_margin():
    real, fake = np.float32([[-2], [0.5], [1.5]]), np.float32([[-1.5], [-0.5], [2]])
    by_real, by_fake = gradient(losses.hinge_discriminator_loss, real, fake)
    np.testing.assert_allclose(by_real.ravel(), [-1 / 3, -1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(by_fake.ravel(), [0, 1 / 3, 1 / 3], rtol=1e-6)
    (by_fake,) = gradient(losses.wasserstein_generator_loss, fake)
    np.testing.assert_allclose(by_fake.ravel(), [-1 / 3] * 3, rtol=1e-6)


def test_least_squares_is_least_at_its_targets():
    d_loss, g_loss = losses.least_squares
    ones, zeros, halves = tf.ones((4, 1)), tf.zeros((3, 1)), tf.fill((4, 1), 0.5)
    assert (float(d_loss(ones, zeros)), float(d_loss(zeros, ones)), float(g_loss(ones))) == (
        0,
        1,
        0,
    )
    assert (float(d_loss(halves, halves)), float(g_loss(halves))) == (0.25, 0.125)


def test_the_best_critic_of_two_points_is_the_distance_between_them():
    # Over 1-Lipschitz f(x) = a x, |a| <= 1: the distance of the means, which is W1 of two points.
    real, fake = np.float32([[3], [3]]), np.float32([[0.5], [0.5], [0.5]])
    values = [float(losses.critic_loss(a * real, a * fake)) for a in np.linspace(-1, 1, 9)]
    assert min(values) == values[-1] == -2.5


# Penalties on the slope.

SLOPE = np.float32([2, -1, 2])  # of length 3
POINTS, OTHERS = (RANDOM.normal(size=(6, 3)).astype(np.float32) for _ in range(2))


def linear(x, training):
    return tf.linalg.matvec(x, tf.cast(SLOPE, x.dtype))[:, None] + 5


def test_penalties_of_a_linear_critic():
    penalty = losses.gradient_penalty(linear, POINTS, OTHERS, seed=1, step=2)
    assert penalty.shape == () and float(penalty) == pytest.approx((3 - 1) ** 2, 1e-6)
    assert float(losses.r1_penalty(linear, POINTS)) == pytest.approx(3**2 / 2, 1e-6)


def test_penalties_take_the_slope_over_all_axes_of_an_image():
    slope = RANDOM.normal(size=(2, 3, 2)).astype(np.float32)
    length = np.sqrt((slope.astype(np.float64) ** 2).sum())
    real, fake = (RANDOM.normal(size=(5, 2, 3, 2)).astype(np.float32) for _ in range(2))

    def critic(x, training):
        return tf.reduce_sum(slope * x, axis=[1, 2, 3])[:, None]

    penalty = losses.gradient_penalty(critic, real, fake, seed=0, step=0)
    assert float(penalty) == pytest.approx((length - 1) ** 2, 1e-5)
    assert float(losses.r1_penalty(critic, real)) == pytest.approx(length**2 / 2, 1e-5)


def test_penalties_of_a_quadratic_critic():
    # f(x) = c |x|^2 / 2 has the slope c x; where real and fake are one set, x_hat is that set.
    c, points = 0.7, POINTS.astype(np.float64)
    lengths = c * np.linalg.norm(points, axis=1)

    def critic(x, training):
        return c * tf.reduce_sum(x**2, axis=1, keepdims=True) / 2

    penalty = losses.gradient_penalty(critic, points, points, seed=3, step=4)
    assert float(penalty) == pytest.approx(np.mean((lengths - 1) ** 2), rel=1e-12)
    assert float(losses.r1_penalty(critic, points)) == pytest.approx(np.mean(lengths**2) / 2, 1e-12)
    # The mean of squares is not the square of a mean: examples are penalized one by one.
    assert abs(np.mean((lengths - 1) ** 2) - (np.mean(lengths) - 1) ** 2) > 0.01


def test_the_weights_gradient_is_that_of_finite_differences():
    shapes = [(3, 4), (4, 1)]
    start, directions = ([RANDOM.normal(size=shape) for shape in shapes] for _ in range(2))
    real, fake = POINTS.astype(np.float64), OTHERS.astype(np.float64)

    def penalties(inner, outer):
        def critic(x, training):
            return tf.tanh(x @ inner) @ outer

        yield losses.gradient_penalty(critic, real, fake, seed=5, step=6)
        yield losses.r1_penalty(critic, real)

    def along(far):
        moved = [weight + far * way for weight, way in zip(start, directions, strict=True)]
        return [float(penalty) for penalty in penalties(*moved)]

    slopes = (np.array(along(1e-5)) - along(-1e-5)) / 2e-5
    variables = [tf.Variable(weight) for weight in start]
    with tf.GradientTape(persistent=True) as tape:
        values = list(penalties(*variables))
    for value, slope in zip(values, slopes, strict=True):
        by_weight = tape.gradient(value, variables)
        found = sum(np.sum(g * way) for g, way in zip(by_weight, directions, strict=True))
        assert value.dtype == tf.float64 and abs(slope) > 0.05
        assert found == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("every", (1, 3))
@pytest.mark.parametrize("compiled", (False, True))
@pytest.mark.parametrize("batches", [(tf.ones(2),), (tf.ones(2), tf.zeros(2))])
def test_a_lazy_term_is_computed_in_every_so_many_steps_with_the_same_sum(every, compiled, batches):
    asked, weight = tf.Variable(0), tf.Variable(2.0)

    def term(*batches_and_step):
        asked.assign_add(1)
        return weight**2 * tf.reduce_sum(sum(batches_and_step[:-1]))

    lazy = losses.lazily(term, every=every)

    def slope_at(step):
        with tf.GradientTape() as tape:
            value = lazy(*batches, step)
        return value, tape.gradient(value, weight, unconnected_gradients="zero")

    slope_at = tf.function(slope_at) if compiled else slope_at
    found = [slope_at(tf.constant(step)) for step in range(6)]
    due = [every if step % every == 0 else 0 for step in range(6)]
    assert [(float(v), float(g)) for v, g in found] == [(8 * times, 8 * times) for times in due]
    assert int(asked) == 6 // every


def test_a_penalty_never_due_is_refused():
    with pytest.raises(ValueError, match="every=0"):
        losses.lazily(None, every=0)


def test_a_critic_without_slope_has_a_penalty_of_1():
    def constant(x, training):
        return tf.ones((len(x), 1))

    assert float(losses.gradient_penalty(constant, POINTS, OTHERS, seed=0, step=0)) == 1
    assert float(losses.r1_penalty(constant, POINTS)) == 0
    weight = np.zeros((3, 1), np.float32)

    def penalty(weight):
        def critic(x, training):
            return x @ weight

        return losses.gradient_penalty(critic, POINTS, OTHERS, seed=0, step=0)

    np.testing.assert_array_equal(gradient(penalty, weight)[0], weight)  # finite, and 0


def test_some_examples_without_slope_do_not_spoil_the_others():
    active = POINTS @ SLOPE > 0
    assert 0 < active.sum() < len(active)

    def penalty(weight):
        def critic(x, training):
            return tf.nn.relu(x @ weight)

        return losses.gradient_penalty(critic, POINTS, POINTS, seed=0, step=0)

    expected = np.where(active, (3 - 1) ** 2, 1).mean()
    assert float(penalty(SLOPE[:, None])) == pytest.approx(expected, 1e-6)
    expected = active.mean() * 2 * (3 - 1) * SLOPE[:, None] / 3  # of (|a| - 1)^2, active ones only
    np.testing.assert_allclose(gradient(penalty, SLOPE[:, None])[0], expected, rtol=1e-5)


def spied(real, fake, **key):
    """The points at which the penalty asks for the critic's slope."""
    calls = []

    def critic(x, training):
        assert training is True
        calls.append(x.numpy())
        return linear(x, training)

    losses.gradient_penalty(critic, real, fake, **key)
    (points,) = calls
    return points


def shares(count, **key):
    """How far each of so many points is on its way from real to fake."""
    return spied(np.zeros((count, 3), np.float32), np.ones((count, 3), np.float32), **key)[:, 0]


def test_points_lie_on_segments_one_share_for_each_example():
    points = spied(POINTS, OTHERS, seed=1, step=2)
    mix = np.median((points - POINTS) / (OTHERS - POINTS), axis=1)
    np.testing.assert_allclose(points, POINTS + mix[:, None] * (OTHERS - POINTS), atol=1e-6)
    assert points.dtype == np.float32 and len(np.unique(mix)) == len(mix)


def test_the_share_is_uniform_from_real_to_fake():
    mix = np.sort(shares(4000, seed=1, step=2))
    assert mix.min() >= 0 and mix.max() < 1
    # Kolmogorov and Smirnov: beyond 1.95 / sqrt(count) once in a thousand keys, and this is one.
    assert np.abs(mix - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)


def test_points_depend_on_seed_and_step_and_nothing_else():
    first = shares(6, seed=1, step=2)
    tf.random.set_seed(7)
    tf.random.normal((3,))
    np.testing.assert_array_equal(first, shares(6, seed=1, step=tf.constant(2, tf.int64)))
    for key in ({"seed": 1, "step": 3}, {"seed": 2, "step": 2}, {"seed": 2, "step": 1}):
        assert np.abs(first - shares(6, **key)).min() > 1e-4


def test_points_do_not_depend_on_the_latents_of_the_same_seed_and_step():
    # Normal numbers are made of uniform ones, by Box and Muller: exp(-|pair|^2 / 2) is such a one.
    count, key = 2000, {"seed": 1, "step": 2}
    with tf.device("CPU:0"):
        pairs = latents.sample_latents(count, 2, **key).numpy()
        plain = tf.random.stateless_uniform((2 * count,), seed=[key["seed"], key["step"]]).numpy()
        mix = shares(2 * count, **key)
    uniforms = np.exp(-(pairs**2).sum(axis=1) / 2)
    assert np.corrcoef(uniforms, plain[::2])[0, 1] > 0.99  # the trap
    for half in (mix[:count], mix[::2], mix[1::2]):
        assert abs(np.corrcoef(uniforms, half)[0, 1]) < 4 / math.sqrt(count)


@pytest.mark.parametrize("other", [(5, 3), (6, 2), (6, 3, 1), (1, 3)])
def test_a_penalty_between_batches_of_different_shapes_is_refused(other):
    with pytest.raises(ValueError, match="same shape"):
        losses.gradient_penalty(linear, POINTS, np.zeros(other, np.float32), seed=0, step=0)


def test_penalties_of_a_keras_model_in_mixed_precision():
    dense = keras.layers.Dense(1, dtype="mixed_bfloat16")
    critic = keras.Sequential([keras.Input((3,)), dense])
    dense.kernel.assign(SLOPE[:, None])  # exact in bfloat16
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(critic, POINTS, OTHERS, seed=0, step=0)
    assert penalty.dtype == tf.float32
    assert float(penalty) == pytest.approx(4, rel=1e-6)
    by_kernel = tape.gradient(penalty, critic.trainable_variables)[0]
    np.testing.assert_allclose(by_kernel, 2 * (3 - 1) * SLOPE[:, None] / 3, rtol=0.02)
    assert float(losses.r1_penalty(critic, POINTS)) == pytest.approx(4.5, rel=1e-6)


# Clipping.


def test_clipping_moves_only_what_is_outside():
    weight, keras_weight = tf.Variable([[-2.0, -0.25], [0.0, 3.0]]), keras.Variable([0.5, 0.501])
    losses.clip_weights([weight, keras_weight], 0.5)
    np.testing.assert_array_equal(weight, [[-0.5, -0.25], [0, 0.5]])
    np.testing.assert_array_equal(keras_weight, [0.5, 0.5])


@pytest.mark.parametrize("limit", [0, -0.01, math.nan])
def test_a_limit_not_above_0_is_refused_before_anything_is_clipped(limit):
    weight = tf.Variable([2.0])
    with pytest.raises(ValueError, match="above 0"):
        losses.clip_weights([weight], limit)
    assert weight.numpy() == [2]


# All of them as one program.


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
def test_penalties_in_a_compiled_step_are_as_eager_and_traced_once(jit_compile):
    def start():
        weight = tf.Variable(np.concatenate([SLOPE[:, None], np.zeros((3, 1), np.float32)], axis=1))
        return weight, mode_collapse.HistoricalAverage([weight])

    def train(weight, average, step):
        def critic(x, training=True):  # some examples have no slope
            return tf.reduce_sum(tf.nn.relu(x @ weight), axis=1)

        with tf.GradientTape(persistent=True) as tape:
            values = [
                # XLA draws other numbers; between a point and itself they make no difference.
                losses.gradient_penalty(critic, POINTS, POINTS, seed=1, step=step),
                losses.r1_penalty(critic, POINTS),
                mode_collapse.feature_matching(critic, POINTS, OTHERS),
                average(step),
            ]
        gradients = [tape.gradient(value, weight) for value in values]
        weight.assign_sub(0.1 * gradients[0] - 0.1)
        losses.clip_weights([weight], 1.9)
        return [*values, *gradients]

    eager, compiled = start(), start()
    step = tf.function(lambda step: train(*compiled, step), jit_compile=jit_compile)
    for number in range(3):
        got, expected = step(tf.constant(number)), train(*eager, tf.constant(number))
        assert all(np.isfinite(value).all() for value in got)
        for a, b in zip([*got, compiled[0]], [*expected, eager[0]], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert step.experimental_get_tracing_count() == 1
