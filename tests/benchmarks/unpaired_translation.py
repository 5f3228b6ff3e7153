"""What does each part of a CycleGAN do, over seeds? With pairs that training never sees as a truth.

    python tests/benchmarks/unpaired_translation.py --seeds 0,1,2

Two tasks. "looks": x is the thin and y the thick version of digits of MNIST, each of digits of its
own; the pairs of test digits are the truth. Its variants leave out one thing each: the identity
loss, the buffer, the cycle. "swapped" has the identity loss with the images exchanged, |G(x) - x|.
"digits": x are scikit-learn's, y MNIST's.

A row says, for the test digits: the cycle error of either way; the error against the true pair;
the share of digits kept, by a classifier of digits that training did not see; the mean stroke
width. On "digits": the accuracy of a classifier of one set on translated digits of the other,
beside the raw ones. "noise": the cycle error, and how far the way back moves, when noise is added
before it, to translations, and to real images for comparison. Networks are the averages.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
import tensorflow as tf
from pens import BATCH_SIZE, CAPACITY, COUNT, TESTS, looks, start, translate

from ganutils import classifier, data, networks, runtime, stroke_attributes
from ganutils.families import cyclegan
from ganutils.training import train

NOISY = 500  # of the test images, those to which noise is added
NOISE = (0.0, 0.02, 0.05, 0.1, 0.2)  # standard deviations, of pixels in [-1, 1]
WHOLE = {"cycle_weight": 10.0, "identity_weight": 5.0, "capacity": CAPACITY, "swapped": 0.0}
VARIANTS = {
    "whole": {},
    "no_identity": {"identity_weight": 0.0},
    "no_buffer": {"capacity": 0},
    "no_cycle": {"cycle_weight": 0.0},
    "swapped": {"identity_weight": 0.0, "swapped": 5.0},
    "digits": {},
}


def make_run(image_shape, *, seed, capacity, swapped, **weights):
    """A run of two discriminators and two translators, with averages, and its step.

    swapped: weight of the identity loss with the images exchanged. weights: of
    `cyclegan.make_cyclegan_play`.
    """
    judges = [networks.dcgan_discriminator(image_shape) for _ in range(2)]
    translators = [networks.residual_translator(image_shape) for _ in range(2)]

    def exchanged(real, step):
        given = (real[1], real[0])  # what the translators of a CycleGAN are there to change
        left = cyclegan.apply_both(translators, given)
        return swapped * cyclegan.pixel_distance(left, tf.concat(given, axis=0))

    terms = [exchanged] if swapped else []
    return start(judges, translators, seed=seed, capacity=capacity, g_terms=terms, **weights)


def error(images, others):
    """Mean absolute difference of pixels, 0 to 2."""
    return float(np.abs(images - others).mean())


def share(judge, images, labels):
    """Share of images that a classifier takes for what they are."""
    return float((classifier.classify(judge, images)[1].argmax(axis=1) == labels).mean())


def mean_width(images):
    """Mean stroke width in pixels; an image without ink gets a trace of it, to have one."""
    return float(stroke_attributes.stroke_width(np.maximum(images, 1e-6 - 1)).mean())


def under_noise(back, translated, real, goal, *, pairs, seed):
    """What noise before the way back does: to its error, and to real images in the same place.

    back: the model of the way back; translated: its inputs in the cycle, made of goal; real: real
    images of the same set; with pairs, the true ones of goal. One row a deviation.
    """
    rows, random = [], np.random.default_rng(seed)
    of_translated, of_real = translate(back, translated), translate(back, real)
    for deviation in NOISE:
        noise = deviation * random.standard_normal(translated.shape, dtype=np.float32)
        noisy = translate(back, translated + noise)
        other = deviation * random.standard_normal(real.shape, dtype=np.float32)
        real_noisy = translate(back, real + other)
        row = {"deviation": deviation, "cycle": error(noisy, goal)}
        if pairs:
            row["from_pair"] = error(real_noisy, goal)
        row |= {"moved": error(noisy, of_translated), "real_moved": error(real_noisy, of_real)}
        rows.append(row)
    return rows


def cycles(to_x, to_y, x, y, *, seed, pairs):
    """Cycle errors of test images, and what noise does to them; x and y are pairs, or not."""
    fake_x, fake_y = translate(to_x, y), translate(to_y, x)
    row = {"cycle_x": error(translate(to_x, fake_y), x)}
    row["cycle_y"] = error(translate(to_y, fake_x), y)
    fakes = fake_y[:NOISY], fake_x[:NOISY]
    reals = y[:NOISY], x[:NOISY]
    row["noise_x"] = under_noise(to_x, fakes[0], reals[0], x[:NOISY], pairs=pairs, seed=seed)
    row["noise_y"] = under_noise(to_y, fakes[1], reals[1], y[:NOISY], pairs=pairs, seed=seed)
    return row, fake_x, fake_y


def measure_looks(run_and_step, *, seed, steps, source, count, judge_steps):
    """Train on thin and thick digits, and hold the translations against the true pairs."""
    images, labels, _ = data.load_images(source)
    test_images, test_labels, _ = data.load_images(source, split="test")
    test_images, test_labels = test_images[:TESTS], test_labels[:TESTS]
    count = min(count, len(images) // 3)
    x, y = looks(images[:count])[0], looks(images[count : 2 * count])[1]
    known = slice(2 * count, 3 * count)
    judge = classifier.digit_classifier(
        np.concatenate(looks(images[known])), np.tile(labels[known], 2), steps=judge_steps
    )
    run, train_step = run_and_step(x.shape[1:])
    started = time.process_time()
    batches = partial(cyclegan.unpaired_batches, x, y, BATCH_SIZE, seed=seed)
    train(run, train_step, batches, steps=steps)
    row = {"seconds": time.process_time() - started}
    to_x, to_y = run.average
    x, y = looks(test_images)
    scores, fake_x, fake_y = cycles(to_x, to_y, x, y, seed=seed, pairs=True)
    row |= scores | {"unchanged": error(x, y)}
    for name, real, fake in (("x", x, fake_x), ("y", y, fake_y)):
        row[f"paired_{name}"] = error(fake, real)
        row[f"kept_{name}"] = share(judge, fake, test_labels)
        row[f"kept_{name}_real"] = share(judge, real, test_labels)
        row[f"width_{name}"] = mean_width(fake)
        row[f"width_{name}_real"] = mean_width(real)
    return row, [x, fake_y, translate(to_x, fake_y), y, fake_x, translate(to_y, fake_x)]


def measure_digits(run_and_step, *, seed, steps, source, count, judge_steps):
    """Train on scikit-learn's digits and MNIST's, and let classifiers of either read the other."""
    sets = [data.load_images(name)[:2] for name in ("digits", source)]
    tests = [data.load_images(name, split="test")[:2] for name in ("digits", source)]
    (x, x_labels), (y, y_labels) = [(images[:TESTS], labels[:TESTS]) for images, labels in tests]
    judge_x, judge_y = (
        classifier.digit_classifier(images, labels, steps=judge_steps) for images, labels in sets
    )
    run, train_step = run_and_step(x.shape[1:])
    started = time.process_time()
    real_x, real_y = (images[: 2 * count] for images, _ in sets)
    batches = partial(cyclegan.unpaired_batches, real_x, real_y, BATCH_SIZE, seed=seed)
    train(run, train_step, batches, steps=steps)
    row = {"seconds": time.process_time() - started}
    to_x, to_y = run.average
    scores, fake_x, fake_y = cycles(to_x, to_y, x, y, seed=seed, pairs=False)
    row |= scores
    row |= {"own_x": share(judge_x, x, x_labels), "own_y": share(judge_y, y, y_labels)}
    row |= {"raw_x": share(judge_y, x, x_labels), "raw_y": share(judge_x, y, y_labels)}
    row["translated_x"] = share(judge_y, fake_y, x_labels)
    row["translated_y"] = share(judge_x, fake_x, y_labels)
    return row, [x, fake_y, translate(to_x, fake_y), y, fake_x, translate(to_y, fake_x)]


def measure(variant, *, seed, steps, source="mnist", count=COUNT, judge_steps=2000):
    """Train one variant, and judge it; the row, and sixteen digits on their ways."""
    policy = runtime.fast_precision()
    settings = WHOLE | VARIANTS[variant]
    on = measure_digits if variant.startswith("digits") else measure_looks
    row, strips = on(
        partial(make_run, seed=seed, **settings),
        seed=seed,
        steps=steps,
        source=source,
        count=count,
        judge_steps=judge_steps,
    )
    pictures = record.as_bytes(np.concatenate([strip[:16] for strip in strips]))
    return {"precision_policy": policy, "settings": settings, **row}, {"strips": pictures}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=400)
