"""Layers: Keras' own functions, in every value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils.layers import FusedBatchNormalization, UpsampleConv2D


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def pass_and_gradients(layer, x, upstream, **call):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **call)
    gradients = tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)
    return [y, *gradients]


def assert_same(pairs, tolerance):
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (32, 7)], ids=["maps", "units"])
def test_batch_norm_is_that_of_keras(shape):
    ours, theirs = FusedBatchNormalization(momentum=0.8), layers.BatchNormalization(momentum=0.8)
    for layer in (ours, theirs):
        layer.build(shape)
        layer.set_weights(
            [np.linspace(a, b, shape[-1]) for a, b in ((0.5, 2), (-1, 1), (-3, 3), (1, 4))]
        )
    x, upstream = tf.random.normal(shape, 3.0, 2.0), tf.random.normal(shape)
    got, expected = (
        pass_and_gradients(layer, x, upstream, training=True) for layer in (ours, theirs)
    )
    assert_same(zip(got, expected, strict=True), 1e-5)
    n = np.prod(shape[:-1])
    values = x.numpy().reshape(n, -1).astype(np.float64)
    mean = 0.8 * np.linspace(-3, 3, shape[-1]) + 0.2 * values.mean(0)
    variance = 0.8 * np.linspace(1, 4, shape[-1]) + 0.2 * values.var(0, ddof=1)
    np.testing.assert_allclose(ours.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, variance, rtol=1e-5)


def test_batch_norm_infers_as_keras_does():
    ours, theirs = FusedBatchNormalization(), layers.BatchNormalization()
    x = tf.random.normal((3, 4, 4, 2))
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights(np.array([[1.5, 2.0], [0.1, 0.2], [-1.0, 1.0], [2.0, 0.5]]))
    np.testing.assert_array_equal(ours(x, training=False), theirs(x, training=False))
    np.testing.assert_array_equal(ours(x), theirs(x))
    np.testing.assert_array_equal(ours.moving_mean, [-1.0, 1.0])  # inference moves nothing


def test_batch_norm_keeps_its_statistics_in_float32_under_bfloat16():
    layer = FusedBatchNormalization(dtype="mixed_bfloat16", momentum=0.0)
    x = tf.random.normal((64, 8, 8, 2), 100.0, 0.5)
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(x, tf.bfloat16), tf.float64)
    np.testing.assert_allclose(layer.moving_mean, tf.reduce_mean(rounded, (0, 1, 2)), rtol=1e-5)
    assert all(weight.dtype == "float32" for weight in layer.weights)


@pytest.mark.parametrize("refused", [{"axis": 1}, {"scale": False}, {"center": False}])
def test_batch_norm_refuses_what_the_operation_cannot_do(refused):
    with pytest.raises(ValueError, match=next(iter(refused))):
        FusedBatchNormalization(**refused)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_upsample_conv_is_repetition_and_convolution(side, scale, use_bias):
    x = tf.random.normal((2, 6, 5, 3))
    settings = {"use_bias": use_bias, "bias_initializer": "random_normal", "activation": "tanh"}
    ours = UpsampleConv2D(4, side, scale=scale, **settings)
    theirs = keras.Sequential(
        [layers.UpSampling2D(scale), layers.Conv2D(4, side, padding="same", **settings)]
    )
    upstream = tf.random.normal((2, 6 * scale, 5 * scale, 4))
    assert ours(x).shape == theirs(x).shape == upstream.shape
    theirs.set_weights(ours.get_weights())  # of the same shapes in the same order
    got, expected = (pass_and_gradients(layer, x, upstream) for layer in (ours, theirs))
    assert_same(zip(got, expected, strict=True), 1e-5)


def test_upsample_conv_in_a_model_of_any_batch_and_in_a_copy_of_it():
    image = keras.Input((4, 4, 2))
    model = keras.Model(image, UpsampleConv2D(3, 3, scale=2)(image))
    assert model.output_shape == (None, 8, 8, 3)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    x = tf.random.normal((5, 4, 4, 2))
    np.testing.assert_array_equal(copy(x), model(x))
    assert UpsampleConv2D(3, 3, scale=2, dtype="mixed_bfloat16")(x).dtype == tf.bfloat16


@pytest.mark.parametrize(("side", "scale"), [(4, 2), (3, 0)])
def test_upsample_conv_refuses_even_kernels_and_shrinking(side, scale):
    with pytest.raises(ValueError, match="odd"):
        UpsampleConv2D(3, side, scale=scale)
