"""What helps against mode collapse, against formulas, loops by hand and Keras' own layers."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import gradient, sigmoid
from keras import layers

from ganutils.families.mode_collapse import (
    DropReference,
    HistoricalAverage,
    MinibatchDiscrimination,
    Pack,
    VirtualBatchNormalization,
    WithReference,
    feature_matching,
    smoothed_discriminator_loss,
    virtual_moments,
)
from ganutils.losses import discriminator_loss

assert runtime  # used by being imported

RANDOM = np.random.default_rng(0)
REAL, FAKE = (RANDOM.normal(size=(6, 1), scale=3).astype(np.float32) for _ in range(2))
POINTS, OTHERS = (RANDOM.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
LOG2 = math.log(2)


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def pass_and_gradients(layer, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)
    return [y, *gradients]


# Label smoothing.


def test_smoothing_between_none_and_all():
    zeros, smoothed = tf.zeros((5, 1)), smoothed_discriminator_loss
    for smoothing in (0, 0.1, 0.3):
        expected = (1 - smoothing) * np.log(sigmoid(REAL)) + smoothing * np.log(1 - sigmoid(REAL))
        expected = -np.mean(expected) - np.mean(np.log(1 - sigmoid(FAKE)))
        assert float(smoothed(REAL, FAKE, smoothing=smoothing)) == pytest.approx(expected, 1e-5)
        assert float(smoothed(zeros, zeros, smoothing=smoothing)) == pytest.approx(2 * LOG2, 1e-6)
    assert float(smoothed(REAL, FAKE, smoothing=0)) == float(discriminator_loss(REAL, FAKE))
    for smoothing in (-0.1, 1, 1.5, math.nan):
        with pytest.raises(ValueError, match="smoothing"):
            smoothed(REAL, FAKE, smoothing=smoothing)


@pytest.mark.parametrize("p, q", [(4, 1), (2, 2), (1, 6), (3, 0)])
def test_the_best_logit_under_smoothing(p, q):
    """A point with p of 8 real samples and q of 8 generated ones; the others stay at logit 0."""

    def slope(logit, smoothing):
        def d_loss(logit):
            real, fake = (logit * (np.arange(8) < count) for count in (p, q))
            return smoothed_discriminator_loss(real, fake, smoothing=smoothing)

        return float(gradient(d_loss, np.float64(logit))[0])

    # Setting the derivative -0.9 p (1 - D) + 0.1 p D + q D to 0 gives D = 0.9 p / (p + q).
    best = math.log(0.9 * p / (q + 0.1 * p))
    assert sigmoid(best) == pytest.approx(0.9 * p / (p + q))
    assert slope(best - 0.1, 0.1) < 0 < slope(best + 0.1, 0.1)
    assert slope(best, 0.1) == pytest.approx(0, abs=1e-15)
    # Without it the best logit is another one: log(p / q), and beyond all bounds where q is 0.
    assert slope(best, 0) < -1e-3


# Feature matching.


def test_feature_matching_is_the_distance_of_means():
    kernel = RANDOM.normal(size=(3, 5)).astype(np.float32)
    fakes = np.concatenate([OTHERS, POINTS[:3]])

    def features(x):
        return tf.tanh(x @ kernel)

    means = [np.tanh(x.astype(np.float64) @ kernel).mean(axis=0) for x in (POINTS, fakes)]
    expected = ((means[0] - means[1]) ** 2).sum()
    value = feature_matching(features, POINTS, fakes)
    assert value.shape == () and float(value) == pytest.approx(expected, 1e-5)
    # Only the means count: the same samples in another order, twice, are the same features.
    doubled = np.concatenate([POINTS[::-1], POINTS])
    assert float(feature_matching(features, POINTS, doubled)) < 1e-12 < expected


def test_feature_matching_moves_the_generated_mean_to_the_real_one():
    by_real, by_fake = gradient(functools.partial(feature_matching, tf.identity), POINTS, OTHERS)
    expected = 2 * (OTHERS.mean(axis=0) - POINTS.mean(axis=0)) / len(OTHERS)
    np.testing.assert_allclose(by_fake, np.tile(expected, (6, 1)), rtol=1e-4)
    np.testing.assert_allclose(by_real, -by_fake, rtol=1e-4)


def test_feature_maps_in_bfloat16_are_averaged_in_float32():
    images = RANDOM.uniform(-1, 1, (64, 4, 4, 1)).astype(np.float32)
    hidden = keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16")
    real, fake = images[:40], images[40:]
    value = feature_matching(hidden, real, fake)
    means = [np.float64(tf.cast(hidden(x), tf.float32)).mean(axis=0) for x in (real, fake)]
    assert hidden(real).dtype == "bfloat16" and value.dtype == tf.float32
    assert float(value) == pytest.approx(((means[0] - means[1]) ** 2).sum(), rel=1e-4)


def test_feature_matching_of_different_samples_is_refused():
    with pytest.raises(ValueError, match="differ beyond the batch"):
        feature_matching(lambda x: x, POINTS, OTHERS[:, :1])


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


def test_historical_averaging_along_a_path_holds_the_mean_constant():
    weights = fresh_weights()
    average = HistoricalAverage(weights)

    def distance(step):
        with tf.GradientTape() as tape:
            value = average(step)
        gradients = tape.gradient(value, [weights[0].value, weights[1]])
        for by_weight, path in zip(gradients, PATH, strict=True):
            expected = 2 * (path[step] - path[: int(step) + 1].mean(axis=0))
            np.testing.assert_allclose(by_weight, expected, atol=1e-5)
        return value

    values = walk(weights, distance, range(7))
    np.testing.assert_allclose(values, [expected_distance(n) for n in range(7)], rtol=1e-5)
    assert values[0] == 0 < min(values[1:])
    for mean, path in zip(average.means, PATH, strict=True):
        np.testing.assert_allclose(mean, path.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert not average.trainable_variables and len(average.variables) == 2


def test_historical_averaging_resumed_from_a_checkpoint(tmp_path):
    weights = fresh_weights()
    average = HistoricalAverage(weights)
    walk(weights, average, range(3))
    path = tf.train.Checkpoint(average=average).save(tmp_path / "run")
    through = walk(weights, average, range(3, 7))
    np.testing.assert_allclose(through, [expected_distance(n) for n in range(3, 7)], rtol=1e-5)

    weights = fresh_weights()
    average = HistoricalAverage(weights)
    tf.train.Checkpoint(average=average).restore(path).assert_consumed()
    assert walk(weights, average, range(3, 7)) == through
    forgetful = HistoricalAverage(fresh_weights())
    assert not np.isclose(walk(forgetful.weights(), forgetful, range(3, 7)), through).any()
    # The means are saved; the weights belong to their network.
    saved = [name for name, _ in tf.train.list_variables(path) if "average" in name]
    assert len(saved) == 2 and all("means" in name for name in saved)


def test_historical_averaging_of_a_model_in_mixed_precision():
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((2,)), dense])
    average = HistoricalAverage(model.trainable_variables)
    assert float(average(0)) == 0
    dense.bias.assign([1 / 3, 0])  # the mean is then half of it, in float32
    assert float(average(1)) == pytest.approx(1 / 36, rel=1e-6)


def test_historical_averaging_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs variables"):
        HistoricalAverage(keras.Sequential([keras.layers.Dense(2)]).trainable_variables)


# Minibatch discrimination.


def closeness(x, kernel, kernels, dims):
    """The features, one pair of examples after the other."""
    m = (np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)).reshape(-1, kernels, dims)
    features = np.zeros((len(m), kernels))
    for i in range(len(m)):
        for j in range(len(m)):
            if i != j:
                features[i] += np.exp(-np.abs(m[i] - m[j]).sum(axis=-1))
    return features


def test_minibatch_features_are_sums_over_the_other_examples():
    layer, x = MinibatchDiscrimination(3, 4), tf.random.normal((6, 5))
    outputs = layer(x)
    assert outputs.shape == (6, 8) and layer.kernel.shape == (5, 12)
    np.testing.assert_array_equal(outputs[:, :5], x)
    np.testing.assert_allclose(outputs[:, 5:], closeness(x, layer.kernel, 3, 4), rtol=1e-4)
    order = [0, 4, 2, 5, 1, 3]
    np.testing.assert_allclose(layer(tf.gather(x, order)), tf.gather(outputs, order), rtol=1e-5)


def test_minibatch_features_of_equal_rows_count_the_others():
    layer, row = MinibatchDiscrimination(3, 4), tf.random.normal((1, 5))
    for batch in (1, 2, 7):
        features = layer(tf.repeat(row, batch, axis=0))[:, 5:]
        np.testing.assert_allclose(features, np.full((batch, 3), batch - 1), rtol=1e-5)
    apart = layer(tf.concat([row, row + 1e4], axis=0))
    np.testing.assert_array_equal(apart[:, 5:], np.zeros((2, 3)))  # alone, and not 1 for oneself


def test_minibatch_gradients_are_slopes():
    layer = MinibatchDiscrimination(2, 3, dtype="float64")
    x, upstream = (tf.random.normal(shape, dtype="float64") for shape in [(4, 5), (4, 7)])
    layer.build(x.shape)
    _, by_x, by_kernel = pass_and_gradients(layer, x, upstream)
    kernel = layer.kernel.numpy()
    for_x, for_kernel = (np.random.default_rng(0).normal(size=a.shape) for a in (x, kernel))

    def loss(far):
        moved, of = x + far * for_x, closeness(x + far * for_x, kernel + far * for_kernel, 2, 3)
        return np.sum(np.concatenate([moved, of], axis=1) * upstream)

    along = np.sum(by_x * for_x) + np.sum(by_kernel * for_kernel)
    assert along == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-5)


def test_minibatch_distances_stay_in_float32_under_bfloat16():
    layer, x = MinibatchDiscrimination(3, 4, dtype="mixed_bfloat16"), tf.random.normal((6, 5))
    outputs = layer(x)
    assert outputs.dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    expected = closeness(rounded, layer.kernel, 3, 4)
    np.testing.assert_allclose(tf.cast(outputs[:, 5:], tf.float32), expected, rtol=2**-8)


# Packing.


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(6, 2), (6, 4, 5, 3)], ids=["points", "images"])
def test_pack_is_a_rearrangement(shape, size):
    def rearranged(x):
        apart = np.reshape(x, (6 // size, size, *shape[1:]))
        return np.moveaxis(apart, 1, -2).reshape(6 // size, *shape[1:-1], size * shape[-1])

    x = tf.random.normal(shape)
    came_from = rearranged(np.arange(x.numpy().size)).ravel()
    upstream = np.random.default_rng(0).normal(size=rearranged(x).shape).astype(np.float32)
    packs, gradient = pass_and_gradients(Pack(np.int64(size)), x, tf.constant(upstream))
    np.testing.assert_array_equal(packs, rearranged(x))
    # Each number of the input goes to one place, and its gradient comes from there.
    np.testing.assert_array_equal(np.ravel(gradient)[came_from], upstream.ravel())


def test_neighbors_share_a_pack():
    x = tf.range(6.0)[:, None] * [1.0, 10.0]
    np.testing.assert_array_equal(Pack(3)(x), [[0, 0, 1, 10, 2, 20], [3, 30, 4, 40, 5, 50]])


def test_a_graph_too_refuses_a_batch_that_packs_do_not_divide():
    pack = tf.function(Pack(2), input_signature=[tf.TensorSpec((None, 3))])
    assert pack(tf.zeros((4, 3))).shape == (2, 6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        pack(tf.zeros((5, 3)))


# Virtual batch normalization.

over_shapes = pytest.mark.parametrize("shape", [(9, 4), (9, 5, 3, 4)], ids=["units", "maps"])


def made_virtual(shape, count, **settings):
    layer = VirtualBatchNormalization(count, **settings)
    layer.build((None, *shape[1:]))
    layer.set_weights([np.linspace(0.5, 2, shape[-1]), np.linspace(-1, 1, shape[-1])])
    return layer


@over_shapes
def test_reference_rows_are_normalized_plainly(shape):
    x, layer = tf.random.normal(shape, 3.0, 2.0), made_virtual(shape, 6, epsilon=0.01)
    plain = layers.BatchNormalization(epsilon=0.01)
    plain.build(x.shape)
    plain.set_weights([*layer.get_weights(), np.zeros(4), np.ones(4)])
    expected = plain(x[:6], training=True)
    np.testing.assert_allclose(layer(x)[:6], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(x[:6]), expected, rtol=1e-4, atol=1e-5)


@over_shapes
def test_other_rows_are_normalized_with_the_reference(shape):
    x, layer = tf.random.normal(shape, 3.0, 2.0).numpy(), made_virtual(shape, 6)
    x[7] += 5
    x[8] -= 50
    x = tf.constant(x)
    outputs, (gamma, beta) = layer(x), layer.get_weights()
    means, variances = virtual_moments(x, 6)
    for i in range(6, 9):
        rows = np.concatenate([x[:6], x[i : i + 1]]).astype(np.float64).reshape(-1, shape[-1])
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        np.testing.assert_allclose(np.ravel(means[i]), mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.ravel(variances[i]), variance, rtol=1e-5)
        expected = gamma * (x[i] - mean) / np.sqrt(variance + 1e-3) + beta
        np.testing.assert_allclose(outputs[i], expected, rtol=1e-4, atol=1e-5)


@over_shapes
def test_no_row_depends_on_rows_that_are_not_of_the_reference(shape):
    x, layer = tf.random.normal(shape), made_virtual(shape, 6)
    changed = tf.concat([x[:7], 100 * tf.random.normal((2, *shape[1:]))], axis=0)
    np.testing.assert_array_equal(layer(changed)[:7], layer(x)[:7])
    np.testing.assert_array_equal(layer(x, training=True), layer(x))
    with tf.GradientTape() as tape:
        tape.watch(x)
        row = tf.reduce_sum(layer(x)[7] ** 2)
    touched = np.any(tape.gradient(row, x).numpy() != 0, axis=tuple(range(1, len(shape))))
    assert touched.tolist() == [True] * 6 + [False, True, False]


def test_second_derivatives_of_virtual_normalization_are_slopes_of_the_first():
    # A gradient penalty needs them, and `tf.nn.moments` would lose a part.
    layer = made_virtual((5, 3), 3, dtype="float64")
    x, direction = (tf.random.normal((5, 3), dtype="float64") for _ in range(2))

    def squared_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 3)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = squared_gradient(x)
    along = tf.reduce_sum(tape.gradient(value, x) * direction)
    step = 1e-6 * direction
    slope = (squared_gradient(x + step) - squared_gradient(x - step)) / 2e-6
    assert float(along) == pytest.approx(float(slope), rel=1e-4)


def test_virtual_normalization_takes_statistics_in_float32_under_bfloat16():
    shape = (40, 8, 8, 2)
    layer, x = made_virtual(shape, 30, dtype="mixed_bfloat16"), tf.random.normal(shape, 100.0, 0.5)
    outputs = layer(x)
    assert outputs.dtype == tf.bfloat16
    expected = made_virtual(shape, 30)(tf.cast(tf.cast(x, tf.bfloat16), tf.float32))
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, rtol=2**-8, atol=1e-6)


def test_reference_goes_in_front_and_away_again():
    reference = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    x = tf.random.normal((2, 3))
    layer, joined = WithReference(reference), np.concatenate([reference, x])
    np.testing.assert_array_equal(layer(x), joined)
    np.testing.assert_array_equal(DropReference(5)(joined), x)
    assert layer(tf.cast(x, tf.bfloat16)).dtype == tf.float32  # of the layer's policy
    assert WithReference(reference, dtype="mixed_bfloat16")(x).dtype == tf.bfloat16
    reference[:] = 0  # cannot be changed from outside
    np.testing.assert_array_equal(layer(x), joined)
    assert not layer.weights


# A model with a reference: alone with each example.


def test_a_model_with_a_reference_treats_each_example_alone():
    z = keras.Input((3,))
    x = layers.Dense(4)(WithReference(RANDOM.normal(size=(4, 3)))(z))
    x = layers.ReLU()(VirtualBatchNormalization(4)(x))
    model = keras.Model(z, DropReference(4)(layers.Dense(2)(x)))
    x = tf.random.normal((4, 3))
    assert model.output_shape == (None, 2) and len(model.trainable_variables) == 6
    alone = tf.concat([model(x[i : i + 1], training=True) for i in range(4)], axis=0)
    np.testing.assert_allclose(model(x, training=True), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x, training=True), model(x))


# Refusals.

ROWS = np.zeros((5, 3))
REFUSED = {
    "no kernels": (lambda: MinibatchDiscrimination(0, 3), "kernels"),
    "no dims": (lambda: MinibatchDiscrimination(3, 0), "dims"),
    "maps": (lambda: MinibatchDiscrimination(3, 4)(tf.zeros((2, 4, 4, 1))), "ndim"),
    "no pack": (lambda: Pack(0), "size"),
    "a rest": (lambda: Pack(2)(tf.zeros((5, 3))), "Packs of 2 .* batch of 5"),
    "numbers": (lambda: Pack(2)(tf.zeros((4,))), "ndim"),
    "no rows": (lambda: WithReference(np.zeros((0, 3))), "no rows"),
    "one row": (lambda: WithReference(np.zeros(3)), "no rows"),
    "columns": (lambda: WithReference(ROWS)(tf.zeros((2, 4))), "does not fit"),
    "rank": (lambda: WithReference(ROWS)(tf.zeros((2, 3, 1))), "does not fit"),
    "no reference": (lambda: VirtualBatchNormalization(0), "reference_count"),
    "epsilon": (lambda: VirtualBatchNormalization(4, epsilon=0.0), "epsilon"),
    "few rows": (lambda: VirtualBatchNormalization(4)(tf.zeros((3, 2))), "3 rows"),
    "none dropped": (lambda: DropReference(-2), "count"),
    "all dropped": (lambda: DropReference(3)(tf.zeros((2, 2))), "2 rows"),
}


@pytest.mark.parametrize("make, word", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_a_size_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="size"):
        Pack(2.0)
