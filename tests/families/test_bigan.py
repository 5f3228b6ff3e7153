"""The bidirectional game against its definition, and the search against least squares."""

import math

import encoder_features
import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import STEP, bce, check_play, game_values, variables_of
from helpers import assert_close, eagerly, floats, numbers_of, real_batch, same_bits, step_at
from keras import layers
from sklearn.linear_model import LinearRegression

from ganutils import latents, losses, networks, steps
from ganutils.families import bigan

LATENT_DIM, SHAPE, BATCH = 3, (4, 4, 1), 8


def some_images(count=BATCH, number=0):
    return real_batch(number, (count, *SHAPE))


def some_codes(count=BATCH, number=0):
    values = np.random.default_rng(number).normal(size=(count, LATENT_DIM))
    return tf.constant(values, tf.float32)


def players():
    """D, G and E, a few weights each."""
    network = networks.mlp_discriminator(SHAPE, widths=(6,))
    return (
        bigan.joint_discriminator(network, LATENT_DIM, units=5),
        networks.mlp_generator(LATENT_DIM, SHAPE, widths=(5,)),
        networks.with_heads(networks.mlp_discriminator(SHAPE, widths=(7,)), LATENT_DIM),
    )


# Losses and networks.


def test_the_encoders_loss_is_log_2_where_d_cannot_tell_and_falls_as_d_is_fooled():
    assert float(bigan.encoder_loss(tf.zeros((4, 1)))) == pytest.approx(math.log(2))
    logits = tf.constant([[-3.0], [0.5], [4.0]])
    expected = -np.mean(np.log(1 - 1 / (1 + np.exp(-logits.numpy()))))
    assert float(bigan.encoder_loss(logits)) == pytest.approx(expected, rel=1e-5)
    assert float(bigan.encoder_loss(logits)) == float(losses.generator_loss(-logits))
    assert bigan.encoder_loss(logits - 1) < bigan.encoder_loss(logits)
    assert math.isfinite(bigan.encoder_loss(tf.constant([[1000.0]])))


def test_encoder_and_generator_together_minimize_ds_loss_with_the_labels_exchanged():
    real, fake = some_codes(number=1), some_codes(number=2)
    d_loss, g_loss, e_loss = bigan.bidirectional
    swapped = float(d_loss(fake, real))
    assert float(g_loss(fake) + e_loss(real)) == pytest.approx(swapped, rel=1e-6)


def test_the_joint_discriminator_judges_pairs_and_not_two_things_apart():
    network = networks.mlp_discriminator(SHAPE, widths=(6,))
    model = bigan.joint_discriminator(network, LATENT_DIM, units=5)
    images, codes = some_images(2), some_codes(2)
    pairs = [(images[i], codes[j]) for i in range(2) for j in range(2)]
    logits = model([tf.stack(part) for part in zip(*pairs, strict=True)])
    assert logits.shape == (4, 1) and logits.dtype == tf.float32
    a, b, c, d = logits.numpy().ravel()
    assert len({a, b, c, d}) == 4  # it depends on both
    assert abs(a - b - c + d) > 1e-4  # a sum of two judgements would give 0
    trainable = {id(v) for v in model.trainable_variables}
    assert {id(v) for v in network.trainable_variables[:-2]} <= trainable
    assert not {id(v) for v in network.layers[-1].trainable_variables} & trainable


# The game.


def test_the_penalty_of_pairs_is_half_the_squared_slope_by_image_and_by_code():
    image, code = keras.Input(SHAPE), keras.Input((LATENT_DIM,))
    row = layers.Concatenate()([layers.Flatten()(image), code])
    linear = keras.Model([image, code], layers.Dense(1)(row))
    kernel = linear.layers[-1].kernel.numpy()
    found = bigan.pair_penalty(linear, some_images(), some_codes())
    assert float(found) == pytest.approx(np.sum(kernel**2) / 2, rel=1e-5)


def make_play(discriminator, generator, encoder, **settings):
    return bigan.make_bigan_play(
        discriminator,
        generator,
        encoder,
        objective=bigan.bidirectional,
        latent_dim=LATENT_DIM,
        seed=5,
        **settings,
    )


