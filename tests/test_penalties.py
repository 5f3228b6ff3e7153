"""Penalties against critics of known gradient, and against finite differences."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import latents, penalties

assert runtime  # used by being imported

RANDOM = np.random.default_rng(0)


# Penalties on the critic's slope.

SLOPE = np.float32([2, -1, 2])  # of length 3
POINTS = RANDOM.normal(size=(6, 3)).astype(np.float32)
OTHERS = RANDOM.normal(size=(6, 3)).astype(np.float32)
MODES = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}
each_mode = pytest.mark.parametrize("compiled", MODES.values(), ids=MODES)


def linear(x, training):
    return tf.linalg.matvec(x, tf.cast(SLOPE, x.dtype))[:, None] + 5


@each_mode
def test_penalties_of_a_linear_critic(compiled):
    penalize = functools.partial(penalties.gradient_penalty, linear, seed=1)
    penalty = compiled(lambda real, fake, step: penalize(real, fake, step=step))
    assert float(penalty(POINTS, OTHERS, tf.constant(2))) == pytest.approx((3 - 1) ** 2, 1e-6)
    r1 = compiled(lambda real: penalties.r1_penalty(linear, real))
    assert float(r1(POINTS)) == pytest.approx(3**2 / 2, 1e-6)


def test_penalties_take_the_slope_over_all_axes_of_an_image():
    slope = RANDOM.normal(size=(2, 3, 2)).astype(np.float32)
    length = np.sqrt((slope.astype(np.float64) ** 2).sum())
    real, fake = (RANDOM.normal(size=(5, 2, 3, 2)).astype(np.float32) for _ in range(2))

    def critic(x, training):
        return tf.reduce_sum(slope * x, axis=[1, 2, 3])[:, None]

    penalty = penalties.gradient_penalty(critic, real, fake, seed=0, step=0)
    assert float(penalty) == pytest.approx((length - 1) ** 2, 1e-5)
    assert float(penalties.r1_penalty(critic, real)) == pytest.approx(length**2 / 2, 1e-5)


def test_penalties_of_a_quadratic_critic():
    # f(x) = c |x|^2 / 2 has the slope c x; where real and fake are one set, x_hat is that set.
    c, points = 0.7, POINTS.astype(np.float64)
    lengths = c * np.linalg.norm(points, axis=1)

    def critic(x, training):
        return c * tf.reduce_sum(x**2, axis=1, keepdims=True) / 2

    penalty = penalties.gradient_penalty(critic, points, points, seed=3, step=4)
    assert float(penalty) == pytest.approx(np.mean((lengths - 1) ** 2), rel=1e-12)
    assert float(penalties.r1_penalty(critic, points)) == pytest.approx(
        np.mean(lengths**2) / 2, 1e-12
    )
    # The mean of squares is not the square of a mean: examples are penalized one by one.
    assert abs(np.mean((lengths - 1) ** 2) - (np.mean(lengths) - 1) ** 2) > 0.01


def test_the_weights_gradient_is_that_of_finite_differences():
    inner = tf.Variable(RANDOM.normal(size=(3, 4)))
    outer = tf.Variable(RANDOM.normal(size=(4, 1)))
    weights, real, fake = [inner, outer], POINTS.astype(np.float64), OTHERS.astype(np.float64)

    def critic(x, training):
        return tf.tanh(x @ inner) @ outer

    for penalty in (
        lambda: penalties.gradient_penalty(critic, real, fake, seed=5, step=6),
        lambda: penalties.r1_penalty(critic, real),
    ):
        with tf.GradientTape() as tape:
            value = penalty()
        gradients = tape.gradient(value, weights)
        assert value.dtype == tf.float64
        for weight, by_weight in zip(weights, gradients, strict=True):
            start, h = weight.numpy(), 1e-5
            expected = np.zeros_like(start)
            for place in np.ndindex(*start.shape):
                sides = []
                for sign in (1, -1):
                    moved = start.copy()
                    moved[place] += sign * h
                    weight.assign(moved)
                    sides.append(float(penalty()))
                expected[place] = (sides[0] - sides[1]) / (2 * h)
            weight.assign(start)
            np.testing.assert_allclose(by_weight, expected, rtol=1e-6, atol=1e-8)
            assert np.abs(expected).max() > 0.1


@each_mode
def test_a_critic_without_slope_has_a_penalty_of_1_and_a_finite_gradient(compiled):
    weight = tf.Variable(tf.zeros((3, 1)))
    penalize = functools.partial(penalties.gradient_penalty, seed=0, step=0)

    @compiled
    def value_and_gradient(real, fake):
        with tf.GradientTape(persistent=True) as tape:
            penalty = penalize(lambda x, training: x @ weight, real, fake)
            r1 = penalties.r1_penalty(lambda x, training: x @ weight, real)
        return penalty, r1, tape.gradient(penalty, weight), tape.gradient(r1, weight)

    penalty, r1, *gradients = value_and_gradient(POINTS, OTHERS)
    assert (float(penalty), float(r1)) == (1, 0)
    for by_weight in gradients:
        np.testing.assert_array_equal(by_weight, np.zeros((3, 1)))

    def constant(x, training):
        return tf.ones((len(x), 1))

    assert float(penalize(constant, POINTS, OTHERS)) == 1
    assert float(penalties.r1_penalty(constant, POINTS)) == 0


def test_some_examples_without_slope_do_not_spoil_the_others():
    weight = tf.Variable(SLOPE[:, None])
    active = POINTS @ SLOPE > 0
    assert 0 < active.sum() < len(active)
    with tf.GradientTape() as tape:
        penalty = penalties.gradient_penalty(
            lambda x, training: tf.nn.relu(x @ weight), POINTS, POINTS, seed=0, step=0
        )
    assert float(penalty) == pytest.approx(np.where(active, (3 - 1) ** 2, 1).mean(), 1e-6)
    expected = active.mean() * 2 * (3 - 1) * SLOPE[:, None] / 3  # of (|a| - 1)^2, active ones only
    np.testing.assert_allclose(tape.gradient(penalty, weight), expected, rtol=1e-5)


def spied(real, fake, **key):
    """The points at which the penalty asks for the critic's slope, and how it calls the critic."""
    calls = []

    def critic(x, training):
        calls.append((x.numpy(), training))
        return linear(x, training)

    penalties.gradient_penalty(critic, real, fake, **key)
    ((points, training),) = calls
    return points, training


