"""L1 alone, the judge alone, or both? One translator for each task, loss and seed.

    python tests/benchmarks/pix2pix_losses.py --seeds 0,1,2

trains on pairs made of 20,000 of MNIST's training images, and scores what is made of 2,500 test
images. Tasks: "edges" to digit; "broken" to whole digit; "coin": thin or thick, decided by a
coin that nobody shows. Losses: "l1" (weights 0, 1), "gan" (1, 0), "both" (1, 100). Besides, with
both losses: without skips ("plain"), a judge of patches of 7 pixels in place of 15 ("small"), and
noise as Dropout ("dropout"). All have the same steps, batches of 32, Adam of 1e-3.

A row holds the paired L1, the share of answers that a classifier reads as the true digit, the
Fréchet distance to the true answers, and its floor: the true answers to other questions (training
images the judge has not learned from). "spread" is the variance of pixels over eight answers to
one question; "true_spread" the same of the truth. "moving_l1" is the control: the paired L1 of the
same generator with batch normalization's moving averages, which `translate` does not use.
"""

import time
from functools import cache, partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np
from pens import looks

from ganutils import classifier, data, losses, metrics, runtime, steps, training
from ganutils.families import pix2pix
from ganutils.latents import sample_latents

LOSSES = {"l1": (0.0, 1.0), "gan": (1.0, 0.0), "both": (1.0, 100.0)}
VARIANTS = ("edges_l1", "edges_gan", "edges_both", "coin_l1", "coin_gan", "coin_both")
VARIANTS += ("broken_l1", "broken_gan", "broken_both", "edges_plain", "edges_small", "coin_dropout")
TRAINED, COUNT, BATCH_SIZE, DRAWS = 20_000, 2500, 32, 8


@cache
def digits(source, split, first, count):
    """Images and labels, loaded once."""
    images, labels, _ = data.load_images(source, split=split)
    return images[first:][:count], labels[first:][:count]


@cache
def both_answers(**where):
    """The two answers of "coin", computed once."""
    return looks(digits(**where)[0])


def pairs(task, *, seed, **where):
    """What is given, the true answers, and the labels. A coin is thrown by the seed."""
    images, labels = digits(**where)
    if task == "coin":
        heads = np.random.default_rng(seed).random((len(images), 1, 1, 1)) < 0.5
        return images, np.where(heads, *both_answers(**where)), labels
    look = {"edges": "edges", "broken": "fractured"}[task]
    return data.morphed_digits(images, look, seed=seed), images, labels


def set_out(shape, kind, seed):
    """A run of the course's settings for this kind of variant, and its step."""
    widths = (32,) if kind == "small" else (32, 64)
    join = pix2pix.drop_half if kind == "dropout" else None
    discriminator = pix2pix.patch_discriminator(shape, widths=widths)
    generator = pix2pix.translator(shape, skips=kind != "plain", join=join)
    adam = partial(keras.optimizers.Adam, 1e-3, beta_1=0.5)
    optimizers = {"d_optimizer": adam(), "g_optimizer": adam()}
    run = training.Run(discriminator, generator, **optimizers)
    weights = LOSSES.get(kind, LOSSES["both"])
    objective = losses.non_saturating
    play = pix2pix.make_pix2pix_play(
        discriminator, generator, objective=objective, weights=weights, seed=seed
    )
    return run, steps.make_step(play, run.d_variables, run.g_variables, **optimizers)


def measure(variant, *, seed, steps, source="mnist", count=COUNT, judge=None):
    """Train one variant and score it; the row, and 16 answers."""
    task, kind = variant.split("_")
    judge = course.make_judge(source, count=count, **(judge or {}))
    policy = runtime.fast_precision()
    train = {"source": source, "split": "train", "first": 0, "count": TRAINED}
    test = {"source": source, "split": "test", "first": 0, "count": count}
    *real, _ = pairs(task, seed=seed, **train)
    run, train_step = set_out(real[0].shape[1:], kind, seed)
    batches = partial(data.batches, tuple(real), BATCH_SIZE, seed=seed)
    began = time.process_time()
    training.train(run, train_step, batches, steps=steps)
    seconds = time.process_time() - began
    given, truth, labels = pairs(task, seed=seed + 1000, **test)
    draws = [pix2pix.translate(run.generator, given, seed=seed + k) for k in range(DRAWS)]
    z = sample_latents(count, run.generator.input_shape[1][-1], seed=seed, step=0)
    moving = run.generator.predict([given, z], batch_size=500, verbose=0)
    true_draws = [truth, truth]
    if task == "coin":
        true_draws = [pairs(task, seed=seed + k, **test)[1] for k in range(DRAWS)]
    features, probabilities = classifier.classify(judge.model, draws[0])
    wanted = classifier.classify(judge.model, truth)[0]
    _, others, _ = pairs(task, seed=seed + 2000, **train | {"first": -count, "count": count})
    floor = classifier.classify(judge.model, others)[0]
    row = {
        "precision_policy": policy,
        "seconds": seconds,
        "l1": pix2pix.paired_l1(draws[0], truth),
        "moving_l1": pix2pix.paired_l1(moving, truth),
        "given_l1": pix2pix.paired_l1(given, truth),
        "read_right": metrics.label_accuracy(probabilities, labels),
        "given_read_right": metrics.label_accuracy(
            classifier.classify(judge.model, given)[1], labels
        ),
        "frechet": metrics.frechet_distance(wanted, features),
        "floor": metrics.frechet_distance(wanted, floor),
        "spread": pix2pix.answer_variance(np.stack(draws)),
        "true_spread": pix2pix.answer_variance(np.stack(true_draws)),
    }
    shown = {"given": given, "truth": truth, "answer": draws[0]}
    return row, {name: record.as_bytes(x[:16]) for name, x in shown.items()}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=500)