def test_the_game_is_its_definition_and_g_and_e_play_it_with_the_labels_exchanged():
    discriminator, generator, encoder = models = players()
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=STEP)

    def define():
        real_logits = discriminator([some_images(), encoder(some_images())])
        fake_logits = discriminator([generator(z), z])
        report = game_values(real_logits, fake_logits)
        found = {name: report[name] for name in ("d_loss", "g_loss")}
        found["e_loss"] = bce(0, real_logits)
        swapped = bce(0, real_logits) + bce(1, fake_logits)
        return report["d_loss"], swapped, found | {n: report[n] for n in ("d_real", "d_fake")}

    owned = variables_of(discriminator), variables_of(generator, encoder)
    check_play(make_play(*models), define, some_images(), *owned)


def test_a_term_is_ds_alone_and_sees_the_encoders_codes():
    models, seen = players(), []

    def term(images, codes, step):
        seen.append((images, codes, step))
        return 7 * tf.reduce_sum(codes)

    plain = make_play(*models)(some_images(), STEP)
    with tf.GradientTape() as tape:
        d_total, both_total, values = make_play(*models, d_terms=[term])(some_images(), STEP)
    [(images, codes, step)] = seen
    np.testing.assert_array_equal(images, some_images())
    assert step == STEP
    np.testing.assert_allclose(codes, models[2](some_images()), rtol=1e-5)
    added = 7 * np.sum(codes)
    assert float(d_total) == pytest.approx(float(plain[0]) + added, rel=1e-4)
    assert float(both_total) == float(plain[1])
    assert floats(values) == floats(plain[2])
    # The term's slope by E's weights is cut: what is left is that of D's loss.
    mine = tape.gradient(d_total, models[2].trainable_variables)
    with tf.GradientTape() as tape:
        d_loss = make_play(*models)(some_images(), STEP)[0]
    assert_close(mine, [g.numpy() for g in tape.gradient(d_loss, models[2].trainable_variables)])


def test_keras_warns_where_the_discriminator_does_not_see_the_codes():
    image, code = keras.Input(SHAPE), keras.Input((LATENT_DIM,))
    logit = networks.mlp_discriminator(SHAPE, widths=(6,))(image)
    blind, (_, generator, encoder) = keras.Model([image, code], logit), players()
    train_step = steps.make_step(
        make_play(blind, generator, encoder),
        variables_of(blind),
        variables_of(generator, encoder),
        d_optimizer=keras.optimizers.SGD(0.5),
        g_optimizer=keras.optimizers.SGD(0.5),
    )
    before = numbers_of(encoder)
    with eagerly(), pytest.warns(UserWarning, match="Gradients do not exist"):
        train_step(some_images(), step_at(0))
    assert same_bits(numbers_of(encoder), before)


# Images again.


def test_reconstruction_errors_are_those_of_each_image():
    images = some_images()
    assert not np.any(bigan.reconstruction_errors(images, images))
    white, black = tf.ones((2, *SHAPE)), -tf.ones((2, *SHAPE))
    np.testing.assert_allclose(bigan.reconstruction_errors(white, black), 4)
    others = some_images(number=1)
    expected = ((images.numpy() - others.numpy()) ** 2).reshape(BATCH, -1).mean(axis=1)
    np.testing.assert_allclose(bigan.reconstruction_errors(images, others), expected, rtol=1e-5)


def test_an_autoencoders_step_moves_both_networks_along_their_gradient():
    _, generator, encoder = players()
    real, variables = some_images(), variables_of(encoder, generator)
    with tf.GradientTape() as tape:
        error = tf.reduce_mean((generator(encoder(real)) - real) ** 2)
    slopes = tape.gradient(error, variables)
    expected = [v.numpy() - 0.5 * s.numpy() for v, s in zip(variables, slopes, strict=True)]
    optimizer = keras.optimizers.SGD(0.5)
    with eagerly():
        values = bigan.make_autoencoder_step(encoder, generator, optimizer=optimizer)(real, 0)
    assert float(values["error"]) == pytest.approx(float(error), rel=1e-5)
    assert_close(variables, expected, rtol=1e-4)


def linear_generator():
    z = keras.Input((LATENT_DIM,))
    x = layers.Reshape(SHAPE)(layers.Dense(math.prod(SHAPE))(z))
    return keras.Model(z, x)


