"""What does each of StarGAN's losses do, and how good could its generator be?

    python tests/benchmarks/star_losses.py --seeds 0,1,2

trains on MNIST, for each seed and variant, one generator for --steps steps:

- "all": the game of notebook 19;
- "no_identity": without the identity loss, which is the paper's game; "no_cycle": without the way
  back; "no_look": without the look losses;
- "pairs": the same generator, shown for each image the true one in the look that is asked for: what
  these layers can do where the truth is known.

Each digit is seen in one look only, but for "pairs", where it is seen in two. The digits are those
that stand fairly upright, in the order of the data set; the first half of them trains, the second
half trains a judge of looks and digits. COUNT test digits, drawn in every other look, are scored by
the judge, by the true image, which is known, and by the rulers; beside each its floor, what true
images get; "unchanged" is the paired error of a generator that changes nothing.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np
import tensorflow as tf

from ganutils import classifier, data, losses, networks, runtime, training
from ganutils.families import stargan
from ganutils.steps import with_ema, with_terms
from ganutils.stroke_attributes import stroke_slant, stroke_width

VARIANTS = ("all", "no_identity", "no_cycle", "no_look", "pairs")
# Of the look losses, the way back, the identity loss.
WEIGHTS = {
    "all": (1.0, 2.0, 2.0),
    "no_identity": (1.0, 2.0, 0.0),
    "no_cycle": (1.0, 0.0, 2.0),
    "no_look": (0.0, 2.0, 2.0),
}
LOOKS = ("plain", "thin", "thick", "left", "right")
BATCH_SIZE, COUNT = 32, 500
SIZES = {"widths": (32, 16), "blocks": 3}
WEIGHT, EVERY = 0.3, 4  # of R1


def in_look(images, look):
    """Images in one of LOOKS."""
    return images if look == "plain" else data.morphed_digits(images, look)


def upright(source, split):
    """Images and labels of the digits that lean by less than 0.2."""
    images, labels, _ = data.load_images(source, split=split)
    kept = np.abs(stroke_slant(images)) < 0.2
    return images[kept], labels[kept]


def dressed(images, looks):
    """Each image in its look, looks being integers (count,)."""
    drawn = np.empty_like(images)
    for number, look in enumerate(LOOKS):
        drawn[looks == number] = in_look(images[looks == number], look)
    return drawn


def in_turn(images):
    """Each image in one look, all looks equally often; and these looks, int32 (count,)."""
    looks = np.arange(len(images), dtype=np.int32) % len(LOOKS)
    return dressed(images, looks), looks


def make_judge(images, labels, **settings):
    """A classifier of looks and digits: class 10 look + digit."""
    worn, looks = in_turn(images)
    return classifier.digit_classifier(worn, 10 * looks + labels, **({"steps": 1500} | settings))


def read(judge, images):
    """Looks and digits that the judge reads, two integer arrays (count,)."""
    _, probabilities = classifier.classify(judge, images)
    shares = probabilities.reshape(-1, len(LOOKS), 10)
    return shares.sum(axis=2).argmax(axis=1), shares.sum(axis=1).argmax(axis=1)


def start_game(variant, image_shape, seed):
    """A run of StarGAN's game, or of one of its variants, and its step."""
    network = networks.dcgan_discriminator(image_shape, **course.TRUNK)
    discriminator = networks.with_heads(network, 1, len(LOOKS))
    generator = stargan.star_generator(image_shape, len(LOOKS), **SIZES)
    play = stargan.make_star_play(
        discriminator,
        generator,
        objective=losses.non_saturating,
        seed=seed,
        weights=WEIGHTS[variant],
    )

    def penalty(real, step):
        images, _ = real

        def logits(x, training):
            return discriminator(x, training=training)[0]

        return WEIGHT * losses.r1_penalty(logits, images)

    play = with_terms(play, d_terms=[losses.lazily(penalty, every=EVERY)])
    run = course.averaged_run(discriminator, generator, beta_1=0.5)
    return run, course.averaged_step(run, play)


