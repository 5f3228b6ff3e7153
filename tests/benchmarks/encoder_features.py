"""Are a BiGAN's features any good, and does its encoder invert? Over seeds, beside an autoencoder.

    python tests/benchmarks/encoder_features.py

"bigan" normalizes the codes over the batch, and holds D by a penalty on its slope; "free" leaves
the normalization out, "plain" the penalty. All have the same generator, encoder, batches and steps,
the autoencoder, too. Judged are the averaged networks, their statistics of batch normalization
settled: taken anew, by the averaged weights. Features are judged by the nearest neighbor of each
test image among all training images. The BiGAN's generator is also inverted by search, from the
prior and from its encoder's codes.

code_deviation is that of the codes' entries, code_deviation_seen as D saw it at the end, and
code_deviation_averaged before the statistics were settled.
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
from keras import layers

from ganutils import data, networks, runtime
from ganutils.families import bigan
from ganutils.latents import sample_latents
from ganutils.losses import lazily
from ganutils.metrics import neighbor_accuracy
from ganutils.steps import make_step, with_ema
from ganutils.training import Run, train

VARIANTS = ("bigan", "free", "plain", "autoencoder")
LATENT_DIM, BATCH = 50, 64
RATE = 1e-3
WEIGHT, EVERY = 1.0, 4  # of the penalty on D's slope
UNITS = 256
SETTLING = 700  # batches; statistics from before count for less than 0.1 % then
DRAWN, SEARCHED, TRIES, SEARCH_STEPS = 16, 100, 4, 200
READ = 2000  # reconstructions whose digit is read


def build(variant, shape, seed):
    """A discriminator of images, a generator and an encoder; the same but for "free"."""
    keras.utils.set_random_seed(seed)
    judge = networks.mlp_discriminator(shape)
    sizes = {"widths": (256, 512), "after_dense": networks.bn_relu}
    generator = networks.mlp_generator(LATENT_DIM, shape, **sizes)
    sizes = {"widths": (512, 1024), "after_dense": systems.fused_bn_leaky_02}
    reader = networks.mlp_discriminator(shape, **sizes)
    encoder = networks.with_heads(reader, LATENT_DIM)
    if variant != "free":
        normalize = layers.BatchNormalization(center=False, scale=False, dtype="float32")
        encoder = keras.Model(encoder.input, normalize(encoder.output))
    return judge, generator, encoder


def adam():
    return keras.optimizers.Adam(RATE, beta_1=0.0, beta_2=0.99)


def make_run(variant, judge, generator, encoder, *, seed):
    """A run of generator and encoder, and its step."""
    d_optimizer, g_optimizer, coders = adam(), adam(), [generator, encoder]
    if variant == "autoencoder":
        run = Run(None, coders, d_optimizer=None, g_optimizer=g_optimizer)
        return run, bigan.make_autoencoder_step(encoder, generator, optimizer=g_optimizer)
    discriminator = bigan.joint_discriminator(judge, LATENT_DIM, units=UNITS)
    run = Run(discriminator, coders, d_optimizer=d_optimizer, g_optimizer=g_optimizer)

    def penalty(images, codes, step):
        return WEIGHT * bigan.pair_penalty(discriminator, images, codes)

    play = bigan.make_bigan_play(
        discriminator,
        generator,
        encoder,
        objective=bigan.bidirectional,
        latent_dim=LATENT_DIM,
        seed=seed,
        d_terms=[] if variant == "plain" else [lazily(penalty, every=EVERY)],
    )
    optimizers = {"d_optimizer": d_optimizer, "g_optimizer": g_optimizer}
    return run, make_step(play, run.d_variables, run.g_variables, **optimizers)


def train_variant(variant, images, *, seed, steps):
    """Train one variant from nothing; averaged generator, averaged and untrained encoder, seen.

    seen: deviation of the codes of the last 50 batches as D saw them, by their own statistics.
    """
    judge, generator, encoder = build(variant, images.shape[1:], seed)
    means = runtime.in_float32(generator), runtime.in_float32(encoder)
    untrained = runtime.in_float32(encoder)
    run, train_step = make_run(variant, judge, generator, encoder, seed=seed)
    for model, mean in zip((generator, encoder), means, strict=True):
        train_step = with_ema(train_step, model, mean)
    batches = partial(data.batches, images, BATCH, seed=seed)
    train(run, train_step, batches, steps=steps, every=steps, per_call=min(steps, 20))
    count = min(50, len(images) // BATCH)
    some = np.reshape(images[: count * BATCH], (count, BATCH, *images.shape[1:]))
    seen = np.std([encoder(batch, training=True) for batch in some])
    return *means, untrained, float(seen)


def settle(generator, encoder, images, *, seed):
    """Take the statistics of batch normalization anew, by the weights as they are.

    Izmailov et al. 2018, arXiv 1803.05407, section 3.2.
    """
    for i in range(SETTLING):
        start = i * BATCH % (len(images) - BATCH)
        encoder(images[start : start + BATCH], training=True)
        generator(sample_latents(BATCH, LATENT_DIM, seed=seed, step=-3 - i), training=True)


def outputs_of(network, inputs):
    return network.predict(inputs, batch_size=500, verbose=0)


def hidden_layer(encoder):
    """The encoder up to its last hidden layer."""
    *_, last = (layer for layer in encoder.layers if isinstance(layer, layers.Dense))
    return keras.Model(encoder.input, last.input)


def judge_features(network, sets):
    """Accuracy of a network's outputs; sets: training and test images and labels."""
    images, labels, test_images, test_labels = sets
    features = outputs_of(network, images), outputs_of(network, test_images)
    return neighbor_accuracy(features[0], labels, features[1], test_labels)


