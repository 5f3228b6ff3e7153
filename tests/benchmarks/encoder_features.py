"""Are a BiGAN's features any good, and does its encoder invert? Over seeds, beside an autoencoder.

python tests/benchmarks/encoder_features.py

Both have the same generator and encoder, batches and steps. Features are judged by the nearest
neighbor of each test image among all training images. The BiGAN's generator is also inverted by
search, from the prior and from its encoder's codes.
"""

from ganutils import runtime  # first: it imports TensorFlow without its start-up messages

# isort: split
import time
from functools import partial

import keras
import numpy as np
import seeds
import systems
import tensorflow as tf

from ganutils import data, encoders, networks
from ganutils.latents import sample_latents
from ganutils.training import train
from ganutils.updates import with_average

VARIANTS = ("bigan", "autoencoder")
LATENT_DIM, BATCH = 50, 64
D_RATE, RATE = 5e-4, 1e-3  # of D; of G and E. At equal rates D is too far ahead
UNITS = 256
DRAWN, SEARCHED, TRIES, SEARCH_STEPS = 16, 100, 4, 200
READ = 2000  # reconstructions whose digit is read


def build(shape, seed):
    """A discriminator of images, a generator and an encoder; the same for every variant."""
    keras.utils.set_random_seed(seed)
    judge = networks.mlp_discriminator(shape)
    sizes = {"widths": (256, 512), "after_dense": networks.bn_relu}
    generator = networks.mlp_generator(LATENT_DIM, shape, **sizes)
    reader = networks.mlp_discriminator(shape, after_dense=systems.fused_bn_leaky_02)
    return judge, generator, networks.with_heads(reader, LATENT_DIM)


def adam(steps, rate=RATE):
    rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
    return keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.99)


def make_step(variant, judge, generator, encoder, *, seed, steps):
    if variant == "autoencoder":
        return encoders.make_squared_error_step(encoder, generator, optimizer=adam(steps))
    return encoders.make_bigan_step(
        encoders.joint_discriminator(judge, LATENT_DIM, units=UNITS),
        generator,
        encoder,
        optimizers=[adam(steps, D_RATE), adam(steps), adam(steps)],
        objective=encoders.bidirectional,
        latent_dim=LATENT_DIM,
        seed=seed,
    )


def hidden_layer(encoder):
    """The encoder without its last layer."""
    return keras.Model(encoder.input, encoder.layers[-1].input)


def judge_features(network, sets):
    """Accuracy of a network's outputs; sets: training and test images and labels."""
    images, labels, test_images, test_labels = sets
    features = encoders.outputs_of(network, images), encoders.outputs_of(network, test_images)
    return encoders.neighbor_accuracy(features[0], labels, features[1], test_labels)


def flat(images):
    return np.reshape(images, (len(images), -1))


def judge_encoder(generator, encoder, sets):
    """Features of an encoder, and what its reconstructions are worth; a row and its pictures."""
    images, labels, test_images, test_labels = sets
    codes = encoders.outputs_of(encoder, test_images)
    copies = encoders.outputs_of(generator, codes).reshape(test_images.shape)
    errors = encoders.reconstruction_errors(test_images, copies).numpy()
    read = encoders.neighbor_accuracy(flat(images), labels, flat(copies[:READ]), test_labels[:READ])
    row = {
        "hidden": judge_features(hidden_layer(encoder), sets),
        "code": judge_features(encoder, sets),
        "error": float(errors.mean()),
        "same_digit": read,
        "code_deviation": float(codes.std()),
    }
    return row, {"copies": seeds.as_bytes(copies[:DRAWN])}


def judge_search(generator, images, starts):
    """What a search for codes finds, and how long it takes; a row and its pictures."""
    began = time.perf_counter()
    codes, errors = encoders.search_codes(generator, images, starts, steps=SEARCH_STEPS)
    row = {
        "path": [round(float(error), 5) for error in errors.min(axis=1).mean(axis=1)],
        "milliseconds": 1000 * (time.perf_counter() - began) / len(images),
        "length": float(np.linalg.norm(codes, axis=1).mean()),
    }
    return row, seeds.as_bytes(generator(codes[:DRAWN], training=False).numpy())


def train_variant(variant, images, *, seed, steps):
    """Train one variant from nothing; averaged generator, encoder, its untrained copy, history."""
    judge, generator, encoder = build(images.shape[1:], seed)
    means = runtime.in_float32(generator), runtime.in_float32(encoder)
    untrained = runtime.in_float32(encoder)
    train_step = make_step(variant, judge, generator, encoder, seed=seed, steps=steps)
    for model, mean in zip((generator, encoder), means, strict=True):
        train_step = with_average(train_step, model, mean)
    history = train(
        train_step,
        partial(data.batches, images, BATCH, seed=seed),
        steps=steps,
        step=tf.Variable(0, dtype=tf.int64),
        history={},
        every=steps,
        per_call=min(steps, 20),
    )
    return *means, untrained, history


def measure(variant, *, seed, steps, source):
    """One variant and seed: a row and its pictures."""
    runtime.fast_precision()
    images, labels, _ = data.load_images(source)
    test_images, test_labels, _ = data.load_images(source, split="test")
    sets, test = (images, labels, test_images, test_labels), test_images[:SEARCHED]
    began = time.perf_counter()
    generator, encoder, untrained, history = train_variant(variant, images, seed=seed, steps=steps)
    row = {"seconds": time.perf_counter() - began}
    samples = generator(sample_latents(DRAWN, LATENT_DIM, seed=seed, step=-1), training=False)
    pictures = {"samples": seeds.as_bytes(samples.numpy())}
    judged, drawn = judge_encoder(generator, encoder, sets)
    row, pictures = row | judged, pictures | drawn
    if variant == "autoencoder":
        row["pixels"] = encoders.neighbor_accuracy(
            flat(images), labels, flat(test_images), test_labels
        )
        return row, pictures
    row["untrained"] = judge_features(hidden_layer(untrained), sets)
    row["slopes"] = [float(np.mean(part)) for part in np.array_split(history["e_slope"], 4)]
    prior = sample_latents(TRIES * len(test), LATENT_DIM, seed=seed, step=-2)
    starts = {
        "prior": tf.reshape(prior, (TRIES, len(test), LATENT_DIM)),
        "code": encoder(test, training=False)[None],
    }
    for name, start in starts.items():
        row[f"search_from_{name}"], pictures[f"from_{name}"] = judge_search(generator, test, start)
    return row, pictures


if __name__ == "__main__":
    seeds.main(measure, VARIANTS, script=__file__, doc=__doc__, steps=8000)
