"""What does each part of BigGAN bring on digits? Each is taken out once.

    python tests/benchmarks/biggan_parts.py --seeds 0,1,2

trains on MNIST, for each seed and variant, --steps steps of 64 images:

- "full": the game of notebook 21;
- "no_class_norm": plain batch normalization, the class beside the latents; "no_attention";
  "no_orthogonal": without orthogonal regularization; "concatenation": D gets the class as one
  more plane, without projection; "non_saturating": that loss in place of the hinge;
- "bright": the classes' embedding starts BRIGHT times as long;
- "plain": notebook 9's, a DCGAN with projection and hinge loss and none of the other parts;
- "real": no training; real training images in place of samples.

Draws are those of the averaged generator with standing statistics ("scores": Fréchet distance,
precision, recall, obedience, and the mean Fréchet distance within a class), of the weights of the
last step with theirs ("own"), and of the averaged generator with the moving averages that training
left ("moving"). "student" is the accuracy on the test set of a classifier that was trained on the
samples alone (Ravuri and Vinyals 2019, arXiv 1905.10887). "truncated", of "full" and
"no_orthogonal", has the scores of truncated draws by threshold, with the standing statistics of
whole draws ("whole") and with those of draws truncated alike ("alike").
"""

import os
import tempfile
import time
from functools import partial
from typing import NamedTuple
from unittest import mock

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import classifier, data, losses, metrics, networks, runtime
from ganutils.families import biggan, conditional, latent_directions
from ganutils.latents import join_classes, sample_latents
from ganutils.steps import with_terms
from ganutils.training import train

VARIANTS = ("full", "no_class_norm", "no_attention", "no_orthogonal", "concatenation")
VARIANTS += ("non_saturating", "bright", "plain", "real")
TRUNCATED = ("full", "no_orthogonal")
CLASSES, LATENT_DIM, BATCH, SIDE = 10, 32, 64, 14
BETA, GAMMA, EVERY = 1e-4, 1.0, 4  # of orthogonal regularization; of R1, and how often
THRESHOLDS, BRIGHT = (0.5, 1.0, 2.0), 6.0
SAMPLE_SEED = 1000  # added to a run's seed


class Sizes(NamedTuple):
    """How much is measured. drawn: samples for the scores and for the student; judge_steps,
    student_steps: of the two classifiers; split: of the images that samples are compared with."""

    drawn: int = 2000
    judge_steps: int = 2000
    student_steps: int = 200
    split: str = "test"


class Reference(NamedTuple):
    """A judge, and what it makes of real images: features, labels."""

    judge: keras.Model
    features: np.ndarray
    labels: np.ndarray


def build(variant, shape):
    """Discriminator of pairs, and generator."""
    attend = partial(biggan.attend_at, -1 if variant in ("no_attention", "plain") else SIDE)
    if variant in ("no_class_norm", "plain"):
        after = attend(networks.bn_relu)
        generator = networks.dcgan_generator(LATENT_DIM + CLASSES, shape, after_conv=after)
    else:
        generator = biggan.biggan_generator(LATENT_DIM, shape, CLASSES, attend=attend())
        if variant == "bright":
            embedding = generator.get_layer("embedding").kernel
            embedding.assign(BRIGHT * embedding)
    if variant == "concatenation":
        seen = (*shape[:2], shape[2] + 1)
        network = networks.dcgan_discriminator(seen, **course.TRUNK)
        return conditional.joined_discriminator(network, CLASSES), generator
    network = networks.dcgan_discriminator(shape, **course.TRUNK)
    return conditional.projection_discriminator(network, CLASSES), generator


def orthogonality(generator):
    """Sum of `orthogonal_penalty` over the kernels of a generator, bar the classes' embedding."""
    kernels = [w for w in generator.trainable_variables if len(w.shape) > 1]
    kernels = [w for w in kernels if "embedding" not in w.path]
    return tf.add_n([biggan.orthogonal_penalty(kernel) for kernel in kernels])


def start(variant, shape, seed):
    """A run of a variant, and its step."""
    discriminator, generator = build(variant, shape)
    run = course.averaged_run(discriminator, generator)
    play = conditional.make_conditional_play(
        discriminator,
        generator,
        ask=conditional.ask_about_pair,
        objective=losses.non_saturating if variant == "non_saturating" else losses.hinge,
        classes=CLASSES,
        latent_dim=LATENT_DIM,
        seed=seed,
    )

    def penalty(real, step):
        images, asked = real

        def logits(x, training):
            return discriminator([x, asked], training=training)

        return GAMMA * losses.r1_penalty(logits, images)

    def orthogonal(real, step):
        return BETA * orthogonality(generator)

    apart = [] if variant in ("no_orthogonal", "plain") else [orthogonal]
    play = with_terms(play, d_terms=[losses.lazily(penalty, every=EVERY)], g_terms=apart)
    return run, course.averaged_step(run, play)


def asked_for(count):
    return np.arange(count) % CLASSES


