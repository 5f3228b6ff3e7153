"""Codes: their distribution, what is known of them, a step against its definition, the matching."""

import itertools
import math

import code_error
import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import codes, data, latents, losses, networks

CLASSES, CONTINUOUS, LATENT_DIM, SHAPE, BATCH = 4, 2, 3, (8, 8, 1), 8
SIZES = {"classes": CLASSES, "continuous": CONTINUOUS}


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)
    yield
    keras.config.set_dtype_policy("float32")  # the benchmark changes it


# The codes.


def test_codes_are_a_function_of_seed_and_step_and_uniform():
    labels, values = codes.sample_codes(20_000, 10, 2, seed=5, step=7)
    tf.random.normal((3,))
    again = codes.sample_codes(20_000, 10, 2, seed=5, step=tf.constant(7))
    np.testing.assert_array_equal(labels, again[0])
    np.testing.assert_array_equal(values, again[1])
    shares = np.bincount(labels, minlength=10) / 20_000
    np.testing.assert_allclose(shares, 0.1, atol=5 * (0.09 / 20_000) ** 0.5)
    # Five standard errors of mean and second moment; uniform on [-1, 1] has E u^4 = 1/5.
    values = values.numpy().astype(np.float64)
    assert values.shape == (20_000, 2) and abs(values).max() <= 1 and abs(values).max() > 0.999
    assert (abs(values.mean(axis=0)) < 5 * (1 / 3 / 20_000) ** 0.5).all()
    assert (abs((values**2).mean(axis=0) - 1 / 3) < 5 * ((1 / 5 - 1 / 9) / 20_000) ** 0.5).all()


def test_neither_codes_nor_latents_of_one_step_tell_anything_of_the_others():
    labels, values = codes.sample_codes(20_000, 10, 2, seed=5, step=7)
    z = latents.sample_latents(20_000, 2, seed=5, step=7)
    other = codes.sample_codes(20_000, 10, 2, seed=5, step=8)
    table = [labels, *tf.transpose(values), *tf.transpose(z), other[0], *tf.transpose(other[1])]
    correlations = np.corrcoef(np.array(table, np.float64)) - np.eye(len(table))
    assert abs(correlations).max() < 5 / 20_000**0.5


def test_latents_one_hot_category_and_values_stand_side_by_side():
    z, values = tf.constant([[5.0, 6.0], [7.0, 8.0]]), tf.constant([[0.5], [-0.25]])
    expected = [[5, 6, 0, 0, 1, 0.5], [7, 8, 1, 0, 0, -0.25]]
    np.testing.assert_array_equal(codes.join_codes(z, [2, 0], values, 3), expected)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_category_out_of_range_is_refused(label):
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2"):
        codes.join_codes(tf.zeros((1, 2)), [label], tf.zeros((1, 2)), 3)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) must be \(count, continuous\)"):
        codes.join_codes(tf.zeros((2, 2)), [0, 1], tf.zeros(2), 3)


# The bounds.


def test_a_category_is_worth_nothing_to_a_guess_and_log_k_to_one_who_knows():
    labels = tf.constant([0, 3, 1, 2])
    assert float(codes.categorical_bound(tf.zeros((4, 4)), labels)) == pytest.approx(0, abs=1e-6)
    sure = 100 * tf.one_hot(labels, 4)
    assert float(codes.categorical_bound(sure, labels)) == pytest.approx(math.log(4))
    assert float(codes.categorical_bound(-sure, labels)) < -50


def test_the_categorical_bound_is_the_information_where_q_is_the_posterior_and_below_elsewhere():
    # A channel in place of G: four categories, three pictures; the joint probabilities are known.
    channel = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]])
    joint = channel / 4
    shares = joint.sum(axis=0)
    information = sum(
        joint[c, x] * math.log(joint[c, x] / (shares[x] / 4))
        for c, x in itertools.product(range(4), range(3))
        if joint[c, x]
    )
    # Every pair as often as it is likely: 40 draws in all.
    pairs = [(c, x) for c, x in np.ndindex(4, 3) for _ in range(round(40 * joint[c, x]))]
    labels, pictures = np.transpose(pairs)
    posterior = np.log(np.maximum(joint / shares, 1e-30)).T.astype(np.float32)
    bound = float(codes.categorical_bound(tf.constant(posterior[pictures]), labels))
    assert bound == pytest.approx(information, abs=1e-5)
    noise = np.random.default_rng(1).normal(size=(20, *posterior.shape)).astype(np.float32)
    others = [codes.categorical_bound(posterior[pictures] + n[pictures], labels) for n in noise]
    assert max(float(other) for other in others) < information


