"""The bidirectional game against its definition, and the search against least squares."""

import math

import encoder_features
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.linear_model import LinearRegression

from ganutils import encoders, latents, losses, networks

LATENT_DIM, SHAPE, BATCH = 3, (4, 4, 1), 8


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def some_images(count=BATCH, number=0):
    values = np.random.default_rng(number).uniform(-1, 1, (count, *SHAPE))
    return tf.constant(values, tf.float32)


def some_codes(count=BATCH, number=0):
    values = np.random.default_rng(number).normal(size=(count, LATENT_DIM))
    return tf.constant(values, tf.float32)


def players():
    """D, G and E, a few weights each."""
    network = networks.mlp_discriminator(SHAPE, widths=(6,))
    return (
        encoders.joint_discriminator(network, LATENT_DIM, units=5),
        networks.mlp_generator(LATENT_DIM, SHAPE, widths=(5,)),
        networks.with_heads(networks.mlp_discriminator(SHAPE, widths=(7,)), LATENT_DIM),
    )


def make_step(models, rates=(0.5, 0.5, 0.5), **changes):
    settings = {
        "optimizers": [keras.optimizers.SGD(rate) for rate in rates],
        "objective": encoders.bidirectional,
        "latent_dim": LATENT_DIM,
        "seed": 5,
    }
    return encoders.make_bigan_step(*models, **settings | changes)


def weights(model):
    return [v.numpy() for v in model.weights]


def equal(one, other):
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


def step_at(number):
    return tf.Variable(number, dtype=tf.int64)


# Losses and networks.


def test_the_encoders_loss_is_log_2_where_d_cannot_tell_and_falls_as_d_is_fooled():
    assert float(encoders.encoder_loss(tf.zeros((4, 1)))) == pytest.approx(math.log(2))
    logits = tf.constant([[-3.0], [0.5], [4.0]])
    expected = -np.mean(np.log(1 - 1 / (1 + np.exp(-logits.numpy()))))
    assert float(encoders.encoder_loss(logits)) == pytest.approx(expected, rel=1e-5)
    assert float(encoders.encoder_loss(logits)) == float(losses.generator_loss(-logits))
    assert encoders.encoder_loss(logits - 1) < encoders.encoder_loss(logits)
    assert math.isfinite(encoders.encoder_loss(tf.constant([[1000.0]])))


def test_encoder_and_generator_together_minimize_ds_loss_with_the_labels_exchanged():
    real, fake = some_codes(number=1), some_codes(number=2)
    d_loss, g_loss, e_loss = encoders.bidirectional
    swapped = float(d_loss(fake, real))
    assert float(g_loss(fake) + e_loss(real)) == pytest.approx(swapped, rel=1e-6)


def test_the_joint_discriminator_judges_pairs_and_not_two_things_apart():
    network = networks.mlp_discriminator(SHAPE, widths=(6,))
    model = encoders.joint_discriminator(network, LATENT_DIM, units=5)
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


# The step.


def bce(label, logits):
    """Mean binary cross-entropy of one label: Keras' formula, not the course's."""
    labels = tf.fill(tf.shape(logits), float(label))
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