def inputs_of(count, *, seed, threshold=None, step=0):
    """Latents, truncated or not, with classes in turn behind them."""
    where = {"seed": seed, "step": step}
    if threshold is None:
        z = sample_latents(count, LATENT_DIM, **where)
    else:
        z = latent_directions.truncated_latents(count, LATENT_DIM, threshold=threshold, **where)
    return join_classes(z, asked_for(count), CLASSES)


def standing(generator, *, seed, threshold=None):
    """Statistics of 4 batches of 500 draws."""
    steps = range(1, 5)
    batches = [inputs_of(500, seed=seed, threshold=threshold, step=step) for step in steps]
    return biggan.with_standing_statistics(generator, batches)


def score(images, reference):
    """Scores of images whose classes were asked for in turn."""
    features, probabilities = classifier.classify(reference.judge, images)
    asked, real = asked_for(len(images)), (reference.features, reference.labels)
    precision, recall = metrics.precision_recall(reference.features[: len(images)], features)
    distances = metrics.intra_class_frechet(real, (features, asked), classes=CLASSES)
    return {
        "frechet": metrics.frechet_distance(reference.features, features),
        "precision": precision,
        "recall": recall,
        "obedience": metrics.label_accuracy(probabilities, asked),
        "within": float(distances.mean()),
        "distances": distances.tolist(),
    }


def accuracy_of_student(images, labels, test, *, steps, seed):
    """Accuracy on the test set of a classifier of these images, which is not kept."""
    test_images, test_labels = test
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, GANUTILS_CACHE=folder):
            student = classifier.digit_classifier(images, labels, steps=steps, seed=seed)
    return metrics.label_accuracy(classifier.classify(student, test_images)[1], test_labels)


def truncation(generator, whole, reference, *, seed, count):
    """Scores by threshold, with the statistics of whole draws and of draws truncated alike."""
    rows = []
    for threshold in THRESHOLDS:
        cut = {"seed": seed, "threshold": threshold}
        inputs, row = inputs_of(count, **cut), {"threshold": threshold}
        for name, model in {"whole": whole, "alike": standing(generator, **cut)}.items():
            row[name] = score(model.predict(inputs, batch_size=500, verbose=0), reference)
        rows.append(row)
    return rows


def contrast(generator):
    """Root mean square of what attention adds, as a share of what it is added to; 0 without it."""
    sums = [x for x in generator.layers if isinstance(x, layers.Add) and len(x.output.shape) == 4]
    for layer in sums:
        before, added = keras.Model(generator.input, layer.input)(inputs_of(500, seed=0))
        return float(tf.norm(added) / tf.norm(before))
    return 0.0


def of_each_class(images, labels, count, seed):
    """Real images, classes in turn."""
    random = np.random.default_rng(seed)
    each = count // CLASSES
    rows = [random.choice(np.flatnonzero(labels == c), each, False) for c in range(CLASSES)]
    return images[np.stack(rows, axis=1).reshape(-1)]


def measure(variant, *, seed, steps, source, sizes=None):
    """One row; see the top of this file."""
    sizes = sizes or Sizes()
    images, labels, _ = data.load_images(source)
    test = data.load_images(source, split=sizes.split)[:2]
    judge = classifier.digit_classifier(images, labels, steps=sizes.judge_steps)
    reference = Reference(judge, classifier.classify(judge, test[0])[0], test[1])
    row, pictures = {"precision_policy": runtime.fast_precision()}, {}
    if variant == "real":
        drawn = of_each_class(images, labels, sizes.drawn, seed)
    else:
        run, train_step = start(variant, images.shape[1:], seed)
        row["penalty_at_start"] = float(orthogonality(run.generator))
        began = time.process_time()
        batches = partial(data.batches, (images, labels), BATCH, seed=seed)
        train(run, train_step, batches, steps=steps)
        row["seconds"] = time.process_time() - began
        place = {"seed": seed + SAMPLE_SEED}
        inputs, whole = inputs_of(sizes.drawn, **place), standing(run.average, **place)
        drawn = whole.predict(inputs, batch_size=500, verbose=0)
        for name, model in {"own": standing(run.generator, **place), "moving": run.average}.items():
            row[name] = score(model.predict(inputs, batch_size=500, verbose=0), reference)
        if variant in TRUNCATED:
            count = {"count": sizes.drawn}
            row["truncated"] = truncation(run.average, whole, reference, **place, **count)
        row["attention"] = contrast(whole)
        row["penalty"] = float(orthogonality(run.generator))
        row["history"] = {k: float(np.mean(v[-50:])) for k, v in run.history.items()}
        pictures = {"drawn": record.as_bytes(drawn[:100])}
    row["scores"] = score(drawn, reference)
    row["student"] = accuracy_of_student(
        drawn, asked_for(len(drawn)), test, steps=sizes.student_steps, seed=seed
    )
    return row | {key: row["scores"][key] for key in ("frechet", "within", "obedience")}, pictures


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=300)