def test_the_continuous_bound_is_that_of_scipys_normal():
    from scipy import stats

    means, values = np.random.default_rng(0).uniform(-1, 1, (2, 50, 3)).astype(np.float32)
    expected = stats.norm(means, 0.3).logpdf(values).sum(axis=1).mean() + 3 * math.log(2)
    assert float(codes.continuous_bound(means, values, sigma=0.3)) == pytest.approx(expected, 1e-4)
    best = float(codes.continuous_bound(values, values, sigma=0.3))
    assert best == pytest.approx(3 * math.log(2 / (0.3 * math.sqrt(2 * math.pi))), 1e-5)


def test_a_width_that_is_not_above_0_is_refused():
    with pytest.raises(ValueError, match="sigma=0"):
        codes.continuous_bound(tf.zeros((2, 1)), tf.zeros((2, 1)), sigma=0)


# The networks.


def scaled(values):
    """Batch normalization at inference, never trained, then ReLU."""
    return np.maximum(values / (1 + 1e-3) ** 0.5, 0)


def test_a_deep_start_is_two_dense_layers_each_normalized_and_rectified():
    point = keras.Input((6,))
    model = keras.Model(point, codes.start_deep(point, width=3))
    kernels = [w.numpy() for w in model.trainable_weights if w.name == "kernel"]
    assert [kernel.shape for kernel in kernels] == [(6, 3), (3, 6)]
    assert not [w for w in model.weights if w.name == "bias"]
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    expected = scaled(scaled(x @ kernels[0]) @ kernels[1])
    assert (expected > 0).any()
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-5)


def test_d_and_q_share_everything_but_their_last_layers():
    plain = networks.mlp_discriminator(SHAPE, widths=(6,))
    discriminator = codes.info_discriminator(plain, width=5, **SIZES)
    shared, hidden, *heads = [
        layer for layer in discriminator.layers if isinstance(layer, keras.layers.Dense)
    ]
    assert shared is plain.layers[-3] and plain.layers[-1] not in discriminator.layers
    assert [head.units for head in heads] == [1, CLASSES, CONTINUOUS]
    image = real_batch()
    features = hidden(keras.Model(plain.input, plain.layers[-1].input)(image))
    features = tf.where(features > 0, features, 0.2 * features)
    for head, output in zip(heads, discriminator(image), strict=True):
        np.testing.assert_allclose(output, head(features), rtol=1e-5, atol=1e-6)


# The step.


def game(rate=0.1, **changes):
    """A tiny discriminator with Q's heads, a tiny generator, and their step."""
    trunk = networks.mlp_discriminator(SHAPE, widths=(6,))
    discriminator = networks.with_heads(trunk, 1, CLASSES, CONTINUOUS)
    generator = networks.mlp_generator(LATENT_DIM + CLASSES + CONTINUOUS, SHAPE, widths=(5,))
    settings = {
        "d_optimizer": keras.optimizers.SGD(rate),
        "g_optimizer": keras.optimizers.SGD(rate),
        "objective": losses.non_saturating,
        "latent_dim": LATENT_DIM,
        "sigma": 0.5,
        "seed": 5,
    }
    return (
        discriminator,
        generator,
        codes.make_info_step(discriminator, generator, **settings | changes),
    )


def real_batch():
    values = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SHAPE))
    return tf.constant(values, tf.float32)


def weights(model):
    return [weight.numpy() for weight in model.weights]


def by_hand(discriminator, generator, *, category, continuous, asked, rate, step):
    """Both networks' weights after one step of gradient descent, from Keras' losses."""
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=step)
    labels, values = codes.sample_codes(BATCH, CLASSES, CONTINUOUS, seed=5, step=step)
    with tf.GradientTape(persistent=True) as tape:
        inputs = tf.concat([z, tf.one_hot(labels, CLASSES), values], axis=1)
        fake_logits, code_logits, means = discriminator(generator(inputs))
        real_logits = discriminator(real_batch())[0]
        cross = keras.losses.sparse_categorical_crossentropy(labels, code_logits, from_logits=True)
        square = tf.reduce_sum((values - means) ** 2, axis=1) / (2 * 0.5**2)
        q_loss = category * tf.reduce_mean(cross) + continuous * tf.reduce_mean(square)
        d_loss = losses.discriminator_loss(real_logits, fake_logits) + q_loss
        g_loss = losses.generator_loss(fake_logits) + (q_loss if asked else 0)
    after = []
    for model, loss in ((discriminator, d_loss), (generator, g_loss)):
        pairs = zip(model.weights, tape.gradient(loss, model.weights), strict=True)
        after.append([(weight - rate * gradient).numpy() for weight, gradient in pairs])
    return after


@pytest.mark.parametrize("asked", [True, False])
def test_a_step_moves_both_networks_along_the_gradients_of_losses_and_bounds(asked):
    discriminator, generator, step = game(weights=(1.5, 0.5), asked=asked)
    terms = {"category": 1.5, "continuous": 0.5, "asked": asked, "rate": 0.1, "step": 3}
    expected = by_hand(discriminator, generator, **terms)
    step(real_batch(), tf.constant(3, tf.int64))
    for model, wanted in zip((discriminator, generator), expected, strict=True):
        for weight, value in zip(weights(model), wanted, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6)


