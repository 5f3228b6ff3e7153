"""Codes held to a prior, against their definitions."""

import json

import cluster_error  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import STEP, bce, check_play, variables_of
from helpers import real_batch, step_at

from ganutils import data, latents, losses, networks, steps
from ganutils.families import aae

IMAGE_SHAPE, BATCH, STYLE, CLASSES, SEED = (4, 4, 1), 8, 2, 3, 5


def tiny_network(width=6):
    return networks.mlp_discriminator(IMAGE_SHAPE, widths=(width,))


def latent_discriminator(size):
    return aae.latent_discriminator(size, widths=(7,))


def tiny_parts():
    return [
        (aae.gaussian_prior(STYLE, seed=SEED), latent_discriminator(STYLE)),
        (aae.class_prior(CLASSES, seed=SEED), latent_discriminator(CLASSES)),
    ]


def two_part_players():
    """Encoder of style and classes, decoder, and the two parts."""
    encoder = aae.clustering_encoder(tiny_network(), STYLE, CLASSES)
    decoder = networks.mlp_generator(STYLE + CLASSES, IMAGE_SHAPE, widths=(5,))
    return encoder, decoder, tiny_parts()


def one_part_players():
    encoder = networks.with_heads(tiny_network(), STYLE)
    return encoder, networks.mlp_generator(STYLE, IMAGE_SHAPE, widths=(5,)), tiny_parts()[:1]


def make_play(encoder, decoder, parts, **changes):
    settings = {"objective": losses.non_saturating} | changes
    return aae.make_aae_play(encoder, decoder, parts, **settings)


# Priors and networks.


def test_priors_are_the_latents_of_their_seed():
    z = aae.gaussian_prior(3, seed=4)(10, 7)
    np.testing.assert_array_equal(z, latents.sample_latents(10, 3, seed=4, step=7))
    rows = aae.class_prior(6, seed=4)(500, 7).numpy()
    labels = latents.sample_classes(500, 6, seed=4, step=7)
    np.testing.assert_array_equal(rows, np.eye(6, dtype=np.float32)[labels])
    assert rows.sum(axis=0).min() > 40  # of 83 expected each


def test_a_latent_discriminator_computes_in_float32_under_any_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        discriminator = aae.latent_discriminator(2, widths=(64, 64))
    finally:
        keras.config.set_dtype_policy("float32")
    code = np.array([[1.0, 0.0], [0.9999, 0.0001]], np.float32)  # the same in bfloat16, nearly
    logits = discriminator(code)
    assert logits.dtype == tf.float32 and logits.shape == (2, 1)
    x = code
    values = discriminator.get_weights()
    for number, (kernel, bias) in enumerate(zip(values[::2], values[1::2], strict=True)):
        x = x @ kernel + bias
        x = np.where(x > 0, x, 0.2 * x) if number < 2 else x
    np.testing.assert_allclose(logits, x, atol=1e-6)


def test_an_encoder_gives_styles_and_shares_of_classes():
    encoder = aae.clustering_encoder(tiny_network(), STYLE, CLASSES)
    style, shares = encoder(100 * real_batch(), training=True)
    assert style.shape == (BATCH, STYLE) and shares.shape == (BATCH, CLASSES)
    assert shares.dtype == tf.float32 and float(tf.reduce_min(shares)) >= 0
    np.testing.assert_allclose(tf.reduce_sum(shares, axis=1), 1, rtol=1e-5)
    logits = np.log(shares) - np.log(shares).mean(axis=1, keepdims=True)
    # Logits of mean 0 over the batch, each: so are those from which a row's mean is taken.
    np.testing.assert_allclose(logits.mean(axis=0), 0, atol=1e-4)


@pytest.mark.parametrize("style_size, classes", [(0, 3), (2, 1), (2, 0)])
def test_an_encoder_needs_a_style_and_two_classes(style_size, classes):
    with pytest.raises(ValueError, match="classes|sizes"):
        aae.clustering_encoder(tiny_network(), style_size, classes)


# The game.


@pytest.mark.parametrize("make_players", [one_part_players, two_part_players])
@pytest.mark.parametrize("weight", [0.3, 0])
def test_the_game_is_its_definition(make_players, weight):
    """At weight 0 the coders' total is the reconstruction error alone."""
    encoder, decoder, parts = make_players()
    draws = [prior(BATCH, STEP) for prior, _ in parts]
    discriminators = [discriminator for _, discriminator in parts]

    def define():
        codes = tf.nest.flatten(encoder(real_batch(), training=True))
        decoded = decoder(tf.concat(codes, axis=1))
        error = tf.reduce_mean(keras.losses.mean_squared_error(real_batch(), decoded))
        real_logits = [d(draw) for d, draw in zip(discriminators, draws, strict=True)]
        fake_logits = [d(code) for d, code in zip(discriminators, codes, strict=True)]
        d_loss = sum(bce(1, x) for x in real_logits) + sum(bce(0, x) for x in fake_logits)
        report = {"d_loss": d_loss / len(parts)}
        report["g_loss"] = sum(bce(1, x) for x in fake_logits) / len(parts)
        report["d_real"] = tf.reduce_mean(tf.sigmoid(real_logits))
        report["d_fake"] = tf.reduce_mean(tf.sigmoid(fake_logits))
        report["reconstruction"] = error
        return report["d_loss"], error + weight * report["g_loss"], report

    play = make_play(encoder, decoder, parts, adversarial_weight=weight)
    owned = variables_of(*discriminators), variables_of(encoder, decoder)
    check_play(play, define, real_batch(), *owned)


