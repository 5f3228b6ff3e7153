"""Does the ten-way code of an InfoGAN find the ten digits? Errors of code against class, by seed.

    python tests/benchmarks/code_error.py --seeds 0,1,2

trains an InfoGAN for each seed, without any label, and measures, after the best
one-to-one matching of codes and classes,

- sample_error: of 10,000 samples, the share that the classifier reads as another class than the
  one of their code;
- test_error: of the test images, the share whose code, read by Q, stands for another class.

Labels serve the matching and the judgment alone. A row also holds both errors and the bounds along
the way, the table of classes against codes, and how slant and stroke width follow each value.
"""

import time
from functools import partial
from typing import NamedTuple

import seeds  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ganutils import classifier, codes, data, losses, networks, runtime, strokes
from ganutils.latents import sample_latents
from ganutils.training import train
from ganutils.updates import with_average

CLASSES, CONTINUOUS, LATENT_DIM, BATCH, SIGMA = 10, 2, 62, 64, 0.3
RATE, WIDTH = 1e-3, 256  # width of the hidden dense layers
WEIGHTS = (1.0, 0.1)  # of the categorical and of the continuous bound
VARIANTS = ("plain",)
PARTS = 8  # of a run; errors are measured after each, on FEW images
FEW = 1000
SAMPLES, CHUNK = 10_000, 500
SIZES = {"classes": CLASSES, "continuous": CONTINUOUS}


class Players(NamedTuple):
    """The networks of a run: D with Q's heads, G, and the average of G in float32."""

    discriminator: keras.Model
    generator: keras.Model
    average: keras.Model


def make_players(shape):
    trunk = networks.dcgan_discriminator(shape)
    discriminator = codes.info_discriminator(trunk, width=WIDTH, **SIZES)
    generator = networks.dcgan_generator(
        LATENT_DIM + CLASSES + CONTINUOUS, shape, after_dense=partial(codes.start_deep, width=WIDTH)
    )
    return Players(discriminator, generator, runtime.in_float32(generator))


def make_step(players, *, seed):
    """The training step, averaging included."""
    adam = partial(keras.optimizers.Adam, RATE, beta_1=0.5, beta_2=0.99)
    train_step = codes.make_info_step(
        players.discriminator,
        players.generator,
        d_optimizer=adam(),
        g_optimizer=adam(),
        objective=losses.non_saturating,
        weights=WEIGHTS,
        latent_dim=LATENT_DIM,
        sigma=SIGMA,
        seed=seed,
    )
    return with_average(train_step, players.generator, players.average)


def draw_samples(average, count, *, seed):
    """Samples, and the categories and values that they were made from."""
    z = sample_latents(count, LATENT_DIM, seed=seed, step=0)
    labels, values = codes.sample_codes(count, CLASSES, CONTINUOUS, seed=seed, step=0)
    inputs = codes.join_codes(z, labels, values, CLASSES)
    parts = [average(inputs[i : i + CHUNK], training=False) for i in range(0, count, CHUNK)]
    return np.concatenate(parts), labels.numpy(), values.numpy()


def read_codes(discriminator, images):
    """The category that Q reads off each image, integers (count,)."""
    parts = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    return np.concatenate([np.argmax(discriminator(x, training=False)[1], axis=1) for x in parts])


def errors(average, judge, found, labels, count, *, seed):
    """Both errors, in 0..1. found, labels: what Q reads off test images, and what they show."""
    samples, asked, _ = draw_samples(average, count, seed=seed + 1000)
    read = classifier.classify(judge, samples)[1].argmax(axis=1)
    return {
        "sample_error": codes.match_codes(asked, read, CLASSES)[1],
        "test_error": codes.match_codes(found, labels, CLASSES)[1],
    }


def effects(samples, values):
    """Correlation of slant and stroke width with each continuous code, a list for each ruler."""
    rulers = {"slant": strokes.stroke_slant, "width": strokes.stroke_width}
    return {
        name: [float(np.corrcoef(ruler(samples), value)[0, 1]) for value in values.T]
        for name, ruler in rulers.items()
    }


def drawings(average, matched):
    """Each category with ten latents, as pictures, in the order of the classes they stand for."""
    z = sample_latents(CLASSES, LATENT_DIM, seed=77, step=0)
    labels = np.repeat(np.argsort(matched), CLASSES)
    values = tf.zeros((len(labels), CONTINUOUS))
    inputs = codes.join_codes(tf.tile(z, (CLASSES, 1)), labels, values, CLASSES)
    return {"category": seeds.as_bytes(average(inputs, training=False).numpy())}


def measure(variant, *, seed, steps, source):
    """One row, and its pictures, as `seeds.main` asks for."""
    images, labels, _ = data.load_images(source)
    test = data.load_images(source, split="test")[:2]
    few = test[0][: 2 * FEW], test[1][: 2 * FEW]
    judge = classifier.digit_classifier(images, labels)
    runtime.fast_precision()
    players, began = make_players(images.shape[1:]), time.perf_counter()
    train_step, along, history = make_step(players, seed=seed), [], {}

    def note(progress):
        found = read_codes(players.discriminator, few[0])
        point = errors(players.average, judge, found, few[1], FEW, seed=seed)
        along.append({"step": progress.step} | point)
        print(variant, seed, along[-1], flush=True)

    train(
        train_step,
        partial(data.batches, images, BATCH, seed=seed),
        steps=steps,
        step=tf.Variable(0, dtype=tf.int64),
        history=history,
        callbacks=[note],
        every=max(steps // PARTS, 1),
    )
    seconds = time.perf_counter() - began
    samples, _, values = draw_samples(players.average, min(SAMPLES, 100 * steps), seed=seed + 2000)
    found = read_codes(players.discriminator, test[0])
    matched, _ = codes.match_codes(found, test[1], CLASSES)
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (test[1], found), 1)
    row = {
        **errors(players.average, judge, found, test[1], len(samples), seed=seed),
        "seconds": seconds,
        "matched": matched.tolist(),
        "table": table.tolist(),  # classes by codes
        "along": along,
        "bounds": {
            k: [float(x.mean()) for x in np.array_split(history[k], min(steps, 100))]
            for k in ("category", "continuous")
        },
        "effects": effects(samples, values),
    }
    return row, drawings(players.average, matched)


if __name__ == "__main__":
    seeds.main(measure, VARIANTS, script=__file__, doc=__doc__, steps=5000)
