"""Does G draw the digit it is asked for? Ways to give D the label, over seeds.

    python tests/benchmarks/class_control.py --seeds 0,1,2

Each way trains the course's DCGAN for --steps steps of 64 images on the training set and draws
20,000 digits, 2,000 of each class, from the averaged generator. Measured are

- obedience: label accuracy, the share of them that a classifier of real images reads as asked, also
  by class;
- distances: within each class, the Fréchet distance of 1,000 of them to the real test images;
- class_divergence: of the shares of the classes read, from those of the test set;
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
from keras import layers, ops

from ganutils import classifier, data, losses, metrics, networks, runtime, steps
from ganutils.families import conditional
from ganutils.training import train

CLASSES, LATENT_DIM, BATCH = 10, 32, 64
FAINT = 0.029  # deviation of the planes that Keras starts with; those of the package have 1
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
    network = networks.dcgan_discriminator((*shape[:2], shape[2] + 1), **course.TRUNK)
    return conditional.joined_discriminator(network, CLASSES)


def join_faintly(shape):
    """The same, its planes much fainter than an image at the start."""
    discriminator = join(shape)
    (planes,) = [x for x in discriminator.layers if isinstance(x, layers.Embedding)]
    planes.embeddings.assign(FAINT * planes.embeddings)
    return discriminator


def join_everywhere(shape):
    """Ten constant planes, one-hot, beside the image and the first map, and ten numbers at last.

    The layers of `networks.dcgan_discriminator`.
    """
    image, label = keras.Input(shape), keras.Input((), dtype="int32")
    asked = layers.CategoryEncoding(CLASSES, output_mode="one_hot")(ops.expand_dims(label, 1))
    init, x = {"kernel_initializer": networks.normal_init}, image
    for filters in (32, 64):
        plane = ops.ones_like(x[..., :1]) * ops.reshape(asked, (-1, 1, 1, CLASSES))
        x = layers.Concatenate()([x, plane])
        conv = layers.Conv2D(filters, 5, strides=2, padding="same", **init)
        x = ops.leaky_relu(conv(x))
    x = layers.Concatenate()([layers.Flatten()(x), asked])
    x = ops.leaky_relu(layers.Dense(256, **init)(x))
    return keras.Model([image, label], layers.Dense(1, dtype="float32", **init)(x))


def project(shape):
    network = networks.dcgan_discriminator(shape, **course.TRUNK)
    return conditional.projection_discriminator(network, CLASSES)


def classify(shape):
    return networks.with_heads(networks.dcgan_discriminator(shape, **course.TRUNK), 1, CLASSES)


WAYS = {
    "faint": Way("a faint plane", join_faintly),
    "joined": Way("label as a plane", join),
    "everywhere": Way("one-hot planes", join_everywhere),
    "projection": Way("projection", project),
    "auxiliary": Way("auxiliary classifier", classify, conditional.ask_for_class),
}


def train_generator(way, images, labels, *, seed, count):
    """Train one way from nothing; the averaged generator, in float32."""
    keras.utils.set_random_seed(seed)
    discriminator = way.build(images.shape[1:])
    generator = networks.dcgan_generator(LATENT_DIM + CLASSES, images.shape[1:])
    run = course.averaged_run(discriminator, generator)
    play = conditional.make_conditional_play(
        discriminator,
        generator,
        ask=way.ask,
        objective=losses.hinge,
        classes=CLASSES,
        latent_dim=LATENT_DIM,
        seed=seed,
    )

    def penalty(real, step):
        pictures, asked = real
        return losses.r1_penalty(lambda x, training: way.ask(discriminator, x, asked)[0], pictures)

    play = steps.with_terms(play, d_terms=[losses.lazily(penalty, every=4)])
    batches = partial(data.batches, (images, labels), BATCH, seed=seed)
    train(run, course.averaged_step(run, play), batches, steps=count)
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
        generator = train_generator(WAYS[variant], images, labels, seed=seed, count=steps)
        draw = partial(conditional.draw_classes, generator, classes=CLASSES, latent_dim=LATENT_DIM)
        drawn = draw(asked, seed=seed + SAMPLE_SEED)
        # Each digit from the same ten latents.
        rows = [draw([digit] * 10, seed=seed + SAMPLE_SEED) for digit in range(CLASSES)]
        pictures["grid"] = record.as_bytes(np.concatenate(rows))
    trained = time.perf_counter()
    features, read = classifier.classify(judge, drawn)
    part = np.arange(len(asked)) % sizes.drawn < sizes.compared  # the first ones of each class
    distances = metrics.intra_class_frechet(
        (test_features, test_labels), (features[part], asked[part]), classes=CLASSES
    )
    probabilities, asked_for = read, asked
    if variant == "real":
        probabilities, asked_for = test_probabilities, test_labels
    student = train_student(drawn, asked, steps=sizes.student_steps, seed=seed)
    by_class = [
        metrics.label_accuracy(probabilities[asked_for == c], asked_for[asked_for == c])
        for c in range(CLASSES)
    ]
    row = {
        "obedience": metrics.label_accuracy(probabilities, asked_for),
        "by_class": by_class,
        "distance": float(distances.mean()),
        "distances": distances.tolist(),
        "class_divergence": metrics.class_divergence(
            *(metrics.class_shares(given) for given in (test_probabilities, read))
        ),
        "student": metrics.label_accuracy(classifier.classify(student, test)[1], test_labels),
        "training_seconds": trained - began,
    }
    return row, pictures


if __name__ == "__main__":
    record.over_seeds(measure, [*WAYS, "real"], script=__file__, doc=__doc__, steps=1500)
