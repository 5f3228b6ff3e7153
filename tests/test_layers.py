"""Layers against Keras' own functions and the papers' formulas, in every value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils.layers import (
    DropReference,
    FusedBatchNormalization,
    MinibatchDiscrimination,
    Pack,
    SpectralNormalization,
    UpsampleConv2D,
    VirtualBatchNormalization,
    WithReference,
    largest_singular_value,
    virtual_moments,
)


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def pass_and_gradients(layer, x, upstream, **call):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **call)
    gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)
    return [y, *gradients]


def assert_same(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def assert_all_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# Batch normalization.


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (32, 7)], ids=["maps", "units"])
def test_batch_norm_is_that_of_keras(shape):
    ours, theirs = FusedBatchNormalization(momentum=0.8), layers.BatchNormalization(momentum=0.8)
    ranges = ((0.5, 2), (-1, 1), (-3, 3), (1, 4))
    start = [np.linspace(*ends, shape[-1], dtype=np.float32) for ends in ranges]
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights(start)
    x, upstream = tf.random.normal(shape, 3.0, 2.0), tf.random.normal(shape)
    assert_all_equal([ours(x), ours(x, training=False)], [theirs(x)] * 2)
    assert_all_equal(ours.get_weights(), start)  # inference moves nothing
    assert_same(*(pass_and_gradients(each, x, upstream, training=True) for each in (ours, theirs)))
    values = x.numpy().reshape(-1, shape[-1]).astype(np.float64)
    np.testing.assert_allclose(ours.moving_mean, 0.8 * start[2] + 0.2 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    variance = 0.8 * start[3] + 0.2 * values.var(0, ddof=1)
    np.testing.assert_allclose(ours.moving_variance, variance, rtol=1e-5)


def test_batch_norm_keeps_its_statistics_in_float32_under_bfloat16():
    layer = FusedBatchNormalization(dtype="mixed_bfloat16", momentum=0.0)
    x = tf.random.normal((64, 8, 8, 2), 100.0, 0.5)
    assert layer(x, training=True).dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(x, tf.bfloat16), tf.float64)
    np.testing.assert_allclose(layer.moving_mean, tf.reduce_mean(rounded, (0, 1, 2)), rtol=1e-5)
    assert all(weight.dtype == "float32" for weight in layer.weights)


# Upsampling.


@pytest.mark.parametrize(
    "side, scale, use_bias", [(1, 2, 1), (3, 1, 1), (3, 2, 0), (5, 2, 1), (3, 3, 1), (5, 3, 0)]
)
def test_upsample_conv_is_repetition_and_convolution(side, scale, use_bias):
    x = tf.random.normal((2, 6, 5, 3))
    settings = {"use_bias": bool(use_bias), "bias_initializer": "random_normal"}
    settings["activation"] = "tanh"
    ours = UpsampleConv2D(4, side, scale=scale, **settings)
    convolution = layers.Conv2D(4, side, padding="same", **settings)
    theirs = keras.Sequential([layers.UpSampling2D(scale), convolution])
    assert ours(x).shape == theirs(x).shape == (2, 6 * scale, 5 * scale, 4)
    theirs.set_weights(ours.get_weights())  # of the same shapes in the same order
    upstream = tf.random.normal(ours(x).shape)
    assert_same(*(pass_and_gradients(each, x, upstream) for each in (ours, theirs)))


# Spectral normalization.

WRAPPED = {
    "Dense": (lambda: layers.Dense(5, bias_initializer="random_normal"), (4, 7)),
    "Conv2D": (lambda: layers.Conv2D(5, 3, strides=2, activation="tanh"), (4, 6, 6, 3)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 4, strides=2), (4, 3, 3, 2)),
    "UpsampleConv2D": (lambda: UpsampleConv2D(5, 3, scale=2), (4, 3, 3, 2)),
}


def norm_of(kernel):
    kernel = np.asarray(kernel)
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def test_power_iteration_finds_the_largest_singular_value():
    rng = np.random.default_rng(0)
    kernel, start = rng.normal(size=(3, 3, 4, 6)), tf.constant(rng.normal(size=6))
    left, values, right = np.linalg.svd(kernel.reshape(-1, 6), full_matrices=False)
    variable = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        sigma, u = largest_singular_value(variable, start, iterations=100)
    np.testing.assert_allclose(sigma, values[0], rtol=1e-12)
    np.testing.assert_allclose(np.abs(u), np.abs(right[0]), rtol=1e-6)
    outer = np.outer(left[:, 0], right[0]).reshape(kernel.shape)  # the gradient of a singular value
    np.testing.assert_allclose(tape.gradient(sigma, variable), outer, atol=1e-6)
    found = [float(largest_singular_value(kernel, start, iterations=n)[0]) for n in (1, 2, 4, 8)]
    assert found == sorted(found) and found[-1] <= values[0] * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-7, 1, 1e7])
def test_power_iteration_goes_on_from_u_at_any_scale(scale):
    kernel, start = scale * tf.random.normal((6, 4)), tf.random.normal((4,), stddev=1e-3)
    u = start
    for _ in range(3):
        sigma, u = largest_singular_value(kernel, u, iterations=2)
    assert_same([sigma, u], largest_singular_value(kernel, start, iterations=6))
    sigma, u = largest_singular_value(kernel, u, iterations=100)
    assert float(sigma) == pytest.approx(norm_of(kernel), rel=1e-5)
    assert np.linalg.norm(u) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("make", "shape"), WRAPPED.values(), ids=WRAPPED)
def test_spectral_normalization_divides_by_the_norm_and_moves_u_alone(make, shape):
    x = tf.random.normal(shape)
    layer = SpectralNormalization(make(), power_iterations=40)
    layer.build(shape)
    assert layer.trainable_variables == layer.layer.trainable_variables  # each kernel once
    before = layer.get_weights()
    outputs = [layer(x), layer(x, training=False)]
    assert_all_equal(layer.get_weights(), before)
    outputs += [layer(x, training=True), layer(x)]
    moved = [not np.array_equal(*pair) for pair in zip(layer.get_weights(), before, strict=True)]
    assert moved == [weight is layer.u for weight in layer.weights] and sum(moved) == 1
    assert len(layer.non_trainable_variables) == 1
    assert np.linalg.norm(layer.u) == pytest.approx(1, rel=1e-5)
    kernel, *bias = layer.layer.get_weights()
    plain = make()
    plain.build(shape)
    plain.set_weights([kernel / norm_of(kernel), *bias])
    for got in outputs:
        np.testing.assert_allclose(got, plain(x), rtol=1e-4, atol=1e-5)


def test_single_iterations_add_up_over_calls_in_training():
    layer = SpectralNormalization(layers.Dense(5, use_bias=False))
    rows = tf.eye(7)  # of the identity: they read out the kernel
    assert norm_of(layer(rows)) > 1.01  # sigma is too small at first
    for _ in range(100):
        layer(rows, training=True)
    assert norm_of(layer(rows)) == pytest.approx(1, rel=1e-4) != norm_of(layer.layer.kernel)


def test_spectral_normalization_gives_the_gradient_of_the_quotient():
    within = layers.Dense(3, dtype="float64", activation="tanh")
    layer = SpectralNormalization(within, power_iterations=100, dtype="float64")
    x, upstream, direction = (
        tf.random.normal(s, dtype="float64") for s in [(4, 5), (4, 3), (5, 3)]
    )

    def by_svd(kernel):
        return np.sum(np.tanh(x.numpy() @ (kernel / norm_of(kernel))) * upstream)

    outputs, _, gradient, _ = pass_and_gradients(layer, x, upstream, training=True)
    kernel, nudge = within.kernel.numpy(), 1e-6 * direction
    assert np.sum(outputs * upstream) == pytest.approx(by_svd(kernel), rel=1e-10)
    slope = (by_svd(kernel + nudge) - by_svd(kernel - nudge)) / 2e-6
    assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(slope, rel=1e-5)
    # W / sigma(W) does not change along W itself.
    assert float(tf.reduce_sum(gradient * kernel)) == pytest.approx(0, abs=1e-10)


def test_gradient_of_one_iteration_holds_u_and_v_constant():
    within = layers.Dense(3, dtype="float64", use_bias=False)
    layer = SpectralNormalization(within, dtype="float64")
    x, upstream = tf.random.normal((4, 5), dtype="float64"), tf.ones((4, 3), "float64")
    gradient = pass_and_gradients(layer, x, upstream)[2]
    kernel = within.kernel.numpy()
    v = kernel @ layer.u.numpy()
    v /= np.linalg.norm(v)
    u = kernel.T @ v / np.linalg.norm(kernel.T @ v)
    sigma, inner = v @ kernel @ u, x.numpy().T @ upstream.numpy()
    expected = inner / sigma - np.sum(inner * kernel) / sigma**2 * np.outer(v, u)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def test_spectral_normalization_in_keras_stateless_call():
    layer, x = SpectralNormalization(layers.Dense(3)), tf.random.normal((4, 5))
    layer.build(x.shape)
    before, (kernel, bias) = layer.get_weights(), (w.numpy() for w in layer.trainable_variables)
    weights = [2 * kernel, bias + 1]
    outputs, (u,) = layer.stateless_call(weights, [layer.u.numpy()], x, training=True)
    assert_all_equal(layer.get_weights(), before)
    np.testing.assert_allclose(outputs, layer(x) + 1, rtol=1e-5, atol=1e-6)  # 2 W / sigma(2 W)
    layer(x, training=True)
    np.testing.assert_allclose(u, layer.u, rtol=1e-5)


def test_spectral_normalization_finds_sigma_in_float32_under_bfloat16():
    within = layers.Dense(5, use_bias=False, dtype="mixed_bfloat16")
    layer = SpectralNormalization(within, power_iterations=100)
    outputs = layer(tf.eye(7), training=True)
    assert outputs.dtype == tf.bfloat16 and layer.u.dtype == within.kernel.dtype == "float32"
    kernel = within.kernel.numpy()
    np.testing.assert_allclose(tf.cast(outputs, "float32"), kernel / norm_of(kernel), rtol=2**-8)
    right = np.linalg.svd(kernel)[2][0]  # of the weights, not of rounded ones
    np.testing.assert_allclose(np.abs(layer.u), np.abs(right), atol=1e-5)


def test_spectral_normalization_of_a_kernel_of_zeros_is_finite_and_can_leave_it():
    layer = SpectralNormalization(layers.Dense(3, kernel_initializer="zeros"))
    layer.build((None, 5))
    u, x = layer.u.numpy(), tf.random.normal((4, 5))
    outputs, _, gradient, _ = pass_and_gradients(layer, x, tf.ones((4, 3)), training=True)
    assert_all_equal([outputs, layer.u], [np.zeros((4, 3)), u])
    np.testing.assert_allclose(gradient, tf.transpose(x) @ tf.ones((4, 3)), rtol=1e-6)


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


# All of them in one model: alone with each example, copied, saved, compiled, in bfloat16.

REFERENCE = np.random.default_rng(0).normal(size=(3, 4, 4, 3))


def every_layer():
    image = keras.Input((2, 2, 3))
    x = UpsampleConv2D(3, 3, scale=2, use_bias=False)(image)
    x = FusedBatchNormalization(momentum=0.8)(x)
    x = WithReference(REFERENCE)(x)
    x = VirtualBatchNormalization(3, epsilon=0.01)(x)
    x = Pack(2)(DropReference(3)(x))
    x = MinibatchDiscrimination(2, 3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, SpectralNormalization(layers.Dense(2), power_iterations=3)(x))


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def trained(request):
    """A model of every layer whose state has moved."""
    keras.config.set_dtype_policy(request.param)
    model = every_layer()
    keras.config.set_dtype_policy("float32")
    model(tf.random.normal((6, 2, 2, 3)), training=True)
    return model


def test_a_model_of_every_layer_is_copied_saved_and_loaded(trained, tmp_path):
    x = tf.random.normal((6, 2, 2, 3))
    outputs = trained(x)
    assert trained.output_shape == (None, 2) and outputs.shape == (3, 2)
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    copy, restored = (keras.models.clone_model(trained) for _ in range(2))
    copy.set_weights(trained.get_weights())
    path = tf.train.Checkpoint(model=trained).write(str(tmp_path / "run"))
    tf.train.Checkpoint(model=restored).read(path).assert_consumed()
    for other in (loaded, copy, restored):
        assert_all_equal(other.get_weights(), trained.get_weights())
        assert other(x).dtype == outputs.dtype
        np.testing.assert_array_equal(other(x), outputs)
    for model in (trained, loaded):
        model(x, training=True)  # settings that tell only here: momentum, power iterations
    assert_all_equal(loaded.get_weights(), trained.get_weights())


def test_a_model_in_bfloat16_is_near_the_one_in_float32(trained):
    exact, x = every_layer(), tf.random.normal((6, 2, 2, 3))
    exact.set_weights(trained.get_weights())
    assert all(weight.dtype == "float32" for weight in trained.weights)
    assert trained(x).dtype == trained.layers[1].compute_dtype
    np.testing.assert_allclose(tf.cast(trained(x), tf.float32), exact(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
def test_a_model_twice_in_a_compiled_step_of_any_batch_is_as_eager(jit_compile):
    eager, compiled = every_layer(), every_layer()
    compiled.set_weights(eager.get_weights())

    def step(model, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x[0], training=True) ** 2 - model(x[1], training=True))
        return [loss, *tape.gradient(loss, [x, *model.trainable_variables])]

    signature = [tf.TensorSpec((2, None, 2, 2, 3))]
    compiled_step = tf.function(
        lambda x: step(compiled, x), input_signature=signature, jit_compile=jit_compile
    )
    for batch in (6,) if jit_compile else (6, 8):
        x = tf.random.normal((2, batch, 2, 2, 3))
        assert_same(compiled_step(x), step(eager, x), 1e-4)
        assert_same(compiled.get_weights(), eager.get_weights())
    assert compiled_step.experimental_get_tracing_count() == 1


def test_a_model_with_a_reference_treats_each_example_alone():
    z = keras.Input((3,))
    x = layers.Dense(4)(WithReference(REFERENCE[0, 0])(z))
    x = layers.ReLU()(VirtualBatchNormalization(4)(x))
    model = keras.Model(z, DropReference(4)(layers.Dense(2)(x)))
    x = tf.random.normal((4, 3))
    assert model.output_shape == (None, 2) and len(model.trainable_variables) == 6
    alone = tf.concat([model(x[i : i + 1], training=True) for i in range(4)], axis=0)
    np.testing.assert_allclose(model(x, training=True), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x, training=True), model(x))


# Refusals.

DENSE = layers.Dense(1)
ROWS = np.zeros((5, 3))
REFUSED = {
    "axis": (lambda: FusedBatchNormalization(axis=1)(tf.zeros((3, 2, 2, 1))), "axis"),
    "scale": (lambda: FusedBatchNormalization(scale=False)(ROWS), "scale"),
    "center": (lambda: FusedBatchNormalization(center=False)(ROWS), "center"),
    "even kernel": (lambda: UpsampleConv2D(3, 4, scale=2), "odd"),
    "shrinking": (lambda: UpsampleConv2D(3, 3, scale=0), "scale=0"),
    "no iteration": (lambda: SpectralNormalization(DENSE, power_iterations=0), "power_iterations"),
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


@pytest.mark.parametrize(
    "layer", [layers.ReLU(), layers.Embedding(3, 2)], ids=["ReLU", "Embedding"]
)
def test_spectral_normalization_refuses_layers_it_does_not_know(layer):
    with pytest.raises(TypeError, match="Dense, Conv2D or Conv2DTranspose"):
        SpectralNormalization(layer)


def test_counts_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="size"):
        Pack(2.0)
    with pytest.raises(TypeError, match="power_iterations"):
        SpectralNormalization(DENSE, power_iterations=None)
