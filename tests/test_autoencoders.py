"""Codes held to a prior, against their definitions; clusters and their errors, counted by hand."""

import json

import cluster_error  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import autoencoders, data, latents, losses, networks

IMAGE_SHAPE, BATCH, STYLE, CLASSES, SEED = (4, 4, 1), 8, 2, 3, 5


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def real_batch(number=0):
    values = np.random.default_rng(number).uniform(-1, 1, (BATCH, *IMAGE_SHAPE))
    return tf.constant(values, tf.float32)


def step_at(number):
    return tf.Variable(number, dtype=tf.int64)


def tiny_network(width=6):
    return networks.mlp_discriminator(IMAGE_SHAPE, widths=(width,))


def tiny_parts():
    return [
        (autoencoders.gaussian_prior(STYLE, seed=SEED), latent_discriminator(STYLE)),
        (autoencoders.class_prior(CLASSES, seed=SEED), latent_discriminator(CLASSES)),
    ]


def latent_discriminator(size):
    return autoencoders.latent_discriminator(size, widths=(7,))


def two_part_players():
    """Encoder of style and classes, decoder, and the two parts."""
    encoder = autoencoders.clustering_encoder(tiny_network(), STYLE, CLASSES)
    decoder = networks.mlp_generator(STYLE + CLASSES, IMAGE_SHAPE, widths=(5,))
    return encoder, decoder, tiny_parts()


def one_part_players():
    encoder = networks.with_heads(tiny_network(), STYLE)
    return encoder, networks.mlp_generator(STYLE, IMAGE_SHAPE, widths=(5,)), tiny_parts()[:1]


def make_step(encoder, decoder, parts, d_rate=0.1, g_rate=0.1, **changes):
    settings = {
        "d_optimizer": keras.optimizers.SGD(d_rate),
        "g_optimizer": keras.optimizers.SGD(g_rate),
        "objective": losses.non_saturating,
    }
    return autoencoders.make_autoencoder_step(encoder, decoder, parts, **settings | changes)


def networks_of(players):
    encoder, decoder, parts = players
    return [encoder, decoder, *(discriminator for _, discriminator in parts)]


def weights(model):
    return [v.numpy() for v in model.trainable_variables]


def change(model, before):
    return max(np.abs(x - y).max() for x, y in zip(weights(model), before, strict=True))


# Priors and networks.


def test_priors_are_the_latents_of_their_seed():
    z = autoencoders.gaussian_prior(3, seed=4)(10, 7)
    np.testing.assert_array_equal(z, latents.sample_latents(10, 3, seed=4, step=7))
    rows = autoencoders.class_prior(6, seed=4)(500, 7).numpy()
    labels = latents.sample_classes(500, 6, seed=4, step=7)
    np.testing.assert_array_equal(rows, np.eye(6, dtype=np.float32)[labels])
    assert rows.sum(axis=0).min() > 40  # of 83 expected each


def test_a_latent_discriminator_computes_in_float32_under_any_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        discriminator = autoencoders.latent_discriminator(2, widths=(64, 64))
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
    encoder = autoencoders.clustering_encoder(tiny_network(), STYLE, CLASSES)
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
        autoencoders.clustering_encoder(tiny_network(), style_size, classes)


# The step.


def cross_entropy(label, logits):
    """Keras' formula, not the course's."""
    labels = tf.fill(tf.shape(logits), float(label))
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


