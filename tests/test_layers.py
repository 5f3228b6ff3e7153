"""Layers against Keras' own functions and the papers' formulas, in every value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils.families.mode_collapse import (
    DropReference,
    MinibatchDiscrimination,
    Pack,
    VirtualBatchNormalization,
    WithReference,
)
from ganutils.layers import (
    FusedBatchNormalization,
    SpectralNormalization,
    UpsampleConv2D,
    largest_singular_value,
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
