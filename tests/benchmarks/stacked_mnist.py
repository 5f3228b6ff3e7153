"""How many of a thousand modes does a DCGAN cover? Three digits as the three channels, over seeds.

    python tests/benchmarks/stacked_mnist.py --seeds 0,1,2

A real example is three random digits, one in each channel: 1,000 equally likely modes, named by the
three digits (Srivastava et al. 2017, arXiv 1705.07761; Metz et al. 2017, arXiv 1611.02163). Each
variant trains a DCGAN of three channels and about half the usual widths for --steps steps of 64.
A classifier of the training digits then reads each channel of 26,000 samples, as many as the papers
draw. Measured are

- modes: how many of the 1,000 are read at least once;
- divergence: of the shares of the modes from equal ones, the reverse Kullback-Leibler divergence;
- sure: the share of samples of which all three channels are read with a probability above 0.9.

The row "real" has the same numbers for test digits, stacked.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np
import systems
import tensorflow as tf

from ganutils import classifier, data, figures, losses, metrics, networks, runtime
from ganutils.families.mode_collapse import Pack
from ganutils.latents import sample_latents
from ganutils.steps import with_ema
from ganutils.training import train

DIGITS, CLASSES, BATCH, LATENT_DIM = 3, 10, 64, 64
MODES = CLASSES**DIGITS
SAMPLES, SHOWN, SURE = 26_000, 16, 0.9
JUDGE_STEPS = 2000
D_WIDTHS, G_WIDTHS = (16, 32), (64, 32, 16)


def stack(images):
    """Each three digits as one example: (3 n, height, width, 1) to (n, height, width, 3)."""
    groups = tf.reshape(images, (-1, DIGITS, *images.shape[1:3]))
    return tf.transpose(groups, (0, 2, 3, 1))


def unstack(examples):
    """The other way round, a NumPy array."""
    channels = np.transpose(examples, (0, 3, 1, 2))
    return channels.reshape(-1, *channels.shape[2:], 1)


def scores(judge, examples):
    """Modes, divergence and share of sure readings of examples (count, height, width, 3)."""
    probabilities = classifier.classify(judge, unstack(examples))[1].reshape(-1, DIGITS, CLASSES)
    names = probabilities.argmax(axis=2) @ CLASSES ** np.arange(DIGITS)[::-1]
    shares = np.bincount(names, minlength=MODES) / len(names)
    return {
        "modes": int(np.count_nonzero(shares)),
        "divergence": float(metrics.class_divergence(np.full(MODES, 1 / MODES), shares)),
        "sure": float((probabilities.max(axis=2) > SURE).all(axis=1).mean()),
    }


narrow_discriminator = partial(networks.dcgan_discriminator, widths=D_WIDTHS)


def packed(size):
    def build(shape):
        example = keras.Input(shape)
        network = narrow_discriminator((*shape[:2], size * shape[2]))
        return keras.Model(example, network(Pack(size)(example)))

    return build


# Discriminator, and terms of its loss.
VARIANTS = {
    "plain": (narrow_discriminator, systems.no_terms),
    "pack2": (packed(2), systems.no_terms),
    "r1": (narrow_discriminator, systems.r1_penalty(1.0, every=4)),
}


def train_generator(variant, images, *, seed, steps):
    """Train one variant from nothing; the averaged generator, in float32."""
    build, terms = VARIANTS[variant]
    shape = (*images.shape[1:3], DIGITS)
    discriminator = build(shape)
    generator = networks.dcgan_generator(LATENT_DIM, shape, widths=G_WIDTHS)
    run = course.averaged_run(discriminator, generator, beta_1=0.5)
    train_step = systems.make_step_with_terms(
        discriminator,
        generator,
        d_optimizer=run.d_optimizer,
        g_optimizer=run.g_optimizer,
        objective=losses.non_saturating,
        latent_dim=LATENT_DIM,
        seed=seed,
        d_terms=terms,
    )

    def batches(start):
        return data.batches(images, DIGITS * BATCH, seed=seed, start=start).map(stack)

    train(run, with_ema(train_step, generator, run.average), batches, steps=steps)
    return run.average


def measure(variant, *, seed, steps, source, samples=SAMPLES, judge_steps=JUDGE_STEPS):
    images, labels, _ = data.load_images(source)
    judge = classifier.digit_classifier(images, labels, steps=judge_steps)
    began = time.perf_counter()
    if variant == "real":
        test_images, _, _ = data.load_images(source, split="test")
        rows = np.random.default_rng(seed).integers(len(test_images), size=DIGITS * samples)
        examples = stack(test_images[rows]).numpy()
    else:
        average = train_generator(variant, images, seed=seed, steps=steps)
        z = sample_latents(samples, LATENT_DIM, seed=seed + 1000, step=0)
        examples = average.predict(z, batch_size=500, verbose=0)
    row = {"seconds": time.perf_counter() - began, "samples": samples, **scores(judge, examples)}
    return row, {"samples": figures.to_uint8(examples[:SHOWN])}


def main(arguments=None):
    runtime.fast_precision()
    about = {"script": __file__, "doc": __doc__, "steps": 2000, "arguments": arguments}
    record.over_seeds(measure, ["real", *VARIANTS], **about)


if __name__ == "__main__":
    main()
