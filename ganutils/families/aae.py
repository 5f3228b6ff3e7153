"""How do I shape the codes of an autoencoder? By a discriminator for each part of the code.

A code has one or more parts, the encoder's heads. Each part has a prior, a function
(count, step) -> draws (count, size), and a discriminator that tells draws from codes. What the
discriminator calls real is a draw from the prior, and the encoder is the generator of this game.
"""

from functools import partial

import keras
import tensorflow as tf
from keras import layers, ops

from ganutils.latents import sample_classes, sample_latents
from ganutils.layers import FusedBatchNormalization
from ganutils.networks import point_network, with_heads


def gaussian_prior(size, *, seed):
    """Prior of standard normal numbers: function (count, step) -> float32 (count, size)."""
    return lambda count, step: sample_latents(count, size, seed=seed, step=step)


def class_prior(classes, *, seed):
    """Prior of equally likely one-hot rows: function (count, step) -> float32 (count, classes)."""

    def draw(count, step):
        return tf.one_hot(sample_classes(count, classes, seed=seed, step=step), classes)

    return draw


def latent_discriminator(size, *, widths=(256, 256)):
    """Discriminator of codes (batch, size), in float32 whatever the dtype policy says.

    In bfloat16 a share of 0.999 would be 1, and the discriminator could not see that it is none.
    """
    dense = partial(layers.Dense, dtype="float32")
    return point_network(size, 1, widths=widths, dense=dense, after_dense=ops.leaky_relu)


def clustering_encoder(network, style_size, classes):
    """Encoder whose code has two parts: a style, unbounded, and shares of classes, of sum 1.

    From images to [style (batch, style_size), shares (batch, classes)]; `network` is used without
    its last layer. The classes' logits are normalized over the batch, so that none of the classes
    starts, or ends, as that of every image.

    Makhzani et al. 2016, arXiv 1511.05644, section 6 and figure 8.
    """
    if classes < 2:
        raise ValueError(f"{classes=}: one cluster tells nothing; ask for 2 or more.")
    heads = with_heads(network, style_size, classes)
    style, logits = heads.outputs
    shares = layers.Softmax(dtype="float32")(FusedBatchNormalization(dtype="float32")(logits))
    return keras.Model(heads.input, [style, shares], name="encoder")


def make_aae_play(encoder, decoder, parts, *, objective, adversarial_weight=0.1):
    """Make the game of an adversarial autoencoder, as `steps.make_step` takes it.

    Args:
        encoder: model from images to a code (batch, size), or to a list of such parts.
        decoder: model from the parts side by side, (batch, sum of sizes), to images.
        parts: a pair (prior, discriminator) for each part of the code.
        objective: pair of losses, such as `losses.non_saturating`.
        adversarial_weight: of g_loss beside the reconstruction error, >= 0.

    Returns:
        Function (real, step) -> total of the discriminators, total of encoder and decoder, dict:
        d_loss, g_loss, d_real and d_fake over all parts; reconstruction, the mean squared error.

    Makhzani et al. 2016, arXiv 1511.05644, sections 2 and 6, with simultaneous updates.
    """
    if len(parts) != len(encoder.outputs):
        raise ValueError(f"{len(parts)} parts for {len(encoder.outputs)} outputs of the encoder.")
    if not adversarial_weight >= 0:
        raise ValueError(f"{adversarial_weight=} must not be below 0.")
    discriminator_loss, generator_loss = objective

    def play(real, step):
        codes = tf.nest.flatten(encoder(real, training=True))
        decoded = decoder(tf.concat(codes, axis=1), training=True)
        reconstruction = tf.reduce_mean(tf.square(decoded - real))
        real_logits, fake_logits = [], []
        for code, (prior, discriminator) in zip(codes, parts, strict=True):
            real_logits.append(discriminator(prior(real.shape[0], step), training=True))
            fake_logits.append(discriminator(code, training=True))
        real_logits, fake_logits = tf.concat(real_logits, axis=0), tf.concat(fake_logits, axis=0)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        g_total = reconstruction + adversarial_weight * g_loss
        return d_loss, g_total, values | {"reconstruction": reconstruction}

    return play