def zeros_and_ones(count):
    """Real and fake samples between which a point is its share of fake."""
    return np.zeros((count, 3), np.float32), np.ones((count, 3), np.float32)


def test_points_lie_on_segments_one_share_for_each_example():
    points, training = spied(POINTS, OTHERS, seed=1, step=2)
    assert training is True and points.dtype == np.float32
    shares = (points - POINTS) / (OTHERS - POINTS)
    mix = np.median(shares, axis=1)
    np.testing.assert_allclose(points, POINTS + mix[:, None] * (OTHERS - POINTS), atol=1e-6)
    assert (mix >= 0).all() and (mix < 1).all() and len(np.unique(mix)) == len(mix)


def test_the_share_is_uniform_from_real_to_fake():
    count = 4000
    mix = np.sort(spied(*zeros_and_ones(count), seed=1, step=2)[0][:, 0])
    # Kolmogorov and Smirnov: beyond 1.95 / sqrt(count) once in a thousand keys, and this is one.
    distance = np.abs(mix - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / math.sqrt(count)


def test_points_depend_on_seed_and_step_and_nothing_else():
    first, _ = spied(POINTS, OTHERS, seed=1, step=2)
    tf.random.set_seed(7)
    tf.random.normal((3,))
    again, _ = spied(POINTS, OTHERS, seed=1, step=tf.constant(2, tf.int64))
    np.testing.assert_array_equal(first, again)
    for key in ({"seed": 1, "step": 3}, {"seed": 2, "step": 2}, {"seed": 2, "step": 1}):
        assert np.abs(first - spied(POINTS, OTHERS, **key)[0]).max(axis=1).min() > 1e-4

    def quadratic(x, training):
        return tf.reduce_sum(x**2, axis=1)

    penalty = functools.partial(penalties.gradient_penalty, quadratic, POINTS, OTHERS, seed=1)
    assert float(penalty(step=2)) == float(penalty(step=2)) != float(penalty(step=3))


def test_points_do_not_depend_on_the_latents_of_the_same_seed_and_step():
    # Normal numbers are made of uniform ones, by Box and Muller: exp(-|pair|^2 / 2) is such a one.
    count, key = 2000, {"seed": 1, "step": 2}
    with tf.device("CPU:0"):
        pairs = latents.sample_latents(count, 2, **key).numpy()
        plain = tf.random.stateless_uniform((2 * count,), seed=[key["seed"], key["step"]]).numpy()
        mix = spied(*zeros_and_ones(2 * count), **key)[0][:, 0]
    uniforms = np.exp(-(pairs**2).sum(axis=1) / 2)
    assert np.corrcoef(uniforms, plain[::2])[0, 1] > 0.99  # the trap
    for half in (mix[:count], mix[::2], mix[1::2]):
        assert abs(np.corrcoef(uniforms, half)[0, 1]) < 4 / math.sqrt(count)


def test_a_compiled_penalty_is_traced_once():
    traces = []

    @tf.function
    def penalty(real, fake, step):
        traces.append(1)
        return penalties.gradient_penalty(linear, real, fake, seed=1, step=step)

    for step in range(3):
        penalty(tf.constant(POINTS), tf.constant(OTHERS), tf.constant(step))
    assert len(traces) == 1


@pytest.mark.parametrize("other", [(5, 3), (6, 2), (6, 3, 1), (1, 3)])
def test_a_penalty_between_batches_of_different_shapes_is_refused(other):
    with pytest.raises(ValueError) as error:
        penalties.gradient_penalty(linear, POINTS, np.zeros(other, np.float32), seed=0, step=0)
    assert "(6, 3)" in str(error.value) and str(other) in str(error.value)


def test_penalties_of_a_keras_model_in_mixed_precision():
    dense = keras.layers.Dense(1, dtype="mixed_bfloat16")
    critic = keras.Sequential([keras.Input((3,)), dense])
    dense.kernel.assign(SLOPE[:, None])  # exact in bfloat16
    with tf.GradientTape() as tape:
        penalty = penalties.gradient_penalty(critic, POINTS, OTHERS, seed=0, step=0)
    assert penalty.dtype == tf.float32
    assert float(penalty) == pytest.approx(4, rel=1e-6)
    by_kernel = tape.gradient(penalty, critic.trainable_variables)[0]
    np.testing.assert_allclose(by_kernel, 2 * (3 - 1) * SLOPE[:, None] / 3, rtol=0.02)
    assert float(penalties.r1_penalty(critic, POINTS)) == pytest.approx(4.5, rel=1e-6)


# Clipping.


@each_mode
def test_clipping_moves_only_what_is_outside(compiled):
    weight, keras_weight = tf.Variable([[-2.0, -0.25], [0.0, 3.0]]), keras.Variable([0.5, 0.501])
    compiled(lambda: penalties.clip_weights([weight, keras_weight], 0.5))()
    np.testing.assert_array_equal(weight, [[-0.5, -0.25], [0, 0.5]])
    np.testing.assert_array_equal(keras_weight, [0.5, 0.5])


@pytest.mark.parametrize("limit", [0, -0.01, math.nan])
def test_a_limit_not_above_0_is_refused_before_anything_is_clipped(limit):
    weight = tf.Variable([2.0])
    with pytest.raises(ValueError, match="limit=.* must be above 0"):
        penalties.clip_weights([weight], limit)
    assert weight.numpy() == [2]


# Feature matching.


def test_feature_matching_is_the_distance_of_means():
    kernel = RANDOM.normal(size=(3, 5)).astype(np.float32)
    fakes = np.concatenate([OTHERS, POINTS[:3]])

    def features(x):
        return tf.tanh(x @ kernel)

    means = [np.tanh(x.astype(np.float64) @ kernel).mean(axis=0) for x in (POINTS, fakes)]
    expected = ((means[0] - means[1]) ** 2).sum()
    value = penalties.feature_matching(features, POINTS, fakes)
    assert value.shape == () and float(value) == pytest.approx(expected, 1e-5)
    # Only the means count: the same samples in another order, twice, are the same features.
    doubled = np.concatenate([POINTS[::-1], POINTS])
    assert float(penalties.feature_matching(features, POINTS, doubled)) < 1e-12 < expected


def test_feature_matching_moves_the_generated_mean_to_the_real_one():
    fake = tf.Variable(OTHERS)
    with tf.GradientTape() as tape:
        value = penalties.feature_matching(lambda x: x, POINTS, fake)
    expected = 2 * (OTHERS.mean(axis=0) - POINTS.mean(axis=0)) / len(OTHERS)
    np.testing.assert_allclose(tape.gradient(value, fake), np.tile(expected, (6, 1)), rtol=1e-4)


def test_feature_maps_in_bfloat16_are_averaged_in_float32():
    images = RANDOM.uniform(-1, 1, (64, 4, 4, 1)).astype(np.float32)
    conv = keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16")
    hidden = keras.Sequential([keras.Input((4, 4, 1)), conv])
    real, fake = images[:40], images[40:]
    assert hidden(real).dtype == "bfloat16"
    value = penalties.feature_matching(hidden, real, fake)
    means = [
        tf.cast(hidden(x), tf.float32).numpy().mean(axis=0, dtype=np.float64) for x in (real, fake)
    ]
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(((means[0] - means[1]) ** 2).sum(), rel=1e-4)


def test_feature_matching_of_different_samples_is_refused():
    with pytest.raises(ValueError, match=r"real \(6, 3\) and fake \(6, 1\) differ"):
        penalties.feature_matching(lambda x: x, POINTS, OTHERS[:, :1])


# Historical averaging.

PATH = [RANDOM.normal(size=(7, *shape)).astype(np.float32) for shape in ((2, 3), (2,))]


def expected_distance(step):
    """From the plain mean of the weights at steps 0 to `step`, both included, in float64."""
    paths = [path[: step + 1].astype(np.float64) for path in PATH]
    return sum(((path[-1] - path.mean(axis=0)) ** 2).sum() for path in paths)


def walk(weights, distance, steps):
    """Put the weights on their path, step by step; returns the distances."""
    values = []
    for step in steps:
        for weight, path in zip(weights, PATH, strict=True):
            weight.assign(path[step])
        values.append(float(distance(tf.constant(step, tf.int64))))
    return values


def fresh_weights():
    return [keras.Variable(tf.ones((2, 3))), tf.Variable(tf.ones((2,)))]


@each_mode
def test_historical_averaging_along_a_path(compiled):
    weights = fresh_weights()
    average = penalties.HistoricalAverage(weights)
    values = walk(weights, compiled(average.__call__), range(7))
    np.testing.assert_allclose(values, [expected_distance(n) for n in range(7)], rtol=1e-5)
    assert values[0] == 0 < min(values[1:])
    for mean, path in zip(average.means, PATH, strict=True):
        np.testing.assert_allclose(mean, path.mean(axis=0, dtype=np.float64), atol=1e-6)


def test_historical_averaging_resumed_from_a_checkpoint(tmp_path):
    weights = fresh_weights()
    average = penalties.HistoricalAverage(weights)
    walk(weights, average, range(3))
    path = tf.train.Checkpoint(average=average).save(tmp_path / "run")
    through = walk(weights, average, range(3, 7))
    np.testing.assert_allclose(through, [expected_distance(n) for n in range(3, 7)], rtol=1e-5)

    weights = fresh_weights()
    average = penalties.HistoricalAverage(weights)
    tf.train.Checkpoint(average=average).restore(path).assert_consumed()
    assert walk(weights, average, range(3, 7)) == through
    forgetful = penalties.HistoricalAverage(weights := fresh_weights())
    assert np.abs(np.subtract(walk(weights, forgetful, range(3, 7)), through)).min() > 1e-3
    # The means are saved; the weights belong to their network.
    saved = [name for name, _ in tf.train.list_variables(path) if "average" in name]
    assert len(saved) == 2 and all("means" in name for name in saved)


@each_mode
def test_the_gradient_holds_the_mean_constant(compiled):
    weights = fresh_weights()
    average = penalties.HistoricalAverage(weights)
    variables = [weights[0].value, weights[1]]

    @compiled
    def value_and_gradient(step):
        with tf.GradientTape() as tape:
            value = average(step)
        return value, tape.gradient(value, variables)

    for step in range(4):
        for weight, path in zip(weights, PATH, strict=True):
            weight.assign(path[step])
        value, gradients = value_and_gradient(tf.constant(step))
        assert float(value) == pytest.approx(expected_distance(step), 1e-5)
        for by_weight, path in zip(gradients, PATH, strict=True):
            expected = 2 * (path[step] - path[: step + 1].mean(axis=0))
            np.testing.assert_allclose(by_weight, expected, atol=1e-5)
    assert not average.trainable_variables and len(average.variables) == 2


def test_historical_averaging_of_a_model_in_mixed_precision():
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((2,)), dense])
    average = penalties.HistoricalAverage(model.trainable_variables)
    assert float(average(0)) == 0
    dense.bias.assign([1 / 3, 0])  # the mean is then half of it, in float32
    assert float(average(1)) == pytest.approx(1 / 36, rel=1e-6)


def test_historical_averaging_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs variables"):
        penalties.HistoricalAverage(keras.Sequential([keras.layers.Dense(2)]).trainable_variables)
