"""How is one image turned into another? Pairs, a U-Net, a judge of patches, and the L1 distance.

A generator turns (given, z) into an image; a discriminator judges (given, image), patch by patch.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import validation
from ganutils.latents import sample_latents
from ganutils.networks import bn_relu, normal_init, upsample_conv


def drop_half(pair):
    """Noise as Dropout: a number of the code is 0 where its latent is below 0, else doubled.

    pair: code and z, both (batch, units). Returns (batch, units). For `translator`.

    Isola et al. 2017, arXiv 1611.07004, section 3.1: noise in the form of Dropout, in tests, too.
    """
    code, z = pair
    return 2.0 * code * keras.ops.cast(z > 0, code.dtype)


def translator(image_shape, *, widths=(16, 32, 64), units=64, skips=True, join=None):
    """Generator: an image, and noise at the narrowest place -> an image of the same shape.

    From [given (batch, *image_shape), z (batch, units)] to (batch, *image_shape) in [-1, 1].

    Args:
        image_shape: (height, width, channels), which halve as often as there are widths but one.
        widths: channels at each size, from the largest to the smallest.
        units: numbers in the code, and in z.
        skips: whether each size hands its maps over to the other side, as in a U-Net; otherwise all
            goes through the code.
        join: function [code, z] -> (batch, any); None puts one behind the other.

    Isola et al. 2017, arXiv 1611.07004, section 3.2.1; Ronneberger et al. 2015, arXiv 1505.04597.
    """
    validation.check_image_shape(image_shape)
    if any(side % 2 ** (len(widths) - 1) for side in image_shape[:2]):
        raise ValueError(
            f"{image_shape=} must halve {len(widths) - 1} times: fewer widths, or pad."
        )
    common = {"use_bias": False, "kernel_initializer": normal_init}
    given, z = keras.Input(image_shape), keras.Input((units,))
    x, maps = given, []
    for level, width in enumerate(widths):
        x = layers.Conv2D(width, 3, strides=min(level + 1, 2), padding="same", **common)(x)
        maps.append(x := bn_relu(x))
    code = bn_relu(layers.Dense(units, **common)(layers.Flatten()(x)))
    code = (join or layers.Concatenate())([code, z])
    x = bn_relu(layers.Dense(math.prod(x.shape[1:]), **common)(code))
    x = layers.Reshape(maps[-1].shape[1:])(x)
    for level in reversed(range(len(widths))):
        if skips:
            x = layers.Concatenate()([x, maps[level]])
        if level:
            x = bn_relu(upsample_conv(x, widths[level - 1], 2, kernel_size=3, **common))
    x = layers.Conv2D(image_shape[-1], 3, padding="same", dtype="float32", **common)(x)
    return keras.Model([given, z], layers.Activation("tanh", dtype="float32")(x), name="generator")


def receptive_field(kernels, strides):
    """Side of the patch that one output of convolutions in a row depends on, in pixels.

    kernels, strides: of each convolution, the first one first.
    """
    side, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        side, jump = side + (kernel - 1) * jump, jump * stride
    return side


def patch_discriminator(image_shape, *, widths=(32, 64)):
    """Discriminator of pairs that gives each patch of them a logit of its own.

    From [given, image], both (batch, *image_shape), to logits (batch, rows, columns, 1). Each of
    the widths is a 3x3 convolution of stride 2; one of stride 1 makes the logits.

    Isola et al. 2017, arXiv 1611.07004, section 3.2.2; Li and Wand 2016, arXiv 1604.04382.
    """
    validation.check_image_shape(image_shape)
    conv = {"kernel_size": 3, "padding": "same", "kernel_initializer": normal_init}
    given, image = keras.Input(image_shape), keras.Input(image_shape)
    x = layers.Concatenate()([given, image])
    for width in widths:
        x = keras.ops.leaky_relu(layers.Conv2D(width, strides=2, **conv)(x))
    logits = layers.Conv2D(1, dtype="float32", **conv)(x)
    return keras.Model([given, image], logits, name="discriminator")


def make_pix2pix_play(discriminator, generator, *, objective, weights=(1.0, 100.0), seed):
    """Make the game of pairs, as `steps.make_step` takes it.

    Args:
        discriminator: model from [given, image]; generator: model from [given, z].
        objective: pair of losses, such as `losses.non_saturating`.
        weights: of the adversarial loss and of the L1 distance in the generator's total. With
            (0.0, 1.0) the discriminator learns, and nobody listens.

    Returns:
        Function ((given, truth), step) -> D's total, G's total, dict of d_loss, g_loss, d_real,
        d_fake, and l1, the mean absolute difference of pixels.

    Isola et al. 2017, arXiv 1611.07004, equation 4.
    """
    discriminator_loss, generator_loss = objective
    gan_weight, l1_weight = weights

    def play(real, step):
        given, truth = real
        units = generator.input_shape[1][-1]
        z = sample_latents(tf.shape(given)[0], units, seed=seed, step=step)
        fake = generator([given, z], training=True)
        real_logits = discriminator([given, truth], training=True)
        fake_logits = discriminator([given, fake], training=True)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        l1 = tf.reduce_mean(tf.abs(truth - fake))
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake, "l1": l1}
        return d_loss, gan_weight * g_loss + l1_weight * l1, values

    return play


def translate(generator, given, *, seed):
    """Turn images into others, float32 (count, height, width, channels) in [-1, 1].

    As in training, batch normalization takes the statistics of the images that are drawn together:
    all of them, or, of more than 500, parts of one size or nearly so. An answer thus depends on its
    company; a single image is its own, and nothing is left of its code. The moving averages are
    neither used nor moved.

    Part k gets the latents (seed, k). ValueError for images of another shape than the generator
    takes, or of another range.

    Isola et al. 2017, arXiv 1611.07004, section 3.3.
    """
    given = validation.as_images(given, "given")
    if given.shape[1:] != generator.input_shape[0][1:]:
        raise ValueError(
            f"given are {given.shape}; the generator takes {generator.input_shape[0]}."
        )
    units, answers = generator.input_shape[1][-1], []
    variables = generator.trainable_variables, generator.non_trainable_variables
    for step, part in enumerate(np.array_split(given, math.ceil(len(given) / 500))):
        z = sample_latents(len(part), units, seed=seed, step=step)
        images, _ = generator.stateless_call(*variables, [tf.constant(part), z], training=True)
        answers.append(images)
    return np.concatenate(answers)


def paired_l1(images, truth):
    """Mean absolute difference of pixels, a float in 0..2; ValueError for unpaired counts."""
    images, truth = (validation.as_images(x, n) for x, n in ((images, "images"), (truth, "truth")))
    if images.shape != truth.shape:
        raise ValueError(f"images {images.shape} and truth {truth.shape} are no pairs.")
    return float(np.abs(images - truth).mean())


def answer_variance(draws):
    """Variance of each pixel over several answers to one question, its mean: a float.

    draws: array (answers, count, height, width, channels), of at least two answers.
    """
    if np.ndim(draws) != 5 or len(draws) < 2:
        raise ValueError(f"draws must be two or more sets of images, not {np.shape(draws)}.")
    return float(np.var(draws, axis=0, ddof=1).mean())
