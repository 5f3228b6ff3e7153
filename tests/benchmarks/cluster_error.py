"""How well do the clusters of an adversarial autoencoder match the digits? Over seeds, two sizes.

    python tests/benchmarks/cluster_error.py

An encoder of two heads, a style and a cluster, learns without labels (Makhzani et al. 2016, arXiv
1511.05644, section 6), from images of half the side, which take half the time. With twins, it is to
keep an image's cluster when the image is changed a little, too (`families.invariance`). Afterwards
the last 10,000 training images, of which the labels are used for nothing else, name the clusters:
each after the one image that is surest to be in it, as in the paper, or after the label that most
of its images have. The error is that on the test images.
"""

import time
from functools import partial
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import systems
import tensorflow as tf

from ganutils import data, losses, networks, runtime
from ganutils.families import aae, invariance
from ganutils.latents import join_classes
from ganutils.metrics import cluster_error, majority_labels, surest_labels
from ganutils.steps import make_step, with_terms
from ganutils.training import Run, train


class Variant(NamedTuple):
    """clusters: how many; wish: the weights of `make_invariance_term`, or None."""

    clusters: int
    wish: tuple | None = None


WISH = (0.05, 0.025)
VARIANTS = {
    "16": Variant(16),
    "30": Variant(30),
    "16-twins": Variant(16, WISH),
    "30-twins": Variant(30, WISH),
}
TWINS = {"shift": 1.5, "size": 1.5}  # half of InfoGAN's, for half the side
STYLE, BATCH, WEIGHT = 10, 100, 0.02
D_RATE, G_RATE = 3e-4, 1e-3  # slow judges, so that choices are not made too early
NAMING = 10_000  # training images, at most, that name the clusters
PARTS, SHOWN = 5, 12  # measurements along a run; test images of each cluster drawn


def halved(source, split):
    """Images of half the side, each pixel the mean of four, and their labels."""
    images, labels, _ = data.load_images(source, split=split)
    return tf.nn.avg_pool2d(images, 2, 2, "VALID").numpy(), labels


def build(shape, classes, seed):
    """Encoder, decoder, and the parts of the code with their priors and discriminators."""
    network = networks.dcgan_discriminator(
        shape, widths=(32, 64), kernel_size=3, after_conv=systems.fused_bn_leaky_02
    )
    encoder = aae.clustering_encoder(network, STYLE, classes)
    decoder = networks.dcgan_generator(STYLE + classes, shape, widths=(64, 32), scales=(2, 1))
    style = aae.gaussian_prior(STYLE, seed=seed), aae.latent_discriminator(STYLE)
    cluster = aae.class_prior(classes, seed=seed), aae.latent_discriminator(classes)
    return encoder, decoder, [style, cluster]


def read_cluster(encoder, images):
    """Logits of the clusters, as the wish reads them: logarithms of the shares, of training."""
    return tf.math.log(tf.maximum(encoder(images, training=True)[1], 1e-7))


def shares_of(encoder, images):
    """Shares of clusters, float32 (count, clusters)."""
    return encoder.predict(images, batch_size=500, verbose=0)[1]


def judge(encoder, naming, test):
    """Test errors in percent, by both ways of naming clusters. naming, test: images, labels."""
    known, shares = (shares_of(encoder, images) for images, _ in (naming, test))
    surest = surest_labels(known, naming[1])
    majority = majority_labels(known, naming[1])
    return {
        "error": 100 * cluster_error(shares, test[1], surest),
        "majority_error": 100 * cluster_error(shares, test[1], majority),
        "mean_share": float(shares.max(axis=1).mean()),  # 1 where every choice is sure
        "digits": len(set(surest.tolist())),
    }


def draw(encoder, decoder, images, classes):
    """Head of each cluster (decoded, style 0), and the first test images that fall into it."""
    heads = decoder(join_classes(tf.zeros((classes, STYLE)), tf.range(classes), classes))
    chosen = shares_of(encoder, images).argmax(axis=1)
    members = np.full((classes, SHOWN, *images.shape[1:]), -1, np.float32)
    for cluster in range(classes):
        found = images[chosen == cluster][:SHOWN]
        members[cluster, : len(found)] = found
    members = members.reshape(-1, *images.shape[1:])
    return {"heads": record.as_bytes(heads.numpy()), "members": record.as_bytes(members)}


def measure(variant, *, seed, steps, source):
    """Train one encoder and measure its error along the way."""
    runtime.fast_precision()
    images, labels = halved(source, "train")
    test = halved(source, "test")
    split = len(images) - min(NAMING, len(images) // 5)
    classes, wish = VARIANTS[variant]
    encoder, decoder, parts = build(images.shape[1:], classes, seed)
    adam = partial(keras.optimizers.Adam, beta_1=0.5, beta_2=0.99)
    optimizers = {"d_optimizer": adam(D_RATE), "g_optimizer": adam(G_RATE)}
    run = Run([discriminator for _, discriminator in parts], [encoder, decoder], **optimizers)
    play = aae.make_aae_play(
        encoder, decoder, parts, objective=losses.non_saturating, adversarial_weight=WEIGHT
    )
    if wish:
        read = partial(read_cluster, encoder)
        term = invariance.make_invariance_term(read, seed=seed, weights=wish, **TWINS)
        play = with_terms(play, g_terms=[term])
    train_step = make_step(play, run.d_variables, run.g_variables, **optimizers)
    batches = partial(data.batches, images[:split], BATCH, seed=seed)
    along, began = [], time.perf_counter()
    for part in range(1, PARTS + 1):
        train(run, train_step, batches, steps=steps * part // PARTS)
        along.append(judge(encoder, (images[split:], labels[split:]), test))
    row = {"clusters": classes, "seconds": time.perf_counter() - began, **along[-1]}
    row["reconstruction"] = float(np.mean(run.history["reconstruction"][-50:]))
    row["error_along"] = [values["error"] for values in along]
    row["majority_error_along"] = [values["majority_error"] for values in along]
    return row, draw(encoder, decoder, test[0], classes)


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=3000)
