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

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from ganutils import classifier, data, losses, networks, runtime, stroke_attributes
from ganutils.families import infogan
from ganutils.latents import sample_latents
from ganutils.metrics import match_codes
from ganutils.training import train

CLASSES, CONTINUOUS, LATENT_DIM, BATCH, SIGMA = 10, 2, 62, 64, 0.3
WIDTH = 256  # of the hidden dense layers
WEIGHTS = (1.0, 0.1)  # of the categorical and of the continuous bound
PARTS = 8  # of a run; errors are measured after each, on FEW images
FEW = 1000
SAMPLES, CHUNK = 10_000, 500


def make_run(shape):
    """A run of D with Q's heads and G."""
    trunk = networks.dcgan_discriminator(shape)
    sizes = {"width": WIDTH, "classes": CLASSES, "continuous": CONTINUOUS}
    discriminator = infogan.infogan_discriminator(trunk, **sizes)
    generator = networks.dcgan_generator(
        LATENT_DIM + CLASSES + CONTINUOUS,
        shape,
        after_dense=partial(infogan.start_deep, width=WIDTH),
    )
    return course.averaged_run(discriminator, generator)


def draw_samples(average, count, *, seed):
    """Samples, and the categories and values that they were made from."""
    z = sample_latents(count, LATENT_DIM, seed=seed, step=0)
    labels, values = infogan.sample_codes(count, CLASSES, CONTINUOUS, seed=seed, step=0)
    inputs = infogan.join_codes(z, labels, values, CLASSES)
    samples = average.predict(inputs, batch_size=CHUNK, verbose=0)
    return samples, labels.numpy(), values.numpy()


def read_codes(discriminator, images):
    """The category that Q reads off each image, integers (count,)."""
    return discriminator.predict(images, batch_size=CHUNK, verbose=0)[1].argmax(axis=1)


def errors(average, judge, found, labels, count, *, seed):
    """Both errors, in 0..1. found, labels: what Q reads off test images, and what they show."""
    samples, asked, _ = draw_samples(average, count, seed=seed + 1000)
    read = classifier.classify(judge, samples)[1].argmax(axis=1)
    return {
        "sample_error": match_codes(asked, read, CLASSES)[1],
        "test_error": match_codes(found, labels, CLASSES)[1],
    }


def effects(samples, values):
    """Correlation of slant and stroke width with each continuous code, a list for each ruler."""
    rulers = {"slant": stroke_attributes.stroke_slant, "width": stroke_attributes.stroke_width}
    return {
        name: [float(np.corrcoef(ruler(samples), value)[0, 1]) for value in values.T]
        for name, ruler in rulers.items()
    }


def drawings(average, matched):
    """Each category with ten latents, as pictures, in the order of the classes they stand for."""
    z = sample_latents(CLASSES, LATENT_DIM, seed=77, step=0)
    labels = np.repeat(np.argsort(matched), CLASSES)
    values = tf.zeros((len(labels), CONTINUOUS))
    inputs = infogan.join_codes(tf.tile(z, (CLASSES, 1)), labels, values, CLASSES)
    return {"category": record.as_bytes(average(inputs, training=False).numpy())}


def measure(variant, *, seed, steps, source):
    """One row, and its pictures."""
    images, labels, _ = data.load_images(source)
    test, test_labels, _ = data.load_images(source, split="test")
    few, few_labels = test[: 2 * FEW], test_labels[: 2 * FEW]
    judge = classifier.digit_classifier(images, labels)
    runtime.fast_precision()
    run, began, along = make_run(images.shape[1:]), time.perf_counter(), []
    play = infogan.make_infogan_play(
        run.discriminator,
        run.generator,
        objective=losses.non_saturating,
        latent_dim=LATENT_DIM,
        sigma=SIGMA,
        seed=seed,
        weights=WEIGHTS,
    )

    def note(progress):
        found = read_codes(run.discriminator, few)
        point = errors(run.average, judge, found, few_labels, FEW, seed=seed)
        along.append({"step": progress.step} | point)
        print(variant, seed, along[-1], flush=True)

    batches = partial(data.batches, images, BATCH, seed=seed)
    pace = {"steps": steps, "every": max(steps // PARTS, 1)}
    train(run, course.averaged_step(run, play), batches, callbacks=[note], **pace)
    seconds = time.perf_counter() - began
    samples, _, values = draw_samples(run.average, min(SAMPLES, 100 * steps), seed=seed + 2000)
    found = read_codes(run.discriminator, test)
    matched, _ = match_codes(found, test_labels, CLASSES)
    table = confusion_matrix(test_labels, found, labels=range(CLASSES))
    row = {
        **errors(run.average, judge, found, test_labels, len(samples), seed=seed),
        "seconds": seconds,
        "matched": matched.tolist(),
        "table": table.tolist(),  # classes by codes
        "along": along,
        "bounds": {
            k: [float(x.mean()) for x in np.array_split(run.history[k], min(steps, 100))]
            for k in ("category", "continuous")
        },
        "effects": effects(samples, values),
    }
    return row, drawings(run.average, matched)


if __name__ == "__main__":
    record.over_seeds(measure, ["plain"], script=__file__, doc=__doc__, steps=5000)
