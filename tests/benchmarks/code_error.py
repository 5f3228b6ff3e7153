"""Does the ten-way code of an InfoGAN find the ten digits? Errors of code against class, by seed.

    python tests/benchmarks/code_error.py --seeds 0,1,2,3,4

trains an InfoGAN for each variant and seed, without any label: with the codes' full weight in the
generator's loss; with a share of it; with consistency of real images and their twins besides; and
with what the category tells about real images, too. Measured are, after the best one-to-one
matching of codes and classes,

- sample_error: of 10,000 samples, the share that the classifier reads as another class than the
  one of their code;
- test_error: of the test images, the share whose code, read by Q, stands for another class;

and of the samples the Fréchet distance, the divergence of the classes, precision, recall, and
within_row: the variance of a pixel among images of one category whose latents differ.

Labels serve the matching and the judgment alone. A row also holds both errors and the bounds along
the way, the table of classes against codes, and how slant and stroke width follow each value.
"""

import time
from functools import partial
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from ganutils import classifier, data, losses, metrics, networks, runtime, steps, stroke_attributes
from ganutils.families import infogan, invariance
from ganutils.latents import sample_latents
from ganutils.metrics import match_codes
from ganutils.training import train

CLASSES, CONTINUOUS, LATENT_DIM, BATCH, SIGMA = 10, 2, 32, 64, 0.3
PARTS = 8  # of a run; errors are measured after each, on FEW images
FEW = 1000
SAMPLES, CHUNK = 10_000, 500


class Variant(NamedTuple):
    """bounds, g_share: weights of the two bounds, and how much of them G raises, as for
    `make_infogan_play`. wish: the weights of `make_invariance_term`, or None."""

    bounds: tuple
    g_share: float
    wish: tuple | None = None


VARIANTS = {
    "plain": Variant((1.0, 0.1), 1.0),
    "share": Variant((1.0, 0.3), 0.3),
    "consistency": Variant((1.0, 0.3), 0.3, (1.0, 0.0)),
    "both": Variant((1.0, 0.3), 0.3, (1.0, 0.5)),
}


def make_run(shape):
    """A run of D with Q's heads and G."""
    trunk = networks.dcgan_discriminator(shape, **course.TRUNK)
    discriminator = networks.with_heads(trunk, 1, CLASSES, CONTINUOUS)
    generator = networks.dcgan_generator(LATENT_DIM + CLASSES + CONTINUOUS, shape)
    return course.averaged_run(discriminator, generator)


def make_play(run, variant, *, seed):
    """InfoGAN's game on the course's DCGAN: hinge, R1 every 4th step, and the variant's terms."""

    def penalty(real, step):
        return losses.r1_penalty(
            lambda x, training: run.discriminator(x, training=training)[0], real
        )

    def read(real):
        return run.discriminator(real, training=True)[1]

    terms = [losses.lazily(penalty, every=4)]
    if variant.wish:
        terms.append(invariance.make_invariance_term(read, seed=seed, weights=variant.wish))
    play = infogan.make_infogan_play(
        run.discriminator,
        run.generator,
        objective=losses.hinge,
        latent_dim=LATENT_DIM,
        sigma=SIGMA,
        seed=seed,
        weights=variant.bounds,
        g_share=variant.g_share,
    )
    return steps.with_terms(play, d_terms=terms)


def draw_samples(average, count, *, seed):
    """Samples, and the categories and values that they were made from."""
    z = sample_latents(count, LATENT_DIM, seed=seed, step=0)
    labels, values = infogan.sample_codes(count, CLASSES, CONTINUOUS, seed=seed, step=0)
    inputs = infogan.join_codes(z, labels, values, CLASSES)
    samples = average.predict(inputs, batch_size=CHUNK, verbose=0)
    return samples, labels.numpy(), values.numpy()


def read_category(discriminator, images):
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


def drawings(average, matched, values):
    """Pictures of each category, in the order of the classes they stand for, by latents or values.

    values: (columns, CONTINUOUS); where all are 0, each column has a latent of its own.
    """
    z = sample_latents(len(values), LATENT_DIM, seed=77, step=0)
    if values.any():
        z = tf.repeat(z[:1], len(values), axis=0)
    labels = np.repeat(np.argsort(matched), len(values))
    inputs = infogan.join_codes(
        tf.tile(z, (CLASSES, 1)), labels, np.tile(values, (CLASSES, 1)), CLASSES
    )
    return record.as_bytes(average(inputs, training=False).numpy())


def within_row(average, count=50):
    """Mean over pixels and categories of the variance among images that differ in latents alone."""
    z = sample_latents(count, LATENT_DIM, seed=78, step=0)
    inputs = infogan.join_codes(
        tf.tile(z, (CLASSES, 1)),
        np.repeat(np.arange(CLASSES), count),
        tf.zeros((CLASSES * count, CONTINUOUS)),
        CLASSES,
    )
    drawn = average.predict(inputs, batch_size=CHUNK, verbose=0)
    return float(drawn.reshape(CLASSES, count, -1).var(axis=1).mean())


def measure(variant, *, seed, steps, source):
    """One row, and its pictures."""
    images, _, _ = data.load_images(source)
    test, test_labels, _ = data.load_images(source, split="test")
    few, few_labels = test[: 2 * FEW], test_labels[: 2 * FEW]
    judge = course.make_judge(source, count=min(SAMPLES, len(test)))
    runtime.fast_precision()
    run, began, along = make_run(images.shape[1:]), time.perf_counter(), []
    play = make_play(run, VARIANTS[variant], seed=seed)

    def note(progress):
        found = read_category(run.discriminator, few)
        point = errors(run.average, judge.model, found, few_labels, FEW, seed=seed)
        along.append({"step": progress.step} | point)
        print(variant, seed, along[-1], flush=True)

    batches = partial(data.batches, images, BATCH, seed=seed)
    pace = {"steps": steps, "every": max(steps // PARTS, 1), "per_call": min(10, steps)}
    train(run, course.averaged_step(run, play), batches, callbacks=[note], **pace)
    seconds = time.perf_counter() - began
    samples, _, values = draw_samples(run.average, min(SAMPLES, 100 * steps), seed=seed + 2000)
    found = read_category(run.discriminator, test)
    matched, _ = match_codes(found, test_labels, CLASSES)
    table = confusion_matrix(test_labels, found, labels=range(CLASSES))
    features, _ = classifier.classify(judge.model, samples)
    precision, recall = metrics.precision_recall(judge.real[0], features)
    row = {
        **errors(run.average, judge.model, found, test_labels, len(samples), seed=seed),
        **judge.scores(samples),
        "floors": judge.floors(),
        "precision": precision,
        "recall": recall,
        "within_row": within_row(run.average),
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
    levels, zeros = np.linspace(-1, 1, 9), np.zeros((10, CONTINUOUS))
    pictures = {"category": drawings(run.average, matched, zeros)}
    for number in range(CONTINUOUS):
        values = np.outer(levels, np.eye(CONTINUOUS)[number])
        pictures[f"value_{number}"] = drawings(run.average, matched, values)
    return row, pictures


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=3000)