def start_pairs(image_shape):
    """A run that learns from pairs by the mean absolute error, and its step."""
    generator = stargan.star_generator(image_shape, len(LOOKS), **SIZES)
    run = course.averaged_run(None, generator, beta_1=0.5)

    @tf.function
    def train_step(real, step):
        given, truth, asked = real
        with tf.GradientTape() as tape:
            drawn = generator([given, tf.one_hot(asked, len(LOOKS))], training=True)
            error = tf.reduce_mean(tf.abs(drawn - truth))
        run.g_optimizer.apply(tape.gradient(error, run.g_variables), run.g_variables)
        return {"error": error}

    return run, with_ema(train_step, generator, run.average)


def score(generator, images, labels, judge):
    """Tables (given look, asked look) of scores of a generator's translations, and pictures."""
    true = np.stack([in_look(images, look) for look in LOOKS])
    names = ("look_error", "digit_error", "paired_error", "width", "slant")
    tables = {name: np.zeros((len(LOOKS), len(LOOKS))) for name in names}
    drawn = np.stack(
        [[stargan.draw_in_looks(generator, x, k) for k in range(len(LOOKS))] for x in true]
    )
    for place in np.ndindex(drawn.shape[:2]):
        shown, (_, asked) = drawn[place], place
        looks, digits = read(judge, shown)
        inked = shown[(shown > -1).any(axis=(1, 2, 3))]
        tables["look_error"][place] = np.mean(looks != asked)
        tables["digit_error"][place] = np.mean(digits != labels)
        tables["paired_error"][place] = np.abs(shown - true[asked]).mean()
        tables["width"][place] = stroke_width(inked).mean()
        tables["slant"][place] = stroke_slant(inked).mean()
    return tables, drawn


def floors(images, labels, judge):
    """What true images get, by look; and the paired error of changing nothing, a table."""
    true = [in_look(images, look) for look in LOOKS]
    answers = [read(judge, shown) for shown in true]
    return {
        "look_error": [float(np.mean(looks != k)) for k, (looks, _) in enumerate(answers)],
        "digit_error": [float(np.mean(digits != labels)) for _, digits in answers],
        "width": [float(stroke_width(shown).mean()) for shown in true],
        "slant": [float(stroke_slant(shown).mean()) for shown in true],
        "unchanged": [[float(np.abs(x - y).mean()) for y in true] for x in true],
    }


def measure(variant, *, seed, steps, source="mnist", count=COUNT, judge=None):
    """Train one variant for so many steps, and score it; the row, and translations of 16 digits.

    judge: settings of the judge in place of the script's.
    """
    images, labels = upright(source, "train")
    test_images, test_labels = (rows[:count] for rows in upright(source, "test"))
    half = len(images) // 2
    eye = make_judge(images[half:], labels[half:], **(judge or {}))
    row, images = {"precision_policy": runtime.fast_precision()}, images[:half]
    worn, looks = in_turn(images)
    arrays = (worn, looks)
    if variant == "pairs":
        others = np.random.default_rng(seed).integers(1, len(LOOKS), half, dtype=np.int32)
        asked = (looks + others) % len(LOOKS)
        arrays = (worn, dressed(images, asked), asked)
        run, train_step = start_pairs(images.shape[1:])
    else:
        run, train_step = start_game(variant, images.shape[1:], seed)
    batches = partial(data.batches, arrays, BATCH_SIZE, seed=seed)
    began = time.process_time()
    training.train(run, train_step, batches, steps=steps)
    row["seconds"] = time.process_time() - began
    tables, drawn = score(run.average, test_images, test_labels, eye)
    others = ~np.eye(len(LOOKS), dtype=bool)
    row |= {name: float(table[others].mean()) for name, table in tables.items()}
    row["tables"] = {name: table.tolist() for name, table in tables.items()}
    row["floors"] = floors(test_images, test_labels, eye)
    row["history"] = {k: float(np.mean(v[-100:])) for k, v in run.history.items()}
    shown = np.swapaxes(drawn[0, :, :16], 0, 1).reshape(-1, *images.shape[1:])
    return row, {"drawn": record.as_bytes(shown), "given": record.as_bytes(test_images[:16])}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=500)
