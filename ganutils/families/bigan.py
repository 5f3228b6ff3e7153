"""How do I go from an image back to a code? An encoder that plays along, or a search for the code.

In the bidirectional game D judges pairs: (x, E(x)), called real, and (G(z), z), called fake. E and
G both play against it.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from ganutils.latents import sample_latents
from ganutils.losses import discriminator_loss, generator_loss, squared_slopes
from ganutils.networks import with_heads


def joint_discriminator(network, latent_dim, *, units=256):
    """Discriminator of pairs: an image and a code are read apart, then judged together.

    From [images, codes (batch, latent_dim)] to logits (batch, 1). The judge gets what was read from
    either, and their products: a pair is right or wrong as a pair. `network` is a discriminator of
    images, used without its last layer; every dense layer has `units`.

    Donahue et al. 2017, arXiv 1605.09782, section 3; products: Miyato and Koyama 2018, 1802.05637.
    """
    image, code = with_heads(network, units).output, keras.Input((latent_dim,))
    from_image = ops.leaky_relu(image)
    from_code = ops.leaky_relu(layers.Dense(units)(ops.leaky_relu(layers.Dense(units)(code))))
    products = layers.Multiply()([layers.Dense(units)(x) for x in (from_image, from_code)])
    x = layers.Concatenate()([from_image, from_code, products])
    logit = layers.Dense(1, dtype="float32")(ops.leaky_relu(layers.Dense(units)(x)))
    return keras.Model([network.input, code], logit, name="discriminator")


def encoder_loss(real_logits):
    """-E[log(1 - D(x, E(x)))]: real pairs are to be called fake; log 2 where D cannot tell.

    Donahue et al. 2017, arXiv 1605.09782, section 3.4, the labels exchanged.
    """
    return tf.reduce_mean(tf.nn.softplus(real_logits))


bidirectional = (discriminator_loss, generator_loss, encoder_loss)


def pair_penalty(discriminator, images, codes):
    """E[|grad l(x, z)|_2^2] / 2, the squared slope of the logit l at pairs, by image and by code.

    Without the weight gamma; `losses.r1_penalty`, for a judge of pairs.

    Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """

    def of_images(x, training):
        return discriminator([x, codes], training=training)

    def of_codes(z, training):
        return discriminator([images, z], training=training)

    slopes = squared_slopes(of_images, images) + squared_slopes(of_codes, codes)
    return tf.reduce_mean(slopes) / 2


def make_bigan_play(discriminator, generator, encoder, *, objective, latent_dim, seed, d_terms=()):
    """Make the bidirectional game, as `steps.make_step` takes it: G and E against D.

    Args:
        discriminator: model from [images, codes (batch, latent_dim)] to logits (batch, 1). Where it
            does not look at the codes, no gradient reaches the encoder, and Keras warns of that.
        objective: three losses: of real and fake logits for D, of fake logits for G, of real logits
            for E; such as `bidirectional`.
        d_terms: functions (images, codes, step) -> scalar, added to D's loss, such as a penalty;
            codes are E's of these images, and D alone learns from what is done with them.

    Returns:
        Function (real, step) -> D's total, the total of G and E, dict: d_loss, which is without the
        terms, g_loss, e_loss; d_real and d_fake, the mean D(x, E(x)) and D(G(z), z).

    Donahue et al. 2017, arXiv 1605.09782, section 3.4; Dumoulin et al. 2017, arXiv 1606.00704.
    """
    discriminator_loss, generator_loss, encoder_loss = objective

    def play(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        codes = encoder(real, training=True)
        real_logits = discriminator([real, codes], training=True)
        fake_logits = discriminator([generator(z, training=True), z], training=True)
        d_loss = discriminator_loss(real_logits, fake_logits)
        g_loss, e_loss = generator_loss(fake_logits), encoder_loss(real_logits)
        d_total = sum([term(real, tf.stop_gradient(codes), step) for term in d_terms], d_loss)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "e_loss": e_loss}
        return d_total, g_loss + e_loss, values | {"d_real": d_real, "d_fake": d_fake}

    return play


def reconstruction_errors(images, others):
    """Mean squared difference of pixels for each pair of images, float32 (count,) in 0..4."""
    difference = tf.cast(images, tf.float32) - tf.cast(others, tf.float32)
    return tf.reduce_mean(tf.square(difference), axis=[1, 2, 3])


def make_autoencoder_step(encoder, generator, *, optimizer):
    """Make one step of a plain autoencoder: G(E(x)) is to be x, pixel by pixel.

    `tf.function` (real, step) -> dict of one scalar, error. One optimizer moves both networks; the
    step number is not used.

    Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks".
    """
    variables = encoder.trainable_variables + generator.trainable_variables
    optimizer.build(variables)

    @tf.function
    def train_step(real, step):
        with tf.GradientTape() as tape:
            copies = generator(encoder(real, training=True), training=True)
            error = tf.reduce_mean(reconstruction_errors(real, copies))
        optimizer.apply(tape.gradient(error, variables), variables)
        return {"error": error}

    return train_step


def invert(generator, images, starts, *, steps, rate=0.05):
    """Find codes by gradient descent: Adam on the squared error of G(z), while G stands still.

    Every image and every start has a search of its own; they only share the computation.

    Args:
        starts: codes to start from, float (tries, count, latent_dim).
        steps: of descent, 1 or more.
        rate: Adam's step size, in units of a code.

    Returns:
        float32 (count, latent_dim), the best try's code for each image; and float32 (steps + 1,
        tries, count), the `reconstruction_errors` before each step and at the end.

    Creswell and Bharath 2016, arXiv 1611.05644; Lipton and Tripathi 2017, arXiv 1702.04782.
    """
    if starts.shape[1] != len(images) or steps < 1:
        raise ValueError(f"{starts.shape=} must be (tries, {len(images)}, dim); {steps=} from 1.")
    tries, count, latent_dim = starts.shape
    z = tf.Variable(tf.reshape(tf.cast(starts, tf.float32), (-1, latent_dim)))
    targets, optimizer = tf.tile(images, (tries, 1, 1, 1)), keras.optimizers.Adam(rate)
    optimizer.build([z])

    @tf.function
    def descend():
        with tf.GradientTape() as tape:
            errors = reconstruction_errors(targets, generator(z, training=False))
            total = tf.reduce_sum(errors)  # a sum: each code's slope is that of its own error
        optimizer.apply([tape.gradient(total, z)], [z])
        return errors

    path = [descend() for _ in range(steps)]
    path.append(reconstruction_errors(targets, generator(z, training=False)))
    path = np.reshape(path, (steps + 1, tries, count))
    best = path[-1].argmin(axis=0) * count + np.arange(count)
    return tf.gather(z, best), path