def test_a_step_moves_all_three_along_their_gradients_at_one_point():
    models, rate, real, number = players(), 0.5, some_images(), 7
    discriminator, generator, encoder = models
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=number)
    with tf.GradientTape(persistent=True) as tape:
        real_logits, fake_logits = discriminator([real, encoder(real)]), None
        fake_logits = discriminator([generator(z), z])
        d_loss = bce(1, real_logits) + bce(0, fake_logits)
        swapped = bce(0, real_logits) + bce(1, fake_logits)
        g_loss, e_loss = bce(1, fake_logits), bce(0, real_logits)
    expected, e_slopes = [], None
    for model, loss in ((discriminator, d_loss), (generator, swapped), (encoder, swapped)):
        slopes = tape.gradient(loss, model.trainable_variables)
        pairs = zip(model.trainable_variables, slopes, strict=True)
        expected.append([v.numpy() - rate * slope.numpy() for v, slope in pairs])
        e_slopes = slopes
    values = make_step(models)(real, step_at(number))
    for model, after in zip(models, expected, strict=True):
        for one, other in zip(model.trainable_variables, after, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    length = math.sqrt(sum(float(tf.reduce_sum(s**2)) for s in e_slopes))
    expected = {
        "d_loss": float(d_loss),
        "g_loss": float(g_loss),
        "e_loss": float(e_loss),
        "d_real": float(tf.reduce_mean(tf.sigmoid(real_logits))),
        "d_fake": float(tf.reduce_mean(tf.sigmoid(fake_logits))),
        "e_slope": length,
    }
    assert {k: float(v) for k, v in values.items()} == pytest.approx(expected, rel=1e-4)
    assert values["e_slope"] > 1e-4


@pytest.mark.parametrize("moving", range(3))
def test_each_optimizer_moves_its_own_network_and_no_other(moving):
    models = players()
    before = [weights(model) for model in models]
    make_step(models, [0.5 * (i == moving) for i in range(3)])(some_images(), step_at(0))
    changed = [not equal(b, weights(m)) for b, m in zip(before, models, strict=True)]
    assert changed == [i == moving for i in range(3)]


def test_every_weight_of_the_encoder_moves():
    models = players()
    before = weights(models[2])
    optimizers = [keras.optimizers.Adam(1e-3) for _ in models]
    train_step = make_step(models, optimizers=optimizers)
    for number in range(3):
        values = train_step(some_images(number=number), step_at(number))
        assert values["e_slope"] > 0
    for one, other in zip(before, weights(models[2]), strict=True):
        assert np.abs(one - other).max() > 1e-4


def test_the_wrong_sign_moves_the_encoder_the_other_way():
    def move(objective):
        keras.utils.set_random_seed(1)
        models = players()
        before = weights(models[2])
        # One example: for it the two losses' slopes differ by a factor below 0.
        make_step(models, objective=objective)(some_images(1), step_at(0))
        pairs = zip(weights(models[2]), before, strict=True)
        return np.concatenate([(after - b).ravel() for after, b in pairs])

    right = move(encoders.bidirectional)
    wrong = move((*losses.non_saturating, losses.generator_loss))
    cosine = right @ wrong / np.linalg.norm(right) / np.linalg.norm(wrong)
    assert cosine == pytest.approx(-1, abs=1e-3)


def test_a_discriminator_without_codes_is_refused():
    image, code = keras.Input(SHAPE), keras.Input((LATENT_DIM,))
    logit = networks.mlp_discriminator(SHAPE, widths=(6,))(image)
    blind = keras.Model([image, code], logit)
    with pytest.raises(ValueError, match="No gradient reaches the encoder"):
        make_step((blind, *players()[1:]))(some_images(), step_at(0))


def test_a_step_is_traced_once_and_is_a_function_of_seed_and_step():
    results = []
    models = players()
    start = [model.get_weights() for model in models]
    for train_step in (make_step(models), make_step(models, seed=6)):
        for number in (0, 0, 1):
            for model, values in zip(models, start, strict=True):
                model.set_weights(values)  # plain gradient descent has no other state
            train_step(some_images(), step_at(number))
            results.append(weights(models[1]))
        assert train_step.experimental_get_tracing_count() == 1
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2]) and not equal(results[0], results[3])


# Images again.


def test_reconstruction_errors_are_those_of_each_image():
    images = some_images()
    assert not np.any(encoders.reconstruction_errors(images, images))
    white, black = tf.ones((2, *SHAPE)), -tf.ones((2, *SHAPE))
    np.testing.assert_allclose(encoders.reconstruction_errors(white, black), 4)
    others = some_images(number=1)
    expected = ((images.numpy() - others.numpy()) ** 2).reshape(BATCH, -1).mean(axis=1)
    np.testing.assert_allclose(encoders.reconstruction_errors(images, others), expected, rtol=1e-5)