@pytest.mark.parametrize("make_players", [one_part_players, two_part_players])
def test_a_step_moves_every_network_along_its_own_gradient(make_players):
    players = encoder, decoder, parts = make_players()
    real, number, pull, rate = real_batch(), 7, 0.3, 0.5
    with tf.GradientTape(persistent=True) as tape:
        codes = encoder(real, training=True)
        codes = codes if len(parts) > 1 else [codes]
        decoded = decoder(tf.concat(codes, axis=-1))
        error = tf.reduce_mean(keras.losses.mean_squared_error(real, decoded))
        real_logits = [discriminator(prior(BATCH, number)) for prior, discriminator in parts]
        fake_logits = [part[1](code) for part, code in zip(parts, codes, strict=True)]
        d_loss = sum(cross_entropy(1, x) for x in real_logits) / len(parts)
        d_loss += sum(cross_entropy(0, x) for x in fake_logits) / len(parts)
        g_loss = sum(cross_entropy(1, x) for x in fake_logits) / len(parts)
        total = error + pull * g_loss
    aims = [total, total, *[d_loss] * len(parts)]
    expected = [
        [
            w - rate * g
            for w, g in zip(weights(m), tape.gradient(a, m.trainable_variables), strict=True)
        ]
        for m, a in zip(networks_of(players), aims, strict=True)
    ]
    before = [weights(model) for model in networks_of(players)]

    values = make_step(*players, rate, rate, pull=pull)(real, step_at(number))

    for model, right, old in zip(networks_of(players), expected, before, strict=True):
        for new, goal in zip(weights(model), right, strict=True):
            np.testing.assert_allclose(new, goal, atol=1e-5)
        assert change(model, old) > 1e-4
    assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake", "reconstruction"]
    for name, right in (("d_loss", d_loss), ("g_loss", g_loss), ("reconstruction", error)):
        np.testing.assert_allclose(values[name], right, rtol=1e-5)
    for name, logits in (("d_real", real_logits), ("d_fake", fake_logits)):
        shares = 1 / (1 + np.exp(-np.array(logits)))
        np.testing.assert_allclose(values[name], shares.mean(), rtol=1e-5)
    assert abs(float(values["d_real"] - values["d_fake"])) > 1e-4  # so a mix-up would show


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)], ids=["D alone", "coders alone"])
def test_each_optimizer_moves_its_own_networks_only(rates):
    players = two_part_players()
    before = [weights(model) for model in networks_of(players)]
    make_step(*players, *rates)(real_batch(), step_at(0))
    moved = [change(m, old) > 0 for m, old in zip(networks_of(players), before, strict=True)]
    assert moved == ([False, False, True, True] if rates[0] else [True, True, False, False])


def test_without_pull_the_discriminators_only_watch():
    """The coders' new weights are those of plain gradient descent on the error."""
    players = encoder, decoder, _ = one_part_players()
    real = real_batch()
    variables = encoder.trainable_variables + decoder.trainable_variables
    with tf.GradientTape() as tape:
        error = tf.reduce_mean((real - decoder(encoder(real))) ** 2)
    gradients = tape.gradient(error, variables)
    right = [v.numpy() - g.numpy() for v, g in zip(variables, gradients, strict=True)]
    make_step(*players, 1.0, 1.0, pull=0)(real, step_at(0))
    for new, goal in zip(variables, right, strict=True):
        np.testing.assert_allclose(new, goal, atol=1e-6)


def test_a_step_is_traced_once_and_its_draws_follow_the_step():
    train_step = make_step(*two_part_players(), 0.0, 0.0)
    step, seen = step_at(0), []
    for now in (0, 1, 2, 1):
        step.assign(now)
        seen.append(float(train_step(real_batch(), step)["d_real"]))
    assert train_step.experimental_get_tracing_count() == 1
    assert seen[1] == seen[3] and len(set(seen)) == 3


def test_codes_come_to_follow_the_prior():
    """Uniform codes of one number, pulled towards a normal prior far from them."""
    encoder = networks.with_heads(tiny_network(), 1)
    decoder = networks.mlp_generator(1, IMAGE_SHAPE, widths=(5,))
    far = autoencoders.gaussian_prior(1, seed=SEED)
    parts = [(lambda count, step: 3 + far(count, step), autoencoders.latent_discriminator(1))]
    adam = {"d_optimizer": keras.optimizers.Adam(0.01), "g_optimizer": keras.optimizers.Adam(0.01)}
    train_step, step = make_step(encoder, decoder, parts, **adam, pull=1.0), step_at(0)
    assert abs(float(tf.reduce_mean(encoder(real_batch())))) < 0.5
    for now in range(150):
        step.assign(now)
        train_step(real_batch(now), step)
    assert float(tf.reduce_mean(encoder(real_batch()))) == pytest.approx(3, abs=1)