def test_codes_come_to_follow_the_prior():
    """Codes of one number, pulled towards a normal prior far from them; traced once."""
    encoder = networks.with_heads(tiny_network(), 1)
    decoder = networks.mlp_generator(1, IMAGE_SHAPE, widths=(5,))
    discriminator = aae.latent_discriminator(1, widths=(64, 64))
    near = aae.gaussian_prior(1, seed=SEED)
    parts = [(lambda count, step: 3 + near(count, step), discriminator)]
    train_step = steps.make_step(
        make_play(encoder, decoder, parts, adversarial_weight=1.0),
        variables_of(discriminator),
        variables_of(encoder, decoder),
        d_optimizer=keras.optimizers.Adam(0.02),
        g_optimizer=keras.optimizers.Adam(0.02),
    )
    step = step_at(0)
    assert abs(float(tf.reduce_mean(encoder(real_batch())))) < 0.5
    for now in range(125):
        step.assign(now)
        train_step(real_batch(now), step)
    assert float(tf.reduce_mean(encoder(real_batch()))) == pytest.approx(3, abs=1)
    assert train_step.experimental_get_tracing_count() == 1


def test_a_ring_of_gaussians_can_be_the_prior():
    encoder, decoder, [(_, discriminator)] = one_part_players()

    def ring(count, step):
        return data.ring_of_gaussians(count, seed=1, step=step, modes=10, radius=3.0)

    values = make_play(encoder, decoder, [(ring, discriminator)])(real_batch(), step_at(0))[2]
    assert np.isfinite(float(values["d_loss"]))


def test_parts_must_fit_the_encoder_and_the_weight_be_positive():
    encoder, decoder, parts = two_part_players()
    with pytest.raises(ValueError, match="1 parts for 2 outputs"):
        make_play(encoder, decoder, parts[:1])
    for weight in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="adversarial_weight"):
            make_play(encoder, decoder, parts, adversarial_weight=weight)


# The benchmark.


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["16", "16-twins"])
def test_the_benchmark_measures_both_errors_along_a_run(variant, monkeypatch):
    monkeypatch.setattr(cluster_error, "PARTS", 2)
    policy = keras.config.dtype_policy()
    try:
        row, pictures = cluster_error.measure(variant, seed=3, steps=4, source="digits")
    finally:
        keras.config.set_dtype_policy(policy)
    assert row["clusters"] == 16 and json.loads(json.dumps(row)) == row
    for name in ("error", "majority_error"):
        assert len(row[f"{name}_along"]) == 2 and row[f"{name}_along"][-1] == row[name]
        assert all(0 <= error <= 100 for error in row[f"{name}_along"])
    assert 1 / 16 < row["mean_share"] <= 1 and 1 <= row["digits"] <= 10
    assert pictures["heads"].shape == (16, 14, 14) and pictures["heads"].dtype == np.uint8
    assert pictures["members"].shape == (16 * cluster_error.SHOWN, 14, 14)


def test_the_wish_reads_logits_of_the_clusters():
    """Their softmax are the encoder's shares, and a share of 0 has a finite logarithm."""
    image = keras.Input(IMAGE_SHAPE)
    shares = keras.ops.one_hot(keras.ops.cast(image[:, 0, 0, 0] > 0, "int32"), 2)
    encoder = keras.Model(image, [image, shares])
    images = tf.constant(np.repeat(np.float32([0.5, -0.5]), 16).reshape(2, 4, 4, 1))
    logits = cluster_error.read_cluster(encoder, images)
    assert np.allclose(tf.nn.softmax(logits), [[0, 1], [1, 0]], atol=1e-6)
    assert np.isfinite(logits).all()


def test_members_of_a_cluster_are_drawn_in_its_row():
    image = keras.Input(IMAGE_SHAPE)
    shares = keras.ops.one_hot(keras.ops.cast(image[:, 0, 0, 0] > 0, "int32"), 2)
    encoder = keras.Model(image, [image, shares])
    images = np.repeat(np.float32([0.5, -0.5, 1.0]), 16).reshape(3, 4, 4, 1)
    decoder = networks.mlp_generator(cluster_error.STYLE + 2, IMAGE_SHAPE, widths=(5,))
    members = cluster_error.draw(encoder, decoder, images, 2)["members"]
    levels = members.reshape(2, cluster_error.SHOWN, 16)
    assert (levels[0, 0] == 64).all() and (levels[0, 1:] == 0).all()  # black where none is left
    assert (levels[1, 0] == 191).all() and (levels[1, 1] == 255).all()