def test_a_squared_error_step_moves_both_networks_along_their_gradient():
    _, generator, encoder = players()
    real, variables = some_images(), encoder.trainable_variables + generator.trainable_variables
    with tf.GradientTape() as tape:
        error = tf.reduce_mean((generator(encoder(real)) - real) ** 2)
    slopes = tape.gradient(error, variables)
    expected = [v.numpy() - 0.5 * s.numpy() for v, s in zip(variables, slopes, strict=True)]
    train_step = encoders.make_squared_error_step(
        encoder, generator, optimizer=keras.optimizers.SGD(0.5)
    )
    assert float(train_step(real, step_at(0))["error"]) == pytest.approx(float(error), rel=1e-5)
    for one, other in zip(variables, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert train_step(real, step_at(1))["error"] < error
    assert train_step.experimental_get_tracing_count() == 1


def linear_generator():
    z = keras.Input((LATENT_DIM,))
    x = layers.Reshape(SHAPE)(layers.Dense(math.prod(SHAPE))(z))
    return keras.Model(z, x)


def test_the_search_ends_at_the_least_squares_solution():
    generator, images = linear_generator(), some_images(5)
    kernel, bias = generator.layers[1].get_weights()
    fit = LinearRegression(fit_intercept=False)
    fit.fit(kernel.T, images.numpy().reshape(5, -1).T - bias[:, None])
    before = weights(generator)
    starts = tf.stack([some_codes(5, number) for number in range(2)])
    codes, errors = encoders.search_codes(generator, images, starts, steps=600, rate=0.02)
    np.testing.assert_allclose(codes, fit.coef_, atol=0.02)
    assert errors.shape == (601, 2, 5)
    np.testing.assert_allclose(errors[-1, 0], errors[-1, 1], rtol=1e-3)
    least = fit.predict(kernel.T).T + bias - images.numpy().reshape(5, -1)
    np.testing.assert_allclose(errors[-1, 0], (least**2).mean(axis=1), rtol=1e-3)
    for i in range(2):
        first = encoders.reconstruction_errors(images, generator(starts[i]))
        np.testing.assert_allclose(errors[0, i], first, rtol=1e-5)
    assert equal(before, weights(generator))


def test_the_search_keeps_the_best_try_of_each_image():
    generator, starts = players()[1], 3 * tf.stack([some_codes(4, n) for n in range(3)])
    images = tf.stack([generator(starts[i])[j] for i, j in ((1, 0), (0, 1), (2, 2), (1, 3))])
    codes, errors = encoders.search_codes(generator, images, starts, steps=1, rate=1e-4)
    assert errors[-1].argmin(axis=0).tolist() == [1, 0, 2, 1]
    expected = [starts[i, j] for i, j in ((1, 0), (0, 1), (2, 2), (1, 3))]
    np.testing.assert_allclose(codes, tf.stack(expected), atol=1e-3)


def test_each_search_is_by_itself():
    generator, images = players()[1], some_images(4)
    starts = tf.stack([some_codes(4, number) for number in range(2)])
    codes, errors = encoders.search_codes(generator, images, starts, steps=5)
    for j in range(4):
        alone, path = encoders.search_codes(
            generator, images[j : j + 1], starts[:, j : j + 1], steps=5
        )
        np.testing.assert_allclose(alone[0], codes[j], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(path[:, :, 0], errors[:, :, j], rtol=1e-3)


@pytest.mark.parametrize("count, steps", [(3, 5), (4, 0)])
def test_a_search_of_bad_input_is_refused(count, steps):
    starts = some_codes(count)[None]
    with pytest.raises(ValueError, match="must be"):
        encoders.search_codes(players()[1], some_images(4), starts, steps=steps)


# Features.


def test_outputs_in_parts_are_those_of_the_whole():
    _, generator, encoder = players()
    images = some_images(7).numpy()
    np.testing.assert_allclose(
        encoders.outputs_of(encoder, images, batch_size=3), encoder(images), rtol=1e-5, atol=1e-6
    )
    drawn = encoders.outputs_of(generator, some_codes(7).numpy(), batch_size=7)
    assert drawn.shape == (7, 16) and drawn.dtype == np.float32


def test_neighbor_accuracy_against_every_distance():
    random = np.random.default_rng(0)
    features, tests = random.normal(size=(50, 4)), random.normal(size=(30, 4))
    labels, test_labels = random.integers(0, 3, 50), random.integers(0, 3, 30)
    nearest = [min(range(50), key=lambda i: np.linalg.norm(features[i] - test)) for test in tests]
    expected = np.mean(labels[nearest] == test_labels)
    found = encoders.neighbor_accuracy(features, labels, tests, test_labels)
    assert found == pytest.approx(expected) and 0 < found < 1
    assert encoders.neighbor_accuracy(features, labels, features, labels) == 1


# The script.


@pytest.mark.parametrize("variant", encoder_features.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch):
    for name, value in {"SEARCHED": 20, "TRIES": 2, "SEARCH_STEPS": 3, "READ": 50}.items():
        monkeypatch.setattr(encoder_features, name, value)
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")  # the policy outlives the test
    row, pictures = encoder_features.measure(variant, seed=0, steps=4, source="digits")
    names = {"seconds", "hidden", "code", "error", "same_digit", "code_deviation"}
    names |= {"bigan": {"untrained"}, "autoencoder": {"pixels"}}[variant]
    numbers = {k: v for k, v in row.items() if isinstance(v, float)}
    assert set(numbers) == names and all(map(math.isfinite, numbers.values()))
    searches = [row[name] for name in row if name.startswith("search")]
    assert len(searches) == {"bigan": 2, "autoencoder": 0}[variant]
    for search in searches:
        assert len(search["path"]) == 4 and search["milliseconds"] > 0
    assert len(pictures) == 2 + len(searches)
    for picture in pictures.values():
        assert picture.shape == (16, 28, 28) and picture.dtype == np.uint8