def test_the_search_ends_at_the_least_squares_solution():
    generator, images = linear_generator(), some_images(5)
    kernel, bias = generator.layers[1].get_weights()
    fit = LinearRegression(fit_intercept=False)
    fit.fit(kernel.T, images.numpy().reshape(5, -1).T - bias[:, None])
    before = numbers_of(generator)
    starts = tf.stack([some_codes(5, number) for number in range(2)])
    codes, errors = bigan.invert(generator, images, starts, steps=600, rate=0.02)
    np.testing.assert_allclose(codes, fit.coef_, atol=0.02)
    assert errors.shape == (601, 2, 5)
    np.testing.assert_allclose(errors[-1, 0], errors[-1, 1], rtol=1e-3)
    least = fit.predict(kernel.T).T + bias - images.numpy().reshape(5, -1)
    np.testing.assert_allclose(errors[-1, 0], (least**2).mean(axis=1), rtol=1e-3)
    for i in range(2):
        first = bigan.reconstruction_errors(images, generator(starts[i]))
        np.testing.assert_allclose(errors[0, i], first, rtol=1e-5)
    assert same_bits(before, numbers_of(generator))


def test_the_search_keeps_the_best_try_of_each_image():
    generator, starts = players()[1], 3 * tf.stack([some_codes(4, n) for n in range(3)])
    images = tf.stack([generator(starts[i])[j] for i, j in ((1, 0), (0, 1), (2, 2), (1, 3))])
    with eagerly():
        codes, errors = bigan.invert(generator, images, starts, steps=1, rate=1e-4)
    assert errors[-1].argmin(axis=0).tolist() == [1, 0, 2, 1]
    expected = [starts[i, j] for i, j in ((1, 0), (0, 1), (2, 2), (1, 3))]
    np.testing.assert_allclose(codes, tf.stack(expected), atol=1e-3)


def test_each_search_is_by_itself():
    generator, images = players()[1], some_images(4)
    starts = tf.stack([some_codes(4, number) for number in range(2)])
    with eagerly():
        codes, errors = bigan.invert(generator, images, starts, steps=5)
        for j in (0, 3):
            alone, path = bigan.invert(generator, images[j : j + 1], starts[:, j : j + 1], steps=5)
            np.testing.assert_allclose(alone[0], codes[j], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(path[:, :, 0], errors[:, :, j], rtol=1e-3)


@pytest.mark.parametrize("count, steps", [(3, 5), (4, 0)])
def test_a_search_of_bad_input_is_refused(count, steps):
    starts = some_codes(count)[None]
    with pytest.raises(ValueError, match="must be"):
        bigan.invert(players()[1], some_images(4), starts, steps=steps)


# The script.


@pytest.mark.slow
@pytest.mark.parametrize("variant", encoder_features.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    small = {"SEARCHED": 20, "TRIES": 2, "SEARCH_STEPS": 3, "READ": 50, "SETTLING": 5}
    for name, value in small.items():
        monkeypatch.setattr(encoder_features, name, value)
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")  # the policy outlives the test
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    judge = {"features": 64, "steps": 3}
    row, pictures = encoder_features.measure(
        variant, seed=0, steps=4, source="digits", count=100, judge=judge
    )
    names = {"seconds", "hidden", "code", "error", "same_digit", "code_deviation"}
    names |= {"code_deviation_seen", "code_deviation_averaged"}
    names |= {"autoencoder": {"pixels"}}.get(variant, {"frechet", "class_divergence"})
    names |= {"bigan": {"untrained"}}.get(variant, set())
    numbers = {k: v for k, v in row.items() if isinstance(v, float)}
    assert set(numbers) == names
    assert numbers.pop("class_divergence", 1) > 0  # infinite where a class is missing
    assert all(map(math.isfinite, numbers.values()))
    searches = [row[name] for name in row if name.startswith("search")]
    assert len(searches) == {"bigan": 2}.get(variant, 0)
    for search in searches:
        assert len(search["path"]) == 4 and search["milliseconds"] > 0
    assert len(pictures) == 2 + len(searches)
    for picture in pictures.values():
        assert picture.shape == (16, 28, 28) and picture.dtype == np.uint8


def test_settled_statistics_are_those_of_the_weights_as_they_are(monkeypatch):
    monkeypatch.setattr(encoder_features, "SETTLING", 800)
    monkeypatch.setattr(encoder_features, "LATENT_DIM", LATENT_DIM)
    _, generator, encoder = players()
    normalize = layers.BatchNormalization(center=False, scale=False)
    encoder = keras.Model(encoder.input, normalize(50 * encoder.output + 3))
    images = some_images(65)
    encoder_features.settle(generator, encoder, images.numpy(), seed=0)
    codes = encoder(images).numpy()
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(codes.std(axis=0), 1, atol=0.1)
