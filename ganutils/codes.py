"""What do directions in latent space mean? Codes that an image must keep readable (InfoGAN).

A code is a part of the generator's input that a network Q tries to read off the image: a category,
one-hot, and continuous values in [-1, 1]. Q is a pair of heads on the discriminator.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.optimize import linear_sum_assignment

from ganutils import checks
from ganutils.latents import join_classes, sample_classes, sample_latents
from ganutils.networks import bn_relu, leaky_relu, with_heads


def sample_codes(count, classes, continuous, *, seed, step):
    """Draw a category and continuous codes for each image, as a pure function of (seed, step).

    Args:
        count: number of images, an integer or a scalar integer tensor.
        classes: how many categories there are, >= 1; they are equally likely.
        continuous: how many continuous codes an image has.
        seed, step: as for `latents.sample_classes`, whose labels these are; the values have a
            stream of their own.

    Returns:
        labels, int32 (count,), 0 to classes - 1; values, float32 (count, continuous), uniform on
        [-1, 1).

    Source: Chen et al. 2016, arXiv 1606.03657, section 7.2.
    """
    labels = sample_classes(count, classes, seed=seed, step=step)
    key = tf.random.fold_in(tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)]), 1)
    values = tf.random.stateless_uniform((count, continuous), seed=key, minval=-1.0, maxval=1.0)
    return labels, values


def join_codes(z, labels, values, classes):
    """Put a category, one-hot, and continuous codes behind latents: the input of a generator.

    Args:
        z: float (count, latent_dim).
        labels: as for `latents.join_classes`, integers (count,), 0 to classes - 1.
        values: float (count, continuous).
        classes: how many categories there are.

    Returns:
        (count, latent_dim + classes + continuous), of z's type.

    Raises:
        tf.errors.InvalidArgumentError: a label is out of range, or counts differ.
        ValueError: rows of shares have another width, or values are not (count, continuous).
    """
    values = tf.cast(values, z.dtype)
    if values.shape.rank != 2:
        raise ValueError(f"values of shape {values.shape} must be (count, continuous).")
    return tf.concat([join_classes(z, labels, classes), values], axis=1)


def categorical_bound(logits, labels):
    """E[log Q(c | x)] + log K: information about a category that Q reads off an image, at least.

    Args:
        logits: Q's logits, float (count, K).
        labels: the categories that the images were made from, integers (count,), equally likely.

    Returns:
        Scalar in nats, at most log K; 0 where Q answers 1 / K always, below 0 where it errs.

    Source: Chen et al. 2016, arXiv 1606.03657, equation 5.
    """
    log_q = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(log_q) + math.log(logits.shape[-1])


def continuous_bound(means, values, *, sigma):
    """E[log Q(c | x)] + log 2, summed over the continuous codes, with Q normal about its means.

    Args:
        means: Q's answers, float (count, continuous).
        values: the codes that the images were made from, uniform on [-1, 1], of the same shape.
        sigma: standard deviation of Q, > 0; how far off an answer may be.

    Returns:
        Scalar in nats, at most continuous * log(2 / (sigma sqrt(2 pi))), where Q is always right.

    Raises:
        ValueError: sigma is not above 0.

    Source: Chen et al. 2016, arXiv 1606.03657, equation 5 and section 6.
    """
    if sigma <= 0:
        raise ValueError(f"{sigma=} must be above 0.")
    log_q = -(((values - means) / sigma) ** 2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))
    return tf.reduce_mean(tf.reduce_sum(log_q + math.log(2), axis=1))


def start_deep(x, *, width):
    """Two more dense layers at a generator's start: what z does may depend on the code.

    Args:
        x: (batch, units), what the first dense layer gives; no activation has been applied.
        width: units of the hidden layer.

    Returns:
        (batch, units), for `networks.dcgan_generator(after_dense=partial(start_deep, width=...))`.
    """
    hidden = bn_relu(layers.Dense(width, use_bias=False)(x))
    return bn_relu(layers.Dense(x.shape[-1], use_bias=False)(hidden))


def info_discriminator(discriminator, *, width, classes, continuous):
    """Make D with Q's heads: the layers of a discriminator, one hidden dense layer, three heads.

    Args:
        discriminator: model from images to one logit, which is replaced.
        width: units of the hidden layer.
        classes, continuous: sizes of the codes.

    Returns:
        Model from images to [logits (batch, 1), logits of the categories (batch, classes), means of
        the values (batch, continuous)].

    Source: Chen et al. 2016, arXiv 1606.03657, appendix C.1.
    """
    hidden = leaky_relu(layers.Dense(width)(discriminator.layers[-1].input))
    deeper = keras.Model(discriminator.input, layers.Dense(1)(hidden))
    return with_heads(deeper, 1, classes, continuous)


def make_info_losses(discriminator, generator, *, objective, latent_dim, sigma, seed):
    """Make a function that plays one batch and tells both losses and both bounds.

    Args:
        discriminator: as `info_discriminator` makes it.
        generator: model from (batch, latent_dim + classes + continuous) to images.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        latent_dim: length of one latent vector, codes not counted.
        sigma: standard deviation of Q's answer about a continuous code, > 0.
        seed: integer; latents and codes of a step are functions of (seed, step).

    Returns:
        Function (real, step) -> dict of scalars: d_loss and g_loss, both without codes; category
        and continuous, the two bounds in nats, on the generated batch; d_real and d_fake. Where
        the two networks do not fit one another, Keras' error says what was expected.

    Source: Chen et al. 2016, arXiv 1606.03657, sections 4 to 6.
    """
    discriminator_loss, generator_loss = objective
    classes, continuous = (head.shape[-1] for head in discriminator.outputs[1:])

    def play(real, step):
        draw, count = {"seed": seed, "step": step}, tf.shape(real)[0]
        z = sample_latents(count, latent_dim, **draw)
        labels, values = sample_codes(count, classes, continuous, **draw)
        fake = generator(join_codes(z, labels, values, classes), training=True)
        real_logits, *_ = discriminator(real, training=True)
        fake_logits, code_logits, means = discriminator(fake, training=True)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake} | {
            "category": categorical_bound(code_logits, labels),
            "continuous": continuous_bound(means, values, sigma=sigma),
        }

    return play


def make_info_step(
    discriminator, generator, *, d_optimizer, g_optimizer, weights=(1.0, 0.1), asked=True, **game
):
    """Make a training step in which G and Q together raise the bounds on the information.

    Args:
        discriminator, generator: as for `make_info_losses`.
        d_optimizer, g_optimizer: Keras optimizers, built here: of D and Q together, and of G.
        weights: of the categorical and of the continuous bound, >= 0.
        asked: whether the generator raises the bounds, too; Q does in any case.
        game: the other arguments of `make_info_losses`.

    Returns:
        `tf.function` (real, step) -> dict of scalars, as `make_info_losses` says. real is (batch,
        height, width, channels) in [-1, 1]; step is an integer tensor or variable.

    Raises:
        ValueError: a weight is below 0, or sigma is not above 0.

    Source: Chen et al. 2016, arXiv 1606.03657, equation 6, with the non-saturating loss.
    """
    if min(weights) < 0:
        raise ValueError(f"{weights=} must not be below 0.")
    play = make_info_losses(discriminator, generator, **game)
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            values = play(real, step)
            information = weights[0] * values["category"] + weights[1] * values["continuous"]
            d_total = values["d_loss"] - information
            g_total = values["g_loss"] - (information if asked else 0.0)
        d_gradients = d_tape.gradient(d_total, d_vars)
        g_gradients = g_tape.gradient(g_total, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        return values

    return train_step


def match_codes(codes, labels, classes):
    """Match codes to classes one to one, with as few errors as any matching makes.

    Args:
        codes: integers (count,), 0 to classes - 1, such as Q's answers.
        labels: integers (count,), 0 to classes - 1, the classes of the same images.
        classes: how many there are of either.

    Returns:
        Integers (classes,), the class that each code stands for; and the error, the share of images
        whose code stands for another class, a float in 0..1.

    Raises:
        TypeError, ValueError: they are not integers, differ in number, or one is out of range.

    Source: Kuhn 1955, "The Hungarian method for the assignment problem".
    """
    codes = checks.as_labels(codes, len(codes), classes)
    labels = checks.as_labels(labels, len(codes), classes)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (codes, labels), 1)
    rows, matched = linear_sum_assignment(counts, maximize=True)
    return matched, float(1 - counts[rows, matched].sum() / counts.sum())
