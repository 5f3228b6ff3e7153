"""How do I shape the codes of an autoencoder? By a discriminator for each part of the code.

A code has one or more parts, the encoder's heads. Each part has a prior, a function
(count, step) -> draws (count, size), and a discriminator that tells draws from codes. What the
discriminator calls real is a draw from the prior, and the encoder is the generator of this game.
"""

from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from ganutils.latents import sample_classes, sample_latents
from ganutils.layers import FusedBatchNormalization
from ganutils.networks import point_network, with_heads


def gaussian_prior(size, *, seed):
    """Prior of independent standard normal numbers.

    Args:
        size: numbers in one draw.
        seed: integer, names the stream.

    Returns:
        Function (count, step) -> float32 (count, size).
    """
    return lambda count, step: sample_latents(count, size, seed=seed, step=step)


def class_prior(classes, *, seed):
    """Prior of equally likely classes as one-hot rows.

    Args:
        classes: how many, >= 1.
        seed: integer, names the stream.

    Returns:
        Function (count, step) -> float32 (count, classes).
    """
    return lambda count, step: tf.one_hot(
        sample_classes(count, classes, seed=seed, step=step), classes
    )


def latent_discriminator(size, *, widths=(256, 256)):
    """Discriminator of codes. It computes in float32 whatever the dtype policy says.

    In bfloat16 a share of 0.999 would be 1, and the discriminator could not see that it is none.

    Args:
        size: numbers in one code.
        widths: units of each hidden layer.

    Returns:
        `keras.Model` from (batch, size) to logits (batch, 1), positive for draws of the prior.
    """
    dense = partial(layers.Dense, dtype="float32")
    return point_network(size, 1, widths=widths, dense=dense, after_dense=ops.leaky_relu)


def clustering_encoder(network, style_size, classes):
    """Encoder whose code has two parts: a style, unbounded, and shares of classes, of sum 1.

    The classes' logits are normalized over the batch, so that none of the classes starts, or ends,
    as that of every image.

    Args:
        network: model from images, whose last layer `networks.with_heads` can replace.
        style_size: numbers in a style, >= 1.
        classes: how many clusters there may be, >= 2.

    Returns:
        `keras.Model` from images to the list [style (batch, style_size), shares (batch, classes)].

    Raises:
        ValueError: classes is below 2, or style_size below 1.

    Source: Makhzani et al. 2016, arXiv 1511.05644, section 6 and figure 6.
    """
    if classes < 2:
        raise ValueError(f"{classes=}: one cluster tells nothing; ask for 2 or more.")
    heads = with_heads(network, style_size, classes)
    style, logits = heads.outputs
    shares = layers.Softmax(dtype="float32")(FusedBatchNormalization(dtype="float32")(logits))
    return keras.Model(heads.input, [style, shares], name="encoder")


def make_code_losses(encoder, decoder, parts, *, objective, pull=0.1):
    """Make a function that plays one batch and says what each side is to minimize.

    The discriminators are to tell draws of their priors from codes. Encoder and decoder are to
    reconstruct, and the encoder is to make codes that pass for draws.

    Args:
        encoder: model from images to a code (batch, size), or to a list of such parts.
        decoder: model from the parts side by side, (batch, sum of sizes), to images.
        parts: list of pairs (prior, discriminator), one for each part of the code. prior: function
            (count, step) -> draws (count, size); discriminator: model from them to logits.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        pull: weight of the encoder's adversarial loss beside the reconstruction's error, >= 0; at 0
            this is a plain autoencoder, watched by discriminators.

    Returns:
        Function (real, step) -> D's total, the coders' total, and a dict of scalars: d_loss,
        g_loss, d_real and d_fake, each over all parts, and reconstruction, the mean squared error
        of a pixel. real is (batch, height, width, channels) in [-1, 1], of a fixed batch size.

    Raises:
        ValueError: parts are not as many as the encoder's outputs, or pull is below 0.

    Source: Makhzani et al. 2016, arXiv 1511.05644, sections 2 and 6.
    """
    if len(parts) != len(encoder.outputs) or not pull >= 0:
        wrong = f"{len(parts)} parts for {len(encoder.outputs)} outputs of the encoder, {pull=}"
        raise ValueError(f"{wrong}: one part for each output, please, and no weight below 0.")
    discriminator_loss, generator_loss = objective

    def play(real, step):
        codes = tf.nest.flatten(encoder(real, training=True))
        decoded = decoder(tf.concat(codes, axis=1), training=True)
        reconstruction = tf.reduce_mean(tf.square(decoded - real))
        logits = []
        for code, (prior, discriminator) in zip(codes, parts, strict=True):
            logits.append([discriminator(prior(real.shape[0], step)), discriminator(code)])
        real_logits, fake_logits = (tf.concat(rows, axis=0) for rows in zip(*logits, strict=True))
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        return d_loss, reconstruction + pull * g_loss, values | {"reconstruction": reconstruction}

    return play


def make_autoencoder_step(encoder, decoder, parts, *, d_optimizer, g_optimizer, **game):
    """Make one training step of an autoencoder whose code is held to a prior.

    Args:
        encoder, decoder, parts: as for `make_code_losses`.
        d_optimizer: Keras optimizer of all discriminators.
        g_optimizer: Keras optimizer of encoder and decoder.
        game: objective, and perhaps pull, as for `make_code_losses`.

    Returns:
        `tf.function` (real, step) -> dict of scalars, as `make_code_losses` names them.

    Raises:
        ValueError: as `make_code_losses` does.

    Source: Makhzani et al. 2016, arXiv 1511.05644, section 2, with simultaneous updates.
    """
    play = make_code_losses(encoder, decoder, parts, **game)
    d_vars = [v for _, discriminator in parts for v in discriminator.trainable_variables]
    g_vars = encoder.trainable_variables + decoder.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            d_total, g_total, values = play(real, step)
        d_gradients = d_tape.gradient(d_total, d_vars)
        g_gradients = g_tape.gradient(g_total, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        return values

    return train_step


def surest_labels(shares, labels):
    """Name each cluster after the one image that is surest to be in it.

    Args:
        shares: float array (count, classes), rows of q(y|x).
        labels: integer array (count,), what each image shows.

    Returns:
        Integers (classes,), the label of each cluster.

    Source: Makhzani et al. 2016, arXiv 1511.05644, section 6.
    """
    return labels[np.argmax(shares, axis=0)]


def majority_labels(shares, labels):
    """Name each cluster after the label that most of its images have.

    Args:
        shares, labels: as for `surest_labels`.

    Returns:
        Integers (classes,), the label of each cluster; the smallest label on a tie, so that a
        cluster without images is called 0.
    """
    counts = np.zeros((shares.shape[1], labels.max() + 1))
    np.add.at(counts, (np.argmax(shares, axis=1), labels), 1)
    return np.argmax(counts, axis=1)


def cluster_error(shares, labels, names):
    """Share of images in a cluster of another name than theirs.

    Args:
        shares: float array (count, classes), rows of q(y|x); an image is in its largest.
        labels: integer array (count,), what each image shows.
        names: integers (classes,), from `surest_labels` or `majority_labels`, best of other images.

    Returns:
        Float in 0..1.

    Raises:
        ValueError: shares, labels and names do not fit together, or there are none.
    """
    if not len(labels) or shares.shape != (len(labels), len(names)):
        raise ValueError(f"{shares.shape=} for {len(labels)} labels and {len(names)} names.")
    return float(np.mean(names[np.argmax(shares, axis=1)] != labels))
