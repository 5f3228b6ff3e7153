"""What stays when an image is changed a little? What it shows: a wish that sorts images unlabeled.

A reader of images, such as InfoGAN's Q or an encoder, gives logits of categories. On real images it
is to answer alike about an image and its changed twins, and to say much about which image it is.
"""

import keras
import tensorflow as tf

from ganutils.latents import stream


def move(images, *, shift, warp, seed, step):
    """Shift each image a little, turn, slant and stretch it, at random by (seed, step) alone.

    Pixel p, counted from the middle, is taken from p + W p + s.

    Args:
        images: float (batch, height, width, channels) in [-1, 1]; what comes in from outside is -1.
        shift: pixels, the most that either number of s is.
        warp: the most that each number of the matrix W is, ((width, slant), (tilt, height)): a
            slant of 0.5 moves each row by half a pixel against the next one.
    """
    limits = [*warp[0], shift, *warp[1], shift]
    shape, key = (tf.shape(images)[0], len(limits)), stream(seed, step, "move")
    draws = limits * tf.random.stateless_uniform(shape, key, minval=-1.0, maxval=1.0)
    xx, xy, right, yx, yy, down = tf.unstack(draws, axis=1)
    y, x = ((side - 1) / 2 for side in images.shape[1:3])  # the middle
    of_x = [1 + xx, xy, right - xx * x - xy * y]
    of_y = [yx, 1 + yy, down - yx * x - yy * y]
    places = tf.stack([*of_x, *of_y, tf.zeros_like(xx), tf.zeros_like(xx)], axis=1)
    return keras.ops.image.affine_transform(
        images, places, fill_value=-1.0, data_format="channels_last"
    )


def consistency_loss(logits, twin_logits):
    """-E[sum_k p_k log q_k]: the shares q of a twin are to be the image's p, held constant.

    Of logits (batch, classes). log(classes) where both are undecided, 0 where both are sure of one.

    Hu et al. 2017, arXiv 1702.08720, equation 4; for a GAN's discriminator, with squares of
    logits: Zhang et al. 2020, arXiv 1910.12027.
    """
    shares = tf.stop_gradient(tf.nn.softmax(logits))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(shares, twin_logits))


def confuse(read, images, logits, *, size, seed, step):
    """Change each image so that it is read as differently as possible, by a given length.

    The direction is the slope of `consistency_loss` at a first, random change of length 1.

    Args:
        read: function images -> logits of categories (batch, classes).
        images, logits: float (batch, height, width, channels) and read(images).
        size: Euclidean length of the change, over all pixels of an image.

    Returns images as given; no gradient passes.

    Miyato et al. 2018, arXiv 1704.03976, section 3.3: virtual adversarial training.
    """
    noise = tf.random.stateless_normal(tf.shape(images), stream(seed, step, "conf"))
    first = tf.nn.l2_normalize(noise, axis=[1, 2, 3])
    with tf.GradientTape() as tape:
        tape.watch(first)
        cost = consistency_loss(logits, read(images + first))
    slope = tape.gradient(cost, first)
    return images + size * tf.stop_gradient(tf.nn.l2_normalize(slope, axis=[1, 2, 3]))


def category_information(logits):
    """H(E[p]) - E[H(p)] in nats: what the shares p, softmax of logits, tell about the image.

    Of logits (batch, classes). 0 where all rows are alike, log(classes) where each is sure and all
    categories are equally frequent.

    Bridle et al. 1991, "Unsupervised classifiers, mutual information and phantom targets".
    """
    shares, mean = tf.nn.softmax(logits), tf.reduce_mean(tf.nn.softmax(logits), axis=0)
    of_each = -tf.reduce_sum(shares * tf.nn.log_softmax(logits), axis=1)
    return -tf.reduce_sum(tf.math.xlogy(mean, mean)) - tf.reduce_mean(of_each)


def make_invariance_term(
    read, *, seed, weights=(1.0, 0.5), shift=3.0, warp=((0.25, 0.6), (0.2, 0.25)), size=3.0
):
    """Make a term for `with_terms`: real images are read as their twins are, and tell much.

    Args:
        read: function images -> logits of categories (batch, classes), in training mode.
        weights: of `consistency_loss`, of two twins, and of `category_information`, >= 0.
        shift, warp: as for `move`, which makes the first twin.
        size: as for `confuse`, which makes the second.

    Returns:
        Function (real, step) -> scalar, to be minimized.

    Hu et al. 2017, arXiv 1702.08720, sections 3 and 4.
    """
    if min(weights) < 0:
        raise ValueError(f"{weights=} must not be below 0.")

    def term(real, step):
        logits = read(real)
        moved = move(real, shift=shift, warp=warp, seed=seed, step=step)
        confused = confuse(read, real, logits, size=size, seed=seed, step=step)
        consistency = sum(consistency_loss(logits, read(twin)) for twin in (moved, confused))
        return weights[0] * consistency - weights[1] * category_information(logits)

    return term