def flat(images):
    return np.reshape(images, (len(images), -1))


def judge_encoder(generator, encoder, sets):
    """Features of an encoder, and what its reconstructions are worth; a row and its pictures."""
    images, labels, test_images, test_labels = sets
    codes = outputs_of(encoder, test_images)
    copies = outputs_of(generator, codes).reshape(test_images.shape)
    errors = bigan.reconstruction_errors(test_images, copies).numpy()
    read = neighbor_accuracy(flat(images), labels, flat(copies[:READ]), test_labels[:READ])
    row = {
        "hidden": judge_features(hidden_layer(encoder), sets),
        "code": judge_features(encoder, sets),
        "error": float(errors.mean()),
        "same_digit": read,
        "code_deviation": float(codes.std()),
    }
    return row, {"copies": record.as_bytes(copies[:DRAWN])}


def judge_search(generator, images, starts):
    """What a search for codes finds, and how long it takes; a row and its pictures."""
    began = time.perf_counter()
    codes, errors = bigan.invert(generator, images, starts, steps=SEARCH_STEPS)
    row = {
        "path": [round(float(error), 5) for error in errors.min(axis=1).mean(axis=1)],
        "milliseconds": 1000 * (time.perf_counter() - began) / len(images),
        "length": float(np.linalg.norm(codes, axis=1).mean()),
    }
    return row, record.as_bytes(generator(codes[:DRAWN], training=False).numpy())


def measure(variant, *, seed, steps, source, count=course.COUNT, judge=None):
    """One variant and seed: a row and its pictures.

    The judge is the course's, or made of other settings of `classifier.digit_classifier`.
    """
    runtime.fast_precision()
    images, labels, _ = data.load_images(source)
    test_images, test_labels, _ = data.load_images(source, split="test")
    sets, test = (images, labels, test_images, test_labels), test_images[:SEARCHED]
    began = time.perf_counter()
    generator, encoder, untrained, seen = train_variant(variant, images, seed=seed, steps=steps)
    row = {"seconds": time.perf_counter() - began, "code_deviation_seen": seen}
    row["code_deviation_averaged"] = float(outputs_of(encoder, test_images).std())
    settle(generator, encoder, images, seed=seed)
    z = sample_latents(count, LATENT_DIM, seed=seed, step=-1)
    samples = outputs_of(generator, z).reshape(-1, *images.shape[1:])
    pictures = {"samples": record.as_bytes(samples[:DRAWN])}
    judged, drawn = judge_encoder(generator, encoder, sets)
    row, pictures = row | judged, pictures | drawn
    if variant == "autoencoder":
        row["pixels"] = neighbor_accuracy(flat(images), labels, flat(test_images), test_labels)
        return row, pictures
    judge = course.make_judge(source, count=count, **(judge or {}))
    row |= {**judge.scores(samples), "floors": judge.floors()}
    if variant != "bigan":
        return row, pictures
    row["untrained"] = judge_features(hidden_layer(untrained), sets)
    prior = sample_latents(TRIES * len(test), LATENT_DIM, seed=seed, step=-2)
    starts = {
        "prior": tf.reshape(prior, (TRIES, len(test), LATENT_DIM)),
        "code": encoder(test, training=False)[None],
    }
    for name, start in starts.items():
        row[f"search_from_{name}"], pictures[f"from_{name}"] = judge_search(generator, test, start)
    return row, pictures


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=6000)
