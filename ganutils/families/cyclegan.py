"""How do I translate between two sets of images without pairs? There, and back again.

One generator turns an x into a y, another a y into an x, and each has a discriminator that knows
real images of its goal. An image and its translation belong together because the way back must
lead home.
"""

import tensorflow as tf

from ganutils import data
from ganutils.latents import stream


def unpaired_batches(x, y, batch_size, *, seed, start=0):
    """Serve batches of two sets of images side by side, each set in an order of its own.

    Args:
        x, y: float32 (N, *shape) and (M, *shape) in [-1, 1]. N and M may differ; ValueError where
            one is 0, or where the shapes of an image do.
        batch_size, seed, start: as for `data.batches`.

    Returns:
        A `tf.data.Dataset` of pairs of float32 tensors (batch_size, *shape), without end.
    """
    if len(x) == 0 or len(y) == 0:
        raise ValueError(f"A set is empty: {len(x)} images x, {len(y)} images y.")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"Images x are {x.shape[1:]}, images y {y.shape[1:]}: resize one set, or convert it."
        )
    of_x = data.batches(x, batch_size, seed=2 * seed, start=start)
    of_y = data.batches(y, batch_size, seed=2 * seed + 1, start=start)
    return tf.data.Dataset.zip(of_x, of_y)


def exchange(stored, images, *, seed, step):
    """Exchange half of a batch for stored images, as a pure function.

    Args:
        stored: (capacity, ...), from earlier steps; capacity at least half the batch, rounded down
            (else ValueError). At step 0 the images fill it, over and over.
        images: (batch, ...), generated at this step.
        seed, step: integers; which stored images are taken out depends on them alone.

    Returns:
        (batch, ...), the first half of the images, and stored ones; and the new store, in which the
        second half has their places.

    Shrivastava et al. 2017, arXiv 1612.07828, section 2.3.
    """
    if stored.shape[0] < images.shape[0] // 2:
        raise ValueError(f"A store of {stored.shape[0]} gives no {images.shape[0] // 2} images.")
    half = images.shape[0] // 2
    start = tf.gather(images, tf.range(stored.shape[0]) % images.shape[0])
    stored = tf.where(tf.equal(step, 0), start, stored)
    lots = tf.random.stateless_uniform((stored.shape[0],), seed=stream(seed, step, "swap"))
    slots = tf.math.top_k(lots, half).indices
    fresh, others = images[half:], images[:half]
    shown = tf.concat([fresh, tf.gather(stored, slots)], axis=0)
    return shown, tf.tensor_scatter_nd_update(stored, slots[:, None], others)


class ImageBuffer(tf.Module):
    """Generated images of earlier steps; as a part of `Run(also=...)` it is saved with the run.

    images: float32 variable (capacity, *image_shape). seed: as for `exchange`.
    """

    def __init__(self, capacity, image_shape, *, seed):
        super().__init__()
        self.images = tf.Variable(tf.zeros((capacity, *image_shape)), trainable=False)
        self.seed = seed

    def mix(self, images, *, step):
        """What `exchange` makes of the images; what it stores is kept for the next step."""
        shown, stored = exchange(self.images, images, seed=self.seed, step=step)
        self.images.assign(stored)
        return shown


def pixel_distance(images, others):
    """Mean absolute difference of pixels, 0 to 2."""
    return tf.reduce_mean(tf.abs(images - others))


def apply_both(models, pair):
    """Results of two models, each for its part of a pair of batches, one behind the other."""
    return tf.concat([f(images, training=True) for f, images in zip(models, pair, strict=True)], 0)


def make_cyclegan_play(
    discriminators, generators, *, objective, cycle_weight=10.0, identity_weight=0.0, buffers=None
):
    """Make the game of two translators, as `steps.make_step` takes it; means over both ways.

    Args:
        discriminators: pair of models from images to scores (batch, ...), of images x and y.
        generators: pair of models from images to images, that to x and that to y.
        objective: pair of losses, such as `losses.least_squares`.
        cycle_weight, identity_weight: of the mean absolute differences of pixels, >= 0 (else
            ValueError), beside g_loss.
        buffers: pair of `ImageBuffer`, of images x and y; what they mix goes to the
            discriminators, and not into g_loss. Or None.

    Returns:
        Function ((x, y), step) -> D's total, G's total, dict: d_loss, g_loss; d_real and d_fake,
        the mean scores of real images and of those shown; cycle; identity, 0 where it has no
        weight.

    Zhu et al. 2017, arXiv 1703.10593, equation 3, and section 5.2 for the identity, all halved.
    """
    if not (cycle_weight >= 0 and identity_weight >= 0):
        raise ValueError(f"{cycle_weight=} and {identity_weight=} must not be below 0.")
    discriminator_loss, generator_loss = objective
    to_x, to_y = generators

    def play(real, step):
        (x, y), both = real, tf.concat(real, axis=0)
        shown = fake_x, fake_y = to_x(y, training=True), to_y(x, training=True)
        cycle = pixel_distance(apply_both(generators, (fake_y, fake_x)), both)
        identity = tf.zeros(())
        if identity_weight:
            identity = pixel_distance(apply_both(generators, (x, y)), both)
        if buffers is not None:
            shown = [b.mix(fake, step=step) for b, fake in zip(buffers, shown, strict=True)]
        real_scores, shown_scores = (apply_both(discriminators, pair) for pair in (real, shown))
        d_loss = discriminator_loss(real_scores, shown_scores)
        g_loss = generator_loss(apply_both(discriminators, (fake_x, fake_y)))
        d_real, d_fake = tf.reduce_mean(real_scores), tf.reduce_mean(shown_scores)
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        g_total = g_loss + cycle_weight * cycle + identity_weight * identity
        return d_loss, g_total, values | {"cycle": cycle, "identity": identity}

    return play
