"""What do directions in latent space mean? Codes that an image must keep readable (InfoGAN).

A code is a part of the generator's input that a network Q tries to read off the image: a category,
one-hot, and continuous values in [-1, 1]. Q is a pair of heads on the discriminator.
"""

import math

import tensorflow as tf

from ganutils.latents import join_classes, sample_classes, sample_latents, stream


def sample_codes(count, classes, continuous, *, seed, step):
    """Draw labels, int32 (count,), and values, uniform in [-1, 1), by (seed, step) alone.

    Chen et al. 2016, arXiv 1606.03657, section 7.2.
    """
    labels = sample_classes(count, classes, seed=seed, step=step)
    key = stream(seed, step, "code")
    values = tf.random.stateless_uniform((count, continuous), seed=key, minval=-1.0, maxval=1.0)
    return labels, values


def join_codes(z, labels, values, classes):
    """Put codes behind latents: generator input (count, latent_dim + classes + continuous).

    labels: as for `latents.join_classes`; values: (count, continuous), else ValueError.
    """
    if len(values.shape) != 2:
        raise ValueError(f"values of shape {values.shape} must be (count, continuous).")
    return tf.concat([join_classes(z, labels, classes), tf.cast(values, z.dtype)], axis=1)


def categorical_bound(logits, labels):
    """E[log Q(c | x)] + log K: information about a category that Q reads off an image, at least.

    Of Q's logits (count, K) and the true categories (count,). In nats, at most log K; 0 where Q
    always answers 1 / K, below 0 where it errs.

    Chen et al. 2016, arXiv 1606.03657, equation 5.
    """
    log_q = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(log_q) + math.log(logits.shape[-1])


def continuous_bound(means, values, *, sigma):
    """E[log Q(c | x)] + log 2, summed over the continuous codes, with Q normal about its means.

    Of Q's means and the true values, uniform on [-1, 1], both (count, continuous); sigma > 0 is Q's
    standard deviation. In nats, at most log(2 / (sigma sqrt(2 pi))) for each continuous code.

    Chen et al. 2016, arXiv 1606.03657, equation 5 and section 6.
    """
    if sigma <= 0:
        raise ValueError(f"{sigma=} must be above 0.")
    log_q = -(((values - means) / sigma) ** 2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))
    return tf.reduce_mean(tf.reduce_sum(log_q + math.log(2), axis=1))


def make_infogan_play(
    discriminator, generator, *, objective, latent_dim, sigma, seed, weights=(1.0, 0.1), g_share=1.0
):
    """Make InfoGAN's game, as `steps.make_step` takes it: both players raise the bounds, too.

    Args:
        discriminator: D and Q in one model, from images to [logits (batch, 1), category logits
            (batch, classes), means of the values (batch, continuous)], as `networks.with_heads`
            makes it (appendix C.1).
        generator: model from (batch, latent_dim + classes + continuous) to images.
        objective: pair of losses, such as `losses.non_saturating`.
        sigma: standard deviation of Q's answer about a continuous code, > 0.
        weights: of the categorical and of the continuous bound, >= 0.
        g_share: how much of the weighted bounds the generator raises; 0 leaves them to Q alone.

    Returns:
        Function (real, step) -> D's total, G's total, dict: d_loss, g_loss, d_real, d_fake, and the
        two bounds in nats, category and continuous.

    Chen et al. 2016, arXiv 1606.03657, equation 6.
    """
    if min(*weights, g_share) < 0:
        raise ValueError(f"{weights=} and {g_share=} must not be below 0.")
    discriminator_loss, generator_loss = objective
    classes, continuous = (head.shape[-1] for head in discriminator.outputs[1:])

    def play(real, step):
        count = tf.shape(real)[0]
        z = sample_latents(count, latent_dim, seed=seed, step=step)
        labels, values = sample_codes(count, classes, continuous, seed=seed, step=step)
        fake = generator(join_codes(z, labels, values, classes), training=True)
        real_logits, *_ = discriminator(real, training=True)
        fake_logits, label_logits, means = discriminator(fake, training=True)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        category = categorical_bound(label_logits, labels)
        of_values = continuous_bound(means, values, sigma=sigma)
        information = weights[0] * category + weights[1] * of_values
        scalars = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        scalars |= {"category": category, "continuous": of_values}
        return d_loss - information, g_loss - g_share * information, scalars

    return play
