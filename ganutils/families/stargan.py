"""How does one generator translate between many looks? It is told which one, and D says which.

A look, the paper's domain, is an integer from 0 on. G gets an image and the look it is asked for;
the discriminator has two heads, `networks.with_heads(network, 1, looks)`: is the image real, and
which look does it have?
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import validation
from ganutils.latents import sample_classes
from ganutils.networks import bn_relu, residual_translator


def star_generator(image_shape, looks, *, after_conv=bn_relu, **sizes):
    """Generator that gets the look as planes beside the image: ones for it, zeros for others.

    Args:
        image_shape: (height, width, channels), of sides that halve (else ValueError).
        looks: how many there are, 2 or more.
        after_conv, sizes: arguments of `networks.residual_translator`. A look does not survive a
            normalization of each image by itself behind the first convolution.

    Returns:
        Model from [images (batch, *image_shape), one-hot looks (batch, looks)] to images in
        [-1, 1].

    Choi et al. 2018, arXiv 1711.09020, section 3.1, with fewer and smaller layers.
    """
    validation.check_image_shape(image_shape)
    looks = validation.as_integer(looks, "looks", low=2, high=10**4)
    height, width, channels = image_shape
    image, look = keras.Input(image_shape), keras.Input((looks,))
    everywhere = layers.Reshape((height, width, looks))(layers.RepeatVector(height * width)(look))
    planes = layers.Concatenate()([image, everywhere])
    shape = (height, width, channels + looks)
    network = residual_translator(shape, channels=channels, after_conv=after_conv, **sizes)
    return keras.Model([image, look], network(planes), name="generator")


def look_loss(look_logits, looks):
    """-E[log P(look | image)]; log(looks) where nothing can be told, 1.609 of five.

    Of logits (batch, looks) and integers (batch,).

    Choi et al. 2018, arXiv 1711.09020, equations 2 and 3.
    """
    cost = tf.nn.sparse_softmax_cross_entropy_with_logits(looks, look_logits)
    return tf.reduce_mean(cost)


def own_look_error(images, drawn, source, target):
    """Mean absolute error of the images that were asked for the look they have; 0 without any.

    images, drawn: (batch, height, width, channels); source, target: integers (batch,).

    The identity loss of Zhu et al. 2017, arXiv 1703.10593, section 5.2, for many looks.
    """
    own = tf.cast(tf.equal(source, target), tf.float32)
    errors = tf.reduce_mean(tf.abs(drawn - images), axis=[1, 2, 3])
    return tf.math.divide_no_nan(tf.reduce_sum(own * errors), tf.reduce_sum(own))


def make_star_play(discriminator, generator, *, objective, seed, weights=(1.0, 2.0, 2.0)):
    """Make StarGAN's game, as `steps.make_step` takes it: each image is asked for a random look.

    Args:
        discriminator: model from images to [logits (batch, 1), look logits (batch, looks)].
        generator: model from [images, one-hot looks] to images, such as `star_generator` makes.
        objective: pair of losses, such as `losses.non_saturating`.
        weights: of the look losses (D's of real images, G's of translations), 1 in the paper; of
            the mean absolute error after the way back, 10 there; of `own_look_error`, which the
            paper has not; all >= 0.

    Returns:
        Function ((images, looks), step) -> D's total, G's total, dict: d_loss, g_loss, d_real,
        d_fake, the look losses real_look and fake_look, and the errors cycle and identity.

    Choi et al. 2018, arXiv 1711.09020, equations 1 to 6.
    """
    if min(weights) < 0:
        raise ValueError(f"{weights=} must not be below 0.")
    discriminator_loss, generator_loss = objective
    looks = discriminator.output_shape[1][-1]

    def play(real, step):
        images, source = real
        target = sample_classes(tf.shape(images)[0], looks, seed=seed, step=step)
        fake = generator([images, tf.one_hot(target, looks)], training=True)
        back = generator([fake, tf.one_hot(source, looks)], training=True)
        real_logits, real_looks = discriminator(images, training=True)
        fake_logits, fake_looks = discriminator(fake, training=True)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        real_look, fake_look = look_loss(real_looks, source), look_loss(fake_looks, target)
        cycle = tf.reduce_mean(tf.abs(back - images))
        identity = own_look_error(images, fake, source, target)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        values |= {"real_look": real_look, "fake_look": fake_look}
        values |= {"cycle": cycle, "identity": identity}
        g_total = g_loss + weights[0] * fake_look + weights[1] * cycle + weights[2] * identity
        return d_loss + weights[0] * real_look, g_total, values

    return play


def draw_in_looks(generator, images, looks, *, batch_size=250):
    """Draw images in the looks that are asked for: float32 (count, *image_shape) in [-1, 1].

    images: float in [-1, 1], of the shape that the generator takes; looks: an integer for each of
    them, or one for all, of those that it was made for; otherwise ValueError.
    """
    images = validation.as_images(images, "images")
    (_, *image_shape), (_, known) = generator.input_shape
    if images.shape[1:] != tuple(image_shape):
        raise ValueError(f"images are {images.shape[1:]}; the generator takes {image_shape}.")
    looks = np.full(len(images), looks) if np.ndim(looks) == 0 else looks
    looks = validation.as_labels(looks, len(images), known, "looks")
    asked = np.eye(known, dtype=np.float32)[looks]
    return generator.predict([images, asked], batch_size=batch_size, verbose=0)