def test_a_ring_of_gaussians_can_be_the_prior():
    encoder, decoder, [(_, discriminator)] = one_part_players()

    def ring(count, step):
        return data.ring_of_gaussians(count, seed=1, step=step, modes=10, radius=3.0)

    values = make_step(encoder, decoder, [(ring, discriminator)])(real_batch(), step_at(0))
    assert np.isfinite(float(values["d_loss"]))


def test_parts_must_fit_the_encoder_and_the_pull_be_positive():
    encoder, decoder, parts = two_part_players()
    with pytest.raises(ValueError, match="1 parts for 2 outputs"):
        make_step(encoder, decoder, parts[:1])
    for pull in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="no weight below 0"):
            make_step(encoder, decoder, parts, pull=pull)


# Clusters.


SHARES = np.array([[0.6, 0.4, 0], [0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.1, 0.8, 0.1]])
LABELS = np.array([4, 7, 4, 2, 2])


def test_clusters_are_named_by_their_surest_image_or_by_most():
    np.testing.assert_array_equal(autoencoders.surest_labels(SHARES, LABELS), [7, 2, 2])
    np.testing.assert_array_equal(autoencoders.majority_labels(SHARES, LABELS), [4, 2, 0])


def test_the_error_counts_images_in_a_cluster_of_another_name():
    error = autoencoders.cluster_error
    assert error(SHARES, LABELS, np.array([7, 2, 2])) == pytest.approx(2 / 5)
    assert error(SHARES, LABELS, np.array([4, 2, 0])) == pytest.approx(1 / 5)
    assert error(SHARES, LABELS, np.array([2, 4, 7])) == 1.0


def test_no_names_do_better_than_the_majority():
    random = np.random.default_rng(0)
    shares, labels = random.dirichlet(np.ones(4), 200), random.integers(0, 3, 200)
    best = min(
        autoencoders.cluster_error(shares, labels, np.array(names))
        for names in np.ndindex(3, 3, 3, 3)
    )
    most = autoencoders.majority_labels(shares, labels)
    assert autoencoders.cluster_error(shares, labels, most) == best


def test_errors_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 names"):
        autoencoders.cluster_error(SHARES, LABELS, np.array([1, 2]))
    with pytest.raises(ValueError, match="4 labels"):
        autoencoders.cluster_error(SHARES, LABELS[:4], np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="0 labels"):
        autoencoders.cluster_error(SHARES[:0], LABELS[:0], np.array([1, 2, 3]))


# The benchmark.


def test_the_benchmark_measures_both_errors_along_a_run(monkeypatch):
    monkeypatch.setattr(cluster_error, "PARTS", 2)
    policy = keras.config.dtype_policy()
    try:
        row, pictures = cluster_error.measure("16", seed=3, steps=4, source="digits")
    finally:
        keras.config.set_dtype_policy(policy)
    assert row["clusters"] == 16 and json.loads(json.dumps(row)) == row
    for name in ("error", "majority_error"):
        assert len(row[f"{name}_along"]) == 2 and row[f"{name}_along"][-1] == row[name]
        assert all(0 <= error <= 100 for error in row[f"{name}_along"])
    assert 1 / 16 < row["mean_share"] <= 1 and 1 <= row["digits"] <= 10
    assert pictures["heads"].shape == (16, 14, 14) and pictures["heads"].dtype == np.uint8
    assert pictures["members"].shape == (16 * cluster_error.SHOWN, 14, 14)


def test_members_of_a_cluster_are_drawn_in_its_row():
    def encoder(images, training):
        assert not training
        return None, tf.one_hot(tf.cast(images[:, 0, 0, 0] > 0, tf.int32), 2)

    images = np.repeat(np.float32([0.5, -0.5, 1.0]), 16).reshape(3, 4, 4, 1)
    decoder = networks.mlp_generator(cluster_error.STYLE + 2, IMAGE_SHAPE, widths=(5,))
    members = cluster_error.draw(encoder, decoder, images, 2)["members"]
    levels = members.reshape(2, cluster_error.SHOWN, 16)
    assert (levels[0, 0] == 64).all() and (levels[0, 1:] == 0).all()  # black where none is left
    assert (levels[1, 0] == 191).all() and (levels[1, 1] == 255).all()
