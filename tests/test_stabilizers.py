"""Stabilizers against their formulas, in every value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_layers import assert_same, pass_and_gradients

from ganutils.layers import UpsampleConv2D
from ganutils.stabilizers import (
    DropReference,
    MinibatchDiscrimination,
    Pack,
    SpectralNormalization,
    VirtualBatchNormalization,
    WithReference,
    largest_singular_value,
    virtual_moments,
)


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def assert_all_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# Spectral normalization.

WRAPPED = {
    "Dense": (lambda: layers.Dense(5, bias_initializer="random_normal"), (4, 7)),
    "Conv2D": (lambda: layers.Conv2D(5, 3, strides=2, activation="tanh"), (4, 6, 6, 3)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 4, strides=2), (4, 3, 3, 2)),
    "UpsampleConv2D": (lambda: UpsampleConv2D(5, 3, scale=2), (4, 3, 3, 2)),
}
over_layers = pytest.mark.parametrize(("make", "shape"), WRAPPED.values(), ids=WRAPPED)


def norm_of(kernel):
    kernel = np.asarray(kernel)
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def test_power_iteration_finds_the_largest_singular_value():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 6))
    left, values, right = np.linalg.svd(kernel.reshape(-1, 6), full_matrices=False)
    start = tf.constant(rng.normal(size=6))
    with tf.GradientTape() as tape:
        variable = tf.Variable(kernel)
        sigma, u = largest_singular_value(variable, start, iterations=100)
    np.testing.assert_allclose(sigma, values[0], rtol=1e-12)
    np.testing.assert_allclose(np.abs(u), np.abs(right[0]), rtol=1e-6)
    outer = np.outer(left[:, 0], right[0]).reshape(kernel.shape)  # the gradient of a singular value
    np.testing.assert_allclose(tape.gradient(sigma, variable), outer, atol=1e-6)
    values = [
        float(largest_singular_value(kernel, start, iterations=n)[0]) for n in (1, 2, 4, 8, 16)
    ]
    assert values == sorted(values) and values[-1] <= sigma * (1 + 1e-12)


def test_power_iteration_goes_on_from_u():
    kernel, start = tf.random.normal((6, 4)), tf.random.normal((4,))
    u = start
    for _ in range(3):
        sigma, u = largest_singular_value(kernel, u, iterations=2)
    at_once = largest_singular_value(kernel, start, iterations=6)
    np.testing.assert_allclose(sigma, at_once[0], rtol=1e-6)
    np.testing.assert_allclose(u, at_once[1], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_power_iteration_at_any_scale(scale):
    kernel, start = tf.random.normal((6, 4)), tf.random.normal((4,), stddev=1e-3)
    expected = norm_of(kernel) * scale
    sigma, u = largest_singular_value(kernel * scale, start, iterations=100)
    np.testing.assert_allclose(sigma, expected, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-6)


@over_layers
def test_spectral_normalization_divides_by_the_norm_and_leaves_the_kernel_alone(make, shape):
    x = tf.random.normal(shape)
    layer = SpectralNormalization(make())
    layer(x)
    before = [weight.numpy() for weight in layer.layer.weights]
    train = tf.function(lambda: layer(x, training=True))
    for _ in range(300):
        outputs = train()
    assert_all_equal(layer.layer.get_weights(), before)
    plain = make()
    plain.build(shape)
    kernel = before[0] / norm_of(before[0])
    assert norm_of(kernel) == pytest.approx(1, rel=1e-5)
    plain.set_weights([kernel, *before[1:]])
    for got in (outputs, layer(x), layer(x, training=False)):
        np.testing.assert_allclose(got, plain(x), rtol=1e-4, atol=1e-5)


def test_spectral_normalization_of_a_dense_layer_has_norm_one():
    layer = SpectralNormalization(layers.Dense(5, use_bias=False), power_iterations=100)
    effective = layer(tf.eye(7))  # rows of the identity read out the kernel
    assert norm_of(layer.layer.kernel) != pytest.approx(1, rel=0.01)
    assert norm_of(effective) == pytest.approx(1, rel=1e-5)


@over_layers
def test_u_moves_in_training_only_and_is_the_only_thing_that_does(make, shape):
    x = tf.random.normal(shape)
    layer = SpectralNormalization(make())
    layer.build(shape)
    before = layer.get_weights()
    layer(x), layer(x, training=False)
    assert_all_equal(layer.get_weights(), before)
    layer(x, training=True)
    moved = [w is layer.u for w in layer.weights]
    changed = [
        not np.array_equal(w, old) for w, old in zip(layer.get_weights(), before, strict=True)
    ]
    assert moved == changed and sum(moved) == 1
    assert np.linalg.norm(layer.u) == pytest.approx(1, rel=1e-5)


def test_spectral_normalization_gives_the_gradient_of_the_quotient():
    within = layers.Dense(3, dtype="float64", activation="tanh")
    layer = SpectralNormalization(within, power_iterations=100, dtype="float64")
    x = tf.random.normal((4, 5), dtype="float64")
    upstream = np.random.default_rng(1).normal(size=(4, 3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) * upstream)
    gradient = tape.gradient(loss, within.kernel.value)

    def by_svd(kernel):
        return np.sum(np.tanh(x.numpy() @ (kernel / norm_of(kernel))) * upstream)

    kernel, slopes = within.kernel.numpy(), np.zeros((5, 3))
    assert by_svd(kernel) == pytest.approx(float(loss), rel=1e-10)
    for place in np.ndindex(5, 3):
        step = np.zeros((5, 3))
        step[place] = 1e-6
        slopes[place] = (by_svd(kernel + step) - by_svd(kernel - step)) / 2e-6
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-7)
    # W / sigma(W) does not change along W itself.
    assert float(tf.reduce_sum(gradient * kernel)) == pytest.approx(0, abs=1e-10)


def test_gradient_of_one_iteration_holds_u_and_v_constant():
    within = layers.Dense(3, dtype="float64", use_bias=False)
    layer = SpectralNormalization(within, dtype="float64")
    x, upstream = tf.random.normal((4, 5), dtype="float64"), tf.ones((4, 3), "float64")
    layer(x)
    kernel = within.kernel.numpy()
    v = kernel @ layer.u.numpy()
    v /= np.linalg.norm(v)
    u = kernel.T @ v / np.linalg.norm(kernel.T @ v)
    sigma = v @ kernel @ u
    gradient = pass_and_gradients(layer, x, upstream)[2]
    inner = x.numpy().T @ upstream.numpy()
    expected = inner / sigma - np.sum(inner * kernel) / sigma**2 * np.outer(v, u)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def spectral_model():
    image = keras.Input((6, 6, 1))
    x = SpectralNormalization(layers.Conv2D(4, 3, strides=2))(image)
    x = layers.Flatten()(layers.LeakyReLU()(x))
    return keras.Model(image, SpectralNormalization(layers.Dense(1, dtype="float32"))(x))


def test_a_model_holds_each_kernel_once_and_u_apart():
    model = spectral_model()
    assert [tuple(w.shape) for w in model.trainable_variables] == [
        (3, 3, 1, 4),
        (4,),
        (16, 1),
        (1,),
    ]
    assert [tuple(w.shape) for w in model.non_trainable_variables] == [(4,), (1,)]
    assert model.output_shape == (None, 1)


def test_spectral_state_survives_copies_and_files(tmp_path):
    model, x = spectral_model(), tf.random.normal((3, 6, 6, 1))
    model(x, training=True)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(x), model(x))
    other = spectral_model()
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "run"))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    assert_all_equal(other.get_weights(), model.get_weights())
    model.save(tmp_path / "run.keras")
    names = {"SpectralNormalization": SpectralNormalization}
    loaded = keras.models.load_model(tmp_path / "run.keras", custom_objects=names)
    assert_all_equal(loaded.get_weights(), model.get_weights())
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_spectral_normalization_twice_in_a_compiled_step(jit_compile):
    eager, compiled = (SpectralNormalization(layers.Dense(3)) for _ in range(2))
    x = tf.random.normal((2, 4, 5))
    for layer in (eager, compiled):
        layer.build((None, 5))
    compiled.set_weights(eager.get_weights())

    def step(layer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x[0], training=True) ** 2 - layer(x[1], training=True))
        return [loss, *tape.gradient(loss, layer.trainable_variables)]

    expected = step(eager)
    got = tf.function(lambda: step(compiled), jit_compile=jit_compile)()
    assert_same(zip([*got, compiled.u], [*expected, eager.u], strict=True), 1e-5)
    assert_all_equal(compiled.layer.get_weights(), eager.layer.get_weights())


def test_spectral_normalization_in_keras_stateless_call():
    layer, x = SpectralNormalization(layers.Dense(3)), tf.random.normal((4, 5))
    layer.build(x.shape)
    before, (kernel, bias) = layer.get_weights(), (w.numpy() for w in layer.trainable_variables)
    outputs, (u,) = layer.stateless_call(
        [2 * kernel, bias + 1], [layer.u.numpy()], x, training=True
    )
    assert_all_equal(layer.get_weights(), before)
    np.testing.assert_allclose(outputs, layer(x) + 1, rtol=1e-5, atol=1e-6)  # 2 W / sigma(2 W)
    layer(x, training=True)
    np.testing.assert_allclose(u, layer.u, rtol=1e-5)


def test_spectral_normalization_finds_sigma_in_float32_under_bfloat16():
    within = layers.Dense(5, use_bias=False, dtype="mixed_bfloat16")
    layer = SpectralNormalization(within, power_iterations=100)
    outputs = layer(tf.eye(7), training=True)
    assert outputs.dtype == tf.bfloat16 and layer.u.dtype == within.kernel.dtype == "float32"
    kernel = within.kernel.numpy() / norm_of(within.kernel)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), kernel, rtol=2**-8)
    right = np.linalg.svd(within.kernel.numpy())[2][0]  # of the weights, not of rounded ones
    np.testing.assert_allclose(np.abs(layer.u), np.abs(right), atol=1e-5)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = spectral_model()
        model(tf.random.normal((2, 6, 6, 1)), training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(weight.dtype == "float32" for weight in model.weights)
    assert [layer.compute_dtype for layer in model.layers][1:3] == ["float32", "bfloat16"]


def test_spectral_normalization_of_a_kernel_of_zeros_is_finite_and_can_leave_it():
    layer = SpectralNormalization(layers.Dense(3, kernel_initializer="zeros"))
    layer.build((None, 5))
    u, x = layer.u.numpy(), tf.random.normal((4, 5))
    outputs, _, gradient, _ = pass_and_gradients(layer, x, tf.ones((4, 3)), training=True)
    np.testing.assert_array_equal(outputs, np.zeros((4, 3)))
    np.testing.assert_array_equal(layer.u, u)
    np.testing.assert_allclose(gradient, tf.transpose(x) @ tf.ones((4, 3)), rtol=1e-6)


@pytest.mark.parametrize(
    "layer", [layers.ReLU(), layers.Embedding(3, 2)], ids=["ReLU", "Embedding"]
)
def test_spectral_normalization_refuses_layers_it_does_not_know(layer):
    with pytest.raises(TypeError, match="Dense, Conv2D or Conv2DTranspose"):
        SpectralNormalization(layer)


@pytest.mark.parametrize("iterations", [0, -1, 1.5, None])
def test_spectral_normalization_refuses_no_iterations(iterations):
    with pytest.raises(ValueError, match="power_iterations"):
        SpectralNormalization(layers.Dense(1), power_iterations=iterations)


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


def test_minibatch_features_of_equal_rows_count_the_others():
    layer, row = MinibatchDiscrimination(3, 4), tf.random.normal((1, 5))
    for batch in (1, 2, 7):
        outputs = layer(tf.repeat(row, batch, axis=0))
        np.testing.assert_array_equal(outputs[:, 5:], np.full((batch, 3), batch - 1))
    apart = layer(tf.concat([row, row + 1e4], axis=0))
    np.testing.assert_array_equal(apart[:, 5:], np.zeros((2, 3)))  # alone, and not 1 for oneself


def test_minibatch_features_do_not_depend_on_the_order_of_the_others():
    layer, x = MinibatchDiscrimination(3, 2), tf.random.normal((6, 5))
    order = [0, 4, 2, 5, 1, 3]
    np.testing.assert_allclose(layer(tf.gather(x, order)), tf.gather(layer(x), order), rtol=1e-5)
    nearer = tf.concat([x[:1], x[:1] + 1e-3, x[2:]], axis=0)
    assert np.all(layer(nearer)[0, 5:] > layer(x)[0, 5:])


def test_minibatch_gradients_are_slopes():
    layer = MinibatchDiscrimination(2, 3, dtype="float64")
    x = np.random.default_rng(0).normal(size=(4, 5))
    upstream = tf.random.normal((4, 7), dtype="float64")
    layer.build(x.shape)
    _, by_x, by_kernel = pass_and_gradients(layer, tf.constant(x), upstream)

    def loss(x, kernel):
        outputs = np.concatenate([x, closeness(x, kernel, 2, 3)], axis=1)
        return np.sum(outputs * upstream)

    kernel = layer.kernel.numpy()
    for place in ((0, 0), (3, 4), (2, 1)):
        nudge = np.zeros_like(x)
        nudge[place] = 1e-6
        slope = (loss(x + nudge, kernel) - loss(x - nudge, kernel)) / 2e-6
        assert by_x.numpy()[place] == pytest.approx(slope, rel=1e-5)
        nudge = np.zeros_like(kernel)
        nudge[place] = 1e-6
        slope = (loss(x, kernel + nudge) - loss(x, kernel - nudge)) / 2e-6
        assert by_kernel.numpy()[place] == pytest.approx(slope, rel=1e-5)


def test_minibatch_distances_stay_in_float32_under_bfloat16():
    layer, x = MinibatchDiscrimination(3, 4, dtype="mixed_bfloat16"), tf.random.normal((6, 5))
    outputs = layer(x)
    assert outputs.dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    expected = closeness(rounded, layer.kernel, 3, 4)
    np.testing.assert_allclose(tf.cast(outputs[:, 5:], tf.float32), expected, rtol=2**-8)


@pytest.mark.parametrize(("kernels", "dims"), [(0, 3), (3, 0), (2.5, 3), (3, "4")])
def test_minibatch_discrimination_refuses_sizes(kernels, dims):
    with pytest.raises(ValueError, match="kernels=.*dims="):
        MinibatchDiscrimination(kernels, dims)


def test_minibatch_discrimination_refuses_maps():
    with pytest.raises(ValueError, match="ndim=2, found ndim=4"):
        MinibatchDiscrimination(3, 4)(tf.zeros((2, 4, 4, 1)))


# Virtual batch normalization.

over_shapes = pytest.mark.parametrize("shape", [(9, 4), (9, 5, 3, 4)], ids=["units", "maps"])


def normalized(rows, weights, row, epsilon=1e-3):
    """One row, by the weighted mean and variance of rows, in float64."""
    rows, row = np.asarray(rows, np.float64), np.asarray(row, np.float64)
    pixels = rows.reshape(len(rows), -1, rows.shape[-1])
    weights = np.repeat(weights, pixels.shape[1])
    pixels = pixels.reshape(-1, pixels.shape[-1])
    mean = np.average(pixels, axis=0, weights=weights)
    variance = np.average((pixels - mean) ** 2, axis=0, weights=weights)
    return (row - mean) / np.sqrt(variance + epsilon)


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
    x, layer = tf.random.normal(shape, 3.0, 2.0), made_virtual(shape, 6)
    x = x + tf.constant([0, 0, 0, 0, 0, 0, 0, 5, -50.0])[(...,) + (None,) * (len(shape) - 1)]
    outputs, gamma, beta = layer(x), *layer.get_weights()
    for i in range(6, 9):
        rows = np.concatenate([x[:6], x[i : i + 1]])
        expected = gamma * normalized(rows, np.ones(7), x[i]) + beta
        np.testing.assert_allclose(outputs[i], expected, rtol=1e-4, atol=1e-5)
    mean, variance = virtual_moments(x, 6)
    whole = np.concatenate([x[:6], x[8:]])
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(np.ravel(mean[8]), whole.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(np.ravel(variance[8]), whole.var(axes), rtol=1e-5)


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
    x, layer = tf.random.normal((5, 3), dtype="float64"), made_virtual((5, 3), 3, dtype="float64")

    def squared_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 3)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = squared_gradient(x)
    gradient = tape.gradient(value, x)
    for i in range(5):
        step = 1e-6 * tf.one_hot([i], 5, dtype="float64", axis=0) * tf.ones((1, 3), "float64")
        slope = (squared_gradient(x + step) - squared_gradient(x - step)) / 2e-6
        assert float(tf.reduce_sum(gradient[i])) == pytest.approx(float(slope), rel=1e-4)


def test_virtual_normalization_takes_statistics_in_float32_under_bfloat16():
    shape = (40, 8, 8, 2)
    layer, x = made_virtual(shape, 30, dtype="mixed_bfloat16"), tf.random.normal(shape, 100.0, 0.5)
    outputs = layer(x)
    assert outputs.dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    expected = made_virtual(shape, 30)(rounded)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("refused", [(0, 1e-3), (2.5, 1e-3), (None, 1e-3), (4, 0.0)])
def test_virtual_normalization_refuses(refused):
    with pytest.raises(ValueError, match="reference_count=.*epsilon="):
        VirtualBatchNormalization(refused[0], epsilon=refused[1])


def test_virtual_normalization_refuses_a_batch_without_its_reference():
    with pytest.raises(ValueError, match="3 rows, fewer than the 4"):
        VirtualBatchNormalization(4)(tf.zeros((3, 2)))


def reference_model(reference):
    z = keras.Input(reference.shape[1:])
    x = layers.Dense(4)(WithReference(reference)(z))
    x = layers.ReLU()(VirtualBatchNormalization(len(reference))(x))
    return keras.Model(z, DropReference(len(reference))(layers.Dense(2)(x)))


def test_reference_goes_in_front_and_away_again():
    reference = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    x = tf.random.normal((2, 3))
    joined = WithReference(reference)(x)
    np.testing.assert_array_equal(joined, np.concatenate([reference, x]))
    np.testing.assert_array_equal(DropReference(5)(joined), x)
    half = WithReference(reference)(tf.cast(x, tf.bfloat16))
    assert half.dtype == tf.float32  # of the layer's policy
    assert WithReference(reference, dtype="mixed_bfloat16")(x).dtype == tf.bfloat16
    assert not WithReference(reference).weights


def test_reference_cannot_be_changed_from_outside():
    reference = np.ones((2, 3), np.float32)
    layer = WithReference(reference)
    reference[:] = 0
    np.testing.assert_array_equal(layer(tf.zeros((1, 3))), [[1, 1, 1], [1, 1, 1], [0, 0, 0]])


def test_model_with_a_reference_treats_each_example_alone():
    model = reference_model(np.random.default_rng(0).normal(size=(5, 3)))
    x = tf.random.normal((4, 3))
    assert model.output_shape == (None, 2) and len(model.trainable_variables) == 6
    alone = tf.concat([model(x[i : i + 1], training=True) for i in range(4)], axis=0)
    np.testing.assert_allclose(model(x, training=True), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x, training=True), model(x))


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 1), (2,)])
def test_reference_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"Rows of shape .* batch of rows \(3,\)"):
        WithReference(np.zeros((5, 3)))(tf.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 3), (3,), ()])
def test_reference_without_rows_is_refused(shape):
    with pytest.raises(ValueError, match="holds no rows"):
        WithReference(np.zeros(shape))


@pytest.mark.parametrize("count", [0, -2, 1.0, None])
def test_drop_reference_refuses_counts(count):
    with pytest.raises(ValueError, match="count="):
        DropReference(count)


def test_drop_reference_refuses_a_batch_of_fewer_rows():
    with pytest.raises(ValueError, match="2 rows, fewer than the 3"):
        DropReference(3)(tf.zeros((2, 2)))


# Packing.


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(6, 2), (6, 4, 5, 3)], ids=["points", "images"])
def test_pack_is_a_rearrangement(shape, size):
    x = tf.random.normal(shape)
    numpy = x.numpy().reshape(6 // size, size, *shape[1:])
    expected = np.moveaxis(numpy, 1, -2).reshape(6 // size, *shape[1:-1], size * shape[-1])
    upstream = np.arange(expected.size, dtype=np.float32).reshape(expected.shape)
    packs, gradient = pass_and_gradients(Pack(size), x, tf.constant(upstream))
    np.testing.assert_array_equal(packs, expected)
    # Each number of the input goes to one place, and its gradient comes from there.
    places = {value: place for place, value in np.ndenumerate(expected)}
    for place, value in np.ndenumerate(x.numpy()):
        assert gradient[place] == upstream[places[value]]


def test_neighbors_share_a_pack():
    x = tf.range(6.0)[:, None] * [1.0, 10.0]
    np.testing.assert_array_equal(Pack(3)(x), [[0, 0, 1, 10, 2, 20], [3, 30, 4, 40, 5, 50]])
    np.testing.assert_array_equal(Pack(1)(x), x)
    assert Pack(np.int64(2))(x).shape == (3, 4)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", None])
def test_pack_refuses_sizes(size):
    with pytest.raises(ValueError, match="size="):
        Pack(size)


def test_pack_refuses_a_batch_that_it_does_not_divide():
    with pytest.raises(ValueError, match="Packs of 2 do not divide a batch of 5"):
        Pack(2)(tf.zeros((5, 3)))
    pack = tf.function(Pack(2), input_signature=[tf.TensorSpec((None, 3))])
    assert pack(tf.zeros((4, 3))).shape == (2, 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Packs of 2 do not divide"):
        pack(tf.zeros((5, 3)))
    with pytest.raises(ValueError, match="min_ndim=2"):
        Pack(2)(tf.zeros((4,)))


# All of them: in models of any batch, copied, saved, compiled, in bfloat16.

REFERENCE = np.linspace(-1, 1, 12).reshape(4, 3)
LAYERS = {
    "spectral": lambda: SpectralNormalization(layers.Dense(2), power_iterations=3),
    "minibatch": lambda: MinibatchDiscrimination(2, 3),
    "virtual": lambda: VirtualBatchNormalization(4, epsilon=0.01),
    "with": lambda: WithReference(REFERENCE),
    "drop": lambda: DropReference(2),
    "pack": lambda: Pack(3),
}
CUSTOM = [
    SpectralNormalization,
    MinibatchDiscrimination,
    VirtualBatchNormalization,
    WithReference,
    DropReference,
    Pack,
]
over_all = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def model_of(layer):
    x = keras.Input((3,))
    return keras.Model(x, layer(x))


@over_all
def test_model_can_be_copied_and_saved(make, tmp_path):
    model, x = model_of(make()), tf.random.normal((6, 3))
    outputs = model(x)
    assert model.output_shape == (None, outputs.shape[1])
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(x), outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={custom.__name__: custom for custom in CUSTOM}
    )
    np.testing.assert_array_equal(loaded(x), outputs)
    again = type(model.layers[1]).from_config(model.layers[1].get_config())
    assert again.get_config() == model.layers[1].get_config()


@over_all
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_for_any_batch_is_as_eager(make, jit_compile):
    model = model_of(make())

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x) ** 3)
        return [loss, *tape.gradient(loss, [x, *model.trainable_variables])]

    compiled = tf.function(
        step, input_signature=[tf.TensorSpec((None, 3))], jit_compile=jit_compile
    )
    for batch in (6, 9):
        x = tf.random.normal((batch, 3))
        assert_same(zip(compiled(x), step(x), strict=True), 1e-5)
    assert compiled.experimental_get_tracing_count() == 1


@over_all
def test_model_in_bfloat16_is_near_the_one_in_float32(make):
    exact, x = model_of(make()), tf.random.normal((6, 3))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        rough = model_of(make())
    finally:
        keras.config.set_dtype_policy("float32")
    rough.set_weights(exact.get_weights())
    outputs = rough(x)
    assert outputs.dtype == tf.bfloat16 and all(w.dtype == "float32" for w in rough.weights)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), exact(x), rtol=0.05, atol=0.05)
