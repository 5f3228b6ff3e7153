"""How do I choose what is drawn? Labels for both players, in three ways.

G gets its label behind its latents (`latents.join_classes`). What D does with the label is the
choice: it sees it as one more plane of the image, it multiplies its features by it, or it has to
find it out (`networks.with_heads`).
"""

import math

import keras
import tensorflow as tf
from keras import layers

from ganutils.latents import join_classes, sample_latents
from ganutils.networks import normal_init

# As large as the pixels beside it; Keras' own start is thirty times fainter.
plane_init = {"class_name": "RandomNormal", "config": {"stddev": 1.0}}


def joined_discriminator(network, classes):
    """Discriminator that gets a learned picture of the label as one more channel of the image.

    From [images, integer labels (batch,)] to logits (batch, 1). `network` is used, not copied; it
    is a discriminator of images of one channel more than the real ones.

    Mirza and Osindero 2014, arXiv 1411.1784, equation 2; the plane: Denton et al. 2015, 1506.05751.
    """
    height, width, channels = network.input_shape[1:]
    image, label = keras.Input((height, width, channels - 1)), keras.Input((), dtype="int32")
    plane = layers.Embedding(classes, height * width, embeddings_initializer=plane_init)(label)
    plane = layers.Reshape((height, width, 1))(plane)
    return keras.Model([image, label], network(layers.Concatenate()([image, plane])))


def projection_discriminator(network, classes):
    """Discriminator whose logit is a network's plus e(y).phi(x), the label's own direction.

    From [images, integer labels (batch,)] to logits (batch, 1). `network` is used, not copied; phi,
    (batch, units), is what its last layer takes.

    Miyato and Koyama 2018, arXiv 1802.05637.
    """
    features, label = network.layers[-1].input, keras.Input((), dtype="int32")
    direction = layers.Embedding(
        classes, features.shape[-1], embeddings_initializer=normal_init, dtype="float32"
    )(label)
    match = layers.Dot(axes=1, dtype="float32")([direction, features])
    return keras.Model([network.input, label], layers.Add(dtype="float32")([network.output, match]))


def ask_about_pair(discriminator, images, labels):
    """Logits (batch, 1): do images and labels belong together? And no class loss, 0.0."""
    return discriminator([images, labels], training=True), 0.0


def ask_for_class(discriminator, images, labels):
    """Logits (batch, 1): are the images real? And the mean of -log P(label | image).

    The discriminator is from images to logits and class logits, `with_heads(network, 1, classes)`,
    and is not shown the labels. The class loss is log(classes) where it cannot tell.

    Odena et al. 2017, arXiv 1610.09585, equation 2 with the sign changed.
    """
    logits, class_logits = discriminator(images, training=True)
    cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, class_logits)
    return logits, tf.reduce_mean(cost)


def make_conditional_play(discriminator, generator, *, ask, objective, classes, latent_dim, seed):
    """Make a labeled game for `steps.make_step`: G is asked for the labels of the batch.

    Args:
        generator: model from (batch, latent_dim + classes) to images.
        ask: function (discriminator, images, labels) -> logits and a class loss, which both players
            minimize, too: `ask_about_pair` or `ask_for_class`.
        objective: pair of losses, such as `losses.non_saturating`.

    Returns:
        Function ((images, labels), step) -> D's total, G's total, dict: d_loss, g_loss, d_real,
        d_fake, and the class losses real_class and fake_class.

    Mirza and Osindero 2014, arXiv 1411.1784, equation 2; Odena et al. 2017, arXiv 1610.09585.
    """
    discriminator_loss, generator_loss = objective

    def play(real, step):
        images, labels = real
        z = sample_latents(tf.shape(images)[0], latent_dim, seed=seed, step=step)
        fake = generator(join_classes(z, labels, classes), training=True)
        real_logits, real_class = ask(discriminator, images, labels)
        fake_logits, fake_class = ask(discriminator, fake, labels)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        values |= {"real_class": real_class, "fake_class": fake_class}
        return d_loss + real_class + fake_class, g_loss + fake_class, values

    return play


def draw_classes(generator, labels, *, classes, latent_dim, seed):
    """Draw one image for each label, float32 (count, height, width, channels) in [-1, 1].

    labels: integers (count,), 0 to classes - 1, or shares (count, classes); at least one. Latent i
    is row i % 500 of the draw (seed, i // 500), whatever the labels are.
    """
    draws = range(math.ceil(len(labels) / 500))
    z = tf.concat([sample_latents(500, latent_dim, seed=seed, step=k) for k in draws], axis=0)
    inputs = join_classes(z[: len(labels)], labels, classes)
    return generator.predict(inputs, batch_size=500, verbose=0)
