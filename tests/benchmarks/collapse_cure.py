"""What ends the collapse of notebook 2's first generator: leaky ReLU or batch normalization?

    python tests/benchmarks/collapse_cure.py --seeds 0,1,2

trains its generator with each activation, with and without batch normalization, each against a
discriminator of its own. Networks, optimizers, batches and step are those of the notebook. Measured
along the way, on 64 latents that stay the same, is the distance: of two samples, Euclidean, the
mean over all pairs. The row "real" has that of 64 held-out real images, drawn by the seed.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from scipy.spatial.distance import pdist

from ganutils import data, losses
from ganutils.latents import sample_latents
from ganutils.networks import mlp_discriminator, mlp_generator
from ganutils.training import Run, train

LATENT_DIM, BATCH_SIZE, SAMPLES = 64, 100, 64
PARTS = 20  # of a run; the distance is measured after each


def normed(activation):
    """The activation, then batch normalization, as in the notebook's second generator."""
    return lambda x: layers.BatchNormalization(momentum=0.8)(activation(x))


AFTER_DENSE = {
    "relu": keras.activations.relu,
    "leaky": ops.leaky_relu,
    "relu_norm": normed(keras.activations.relu),
    "leaky_norm": normed(ops.leaky_relu),
}


def adam():
    return keras.optimizers.Adam(2e-4, beta_1=0.5)


# These two are the notebook's own; a test compares them.


def improve_discriminator(discriminator, generator, optimizer, real, z):
    fake = generator(z, training=True)
    with tf.GradientTape() as tape:
        real_logits = discriminator(real, training=True)
        fake_logits = discriminator(fake, training=True)
        d_loss = losses.discriminator_loss(real_logits, fake_logits)
    d_vars = discriminator.trainable_variables
    optimizer.apply(tape.gradient(d_loss, d_vars), d_vars)
    return d_loss, real_logits, fake_logits


def improve_generator(discriminator, generator, optimizer, z):
    with tf.GradientTape() as tape:
        fake_logits = discriminator(generator(z, training=True), training=True)
        g_loss = losses.generator_loss(fake_logits)
    g_vars = generator.trainable_variables
    optimizer.apply(tape.gradient(g_loss, g_vars), g_vars)
    return g_loss


def mean_distance(images):
    return float(pdist(images.reshape(len(images), -1)).mean())


def measure(variant, *, seed, steps, source):
    """One row, and its 64 pictures."""
    if variant == "real":
        images, _, _ = data.load_images(source, split="test")
        chosen = np.random.default_rng(seed).choice(len(images), SAMPLES, replace=False)
        row = {"distance": mean_distance(images[chosen])}
        return row, {"samples": record.as_bytes(images[chosen])}
    images, _, _ = data.load_images(source)
    discriminator = mlp_discriminator(images.shape[1:])
    generator = mlp_generator(LATENT_DIM, images.shape[1:], after_dense=AFTER_DENSE[variant])
    run = Run(discriminator, generator, d_optimizer=adam(), g_optimizer=adam())
    z = sample_latents(SAMPLES, LATENT_DIM, seed=seed + 2, step=0)
    began = time.perf_counter()

    def train_step(real, step):
        noise = sample_latents(BATCH_SIZE, LATENT_DIM, seed=seed, step=step)
        d_loss, _, _ = improve_discriminator(discriminator, generator, run.d_optimizer, real, noise)
        g_loss = improve_generator(discriminator, generator, run.g_optimizer, noise)
        return {"d_loss": d_loss, "g_loss": g_loss}

    def draw():
        return generator(z, training=False).numpy()

    def note(progress):
        along.append([progress.step, mean_distance(draw())])

    along = [[0, mean_distance(draw())]]
    batches = partial(data.batches, images, BATCH_SIZE, seed=seed)
    pace = {"steps": steps, "every": max(steps // PARTS, 1), "per_call": min(20, steps)}
    train(run, tf.function(train_step), batches, callbacks=[note], **pace)
    row = {"distance": along[-1][1], "along": along, "seconds": time.perf_counter() - began}
    return row, {"samples": record.as_bytes(draw())}


if __name__ == "__main__":
    variants = [*AFTER_DENSE, "real"]
    record.over_seeds(measure, variants, script=__file__, doc=__doc__, steps=2000)