def test_q_heads_learn_from_codes_alone_and_the_generator_hears_of_them_only_where_asked():
    def moved(asked, scale):
        keras.utils.set_random_seed(1)
        discriminator, generator, step = game(weights=scale, asked=asked)
        before = weights(generator), weights(discriminator)
        step(real_batch(), tf.constant(0, tf.int64))
        after = weights(generator), weights(discriminator)
        return [
            [b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)
        ]

    without, plain = moved(True, (0.0, 0.0)), moved(False, (1.0, 1.0))
    for one, other in zip(without[0], plain[0], strict=True):
        np.testing.assert_array_equal(one, other)  # G, not asked, moves as in the ordinary game
    pairs = zip(moved(True, (1, 1))[0], plain[0], strict=True)
    assert any(abs(one - other).max() > 1e-6 for one, other in pairs)
    assert all(abs(change).max() == 0 for change in without[1][-4:])  # kernels and biases of Q
    assert all(abs(change).max() > 0 for change in plain[1])


def test_a_step_tells_losses_probabilities_and_bounds_and_is_traced_once():
    _, _, step = game()
    for number in range(3):
        values = step(real_batch(), tf.constant(number, tf.int64))
    assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake", "category", "continuous"]
    assert all(np.isfinite(float(value)) for value in values.values())
    assert float(values["category"]) <= math.log(CLASSES)
    assert step.experimental_get_tracing_count() == 1


def test_a_generator_that_does_not_fit_and_a_weight_below_0_are_refused():
    with pytest.raises(ValueError, match=r"expected shape=\(None, 9\), found shape=\(8, 13\)"):
        game(latent_dim=7)[2](real_batch(), tf.constant(0, tf.int64))
    with pytest.raises(ValueError, match=r"weights=\(1, -1\)"):
        game(weights=(1, -1))


# The matching.


def test_renamed_classes_match_without_error_and_every_wrong_code_counts():
    rng = np.random.default_rng(0)
    labels, renamed = rng.permutation(np.arange(1000) % 10), rng.permutation(10)
    matched, error = codes.match_codes(renamed[labels], labels, 10)
    np.testing.assert_array_equal(matched[renamed], np.arange(10))
    assert error == 0
    wrong = renamed[labels]
    wrong[:30] = renamed[(labels[:30] + 1) % 10]
    assert codes.match_codes(wrong, labels, 10)[1] == pytest.approx(0.03)


def test_no_matching_has_fewer_errors():
    found, labels = np.random.default_rng(1).integers(0, 4, (2, 200))
    errors = [
        np.mean(np.array(matching)[found] != labels)
        for matching in itertools.permutations(range(4))
    ]
    assert codes.match_codes(found, labels, 4)[1] == pytest.approx(min(errors))


def test_a_code_that_takes_two_classes_leaves_another_code_without_any():
    labels = np.repeat(np.arange(10), 100)
    merged = np.where(labels == 9, 4, labels)  # 9s carry the code of the 4s
    merged[labels == 1] = np.tile([1, 9], 50)  # and two codes share the 1s
    matched, error = codes.match_codes(merged, labels, 10)
    assert sorted(matched) == list(range(10)) and error == pytest.approx(0.15)


@pytest.mark.parametrize("wrong", [[0, 10], [-1, 0]])
def test_codes_and_labels_out_of_range_are_refused(wrong):
    for pair in ((wrong, [0, 1]), ([0, 1], wrong)):
        with pytest.raises(ValueError, match="from 0 to 9"):
            codes.match_codes(*pair, 10)


# The benchmark.


def test_the_benchmark_measures_a_short_run(monkeypatch):
    for name, value in {"PARTS": 2, "FEW": 100, "SAMPLES": 200, "CHUNK": 100, "WIDTH": 64}.items():
        monkeypatch.setattr(code_error, name, value)
    judge = code_error.classifier.digit_classifier
    monkeypatch.setattr(
        code_error.classifier, "digit_classifier", lambda *pair: judge(*pair, steps=20)
    )
    row, drawn = code_error.measure("plain", seed=1, steps=20, source="digits")
    table, (_, labels, _) = np.array(row["table"]), data.load_images("digits", split="test")
    np.testing.assert_array_equal(table.sum(axis=1), np.bincount(labels))
    right = table[row["matched"], range(10)].sum()
    assert row["test_error"] == pytest.approx(1 - right / len(labels))
    assert [point["step"] for point in row["along"]] == [10, 20]
    assert len(row["bounds"]["category"]) == 20 and max(row["bounds"]["category"]) <= math.log(10)
    assert all(-1 <= value <= 1 for pair in row["effects"].values() for value in pair)
    assert {key: value.shape for key, value in drawn.items()} == {"category": (100, 28, 28)}
