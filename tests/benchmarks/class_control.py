"""Does G draw the digit it is asked for? Three ways to give D the label, over seeds.

    python tests/benchmarks/class_control.py --seeds 0,1,2

Each way trains the plain DCGAN for --steps steps of 64 images on the training set and draws
20,000 digits, 2,000 of each class, from the averaged generator. Measured are

- obedience: label accuracy, the share of them that a classifier of real images reads as asked, also
  by class;
- distances: within each class, the Fréchet distance of 1,000 of them to the real test images;
- student: GAN-train (Shmelkov et al. 2018, arXiv 1807.09499), the accuracy on the real test set of
  a classifier that was trained on them alone.

The row "real" has the same numbers for 20,000 real training images, but for its obedience, which
is the classifier's own accuracy on the test set: it was trained on the training images.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest import mock

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np

from ganutils import classifier, data, losses, networks, runtime
from ganutils.families import conditional
from ganutils.metrics import intra_class_frechet, label_accuracy
from ganutils.training import train

CLASSES, LATENT_DIM, BATCH = 10, 64, 64
SAMPLE_SEED = 1000  # added to a run's seed


class Sizes(NamedTuple):
    """How much is measured. drawn: samples a class for GAN-train; compared: those of a class whose
    distance is measured; split: of the real images that are their reference; judge_steps,
    student_steps: of the two classifiers."""

    drawn: int = 2000
    compared: int = 1000
    split: str = "test"
    judge_steps: int = 2000
    student_steps: int = 600


class Way(NamedTuple):
    """How D learns of the label. build: function of an image's shape; ask: as for the play."""

    title: str
    build: Callable
    ask: Callable = conditional.ask_about_pair


def join(shape):
    network = networks.dcgan_discriminator((*shape[:2], shape[2] + 1))
    return conditional.joined_discriminator(network, CLASSES)


def project(shape):
    return conditional.projection_discriminator(networks.dcgan_discriminator(shape), CLASSES)


def classify(shape):
    return networks.with_heads(networks.dcgan_discriminator(shape), 1, CLASSES)


WAYS = {
    "joined": Way("label as a plane", join),
    "projection": Way("projection", project),
    "auxiliary": Way("auxiliary classifier", classify, conditional.ask_for_class),
}


def train_generator(way, images, labels, *, seed, steps):
    """Train one way from nothing; the averaged generator, in float32."""
    keras.utils.set_random_seed(seed)
    discriminator = way.build(images.shape[1:])
    generator = networks.dcgan_generator(LATENT_DIM + CLASSES, images.shape[1:])
    run = course.averaged_run(discriminator, generator)
    play = conditional.make_conditional_play(
        discriminator,
        generator,
        ask=way.ask,
        objective=losses.non_saturating,
        classes=CLASSES,
        latent_dim=LATENT_DIM,
        seed=seed,
    )
    batches = partial(data.batches, (images, labels), BATCH, seed=seed)
    train(run, course.averaged_step(run, play), batches, steps=steps)
    return run.average


def real_of_each_class(images, labels, count, seed):
    """Real images, `count` of each class, class after class."""
    random = np.random.default_rng(seed)
    rows = [random.choice(np.flatnonzero(labels == c), count, False) for c in range(CLASSES)]
    return images[np.concatenate(rows)]


def train_student(images, labels, *, steps, seed):
    """A classifier of these images, not kept: nobody will ask for it again."""
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, GANUTILS_CACHE=folder):
            order = np.random.default_rng(seed).permutation(len(images))
            return classifier.digit_classifier(images[order], labels[order], steps=steps, seed=seed)


def measure(variant, *, seed, steps, source, sizes=None):
    """One row; see the top of this file."""
    sizes, began = sizes or Sizes(), time.perf_counter()
    images, labels, _ = data.load_images(source)
    test, test_labels, _ = data.load_images(source, split=sizes.split)
    judge = classifier.digit_classifier(images, labels, steps=sizes.judge_steps)
    test_features, test_probabilities = classifier.classify(judge, test)
    asked, pictures = np.repeat(np.arange(CLASSES), sizes.drawn), {}
    if variant == "real":
        drawn = real_of_each_class(images, labels, sizes.drawn, seed)
    else:
        runtime.fast_precision()
        generator = train_generator(WAYS[variant], images, labels, seed=seed, steps=steps)
        draw = partial(conditional.draw_classes, generator, classes=CLASSES, latent_dim=LATENT_DIM)
        drawn = draw(asked, seed=seed + SAMPLE_SEED)
        # Each digit from the same ten latents.
        rows = [draw([digit] * 10, seed=seed + SAMPLE_SEED) for digit in range(CLASSES)]
        pictures["grid"] = record.as_bytes(np.concatenate(rows))
    trained = time.perf_counter()
    features, probabilities = classifier.classify(judge, drawn)
    part = np.arange(len(asked)) % sizes.drawn < sizes.compared  # the first ones of each class
    distances = intra_class_frechet(
        (test_features, test_labels), (features[part], asked[part]), classes=CLASSES
    )
    if variant == "real":
        probabilities, asked_for = test_probabilities, test_labels
    else:
        asked_for = asked
    student = train_student(drawn, asked, steps=sizes.student_steps, seed=seed)
    by_class = [
        label_accuracy(probabilities[asked_for == c], asked_for[asked_for == c])
        for c in range(CLASSES)
    ]
    row = {
        "obedience": label_accuracy(probabilities, asked_for),
        "by_class": by_class,
        "distance": float(distances.mean()),
        "distances": distances.tolist(),
        "student": label_accuracy(classifier.classify(student, test)[1], test_labels),
        "training_seconds": trained - began,
    }
    return row, pictures


if __name__ == "__main__":
    record.over_seeds(measure, [*WAYS, "real"], script=__file__, doc=__doc__, steps=2000)
