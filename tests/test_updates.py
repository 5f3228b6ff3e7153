"""One step against its definition."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils import latents, losses, networks, penalties, runtime, stabilizers, updates

LATENT_DIM, IMAGE_SHAPE, BATCH = 3, (4, 4, 1), 8


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def real_batch(number=0):
    values = np.random.default_rng(number).uniform(-1, 1, (BATCH, *IMAGE_SHAPE))
    return tf.constant(values, tf.float32)


def pair():
    """A discriminator and a generator, a few weights each."""
    discriminator = networks.mlp_discriminator(IMAGE_SHAPE, widths=(6,))
    return discriminator, networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(5,))


def make_step(
    discriminator, generator, d_rate=0.1, g_rate=0.1, *, factory=updates.make_train_step, **changes
):
    settings = {
        "d_optimizer": keras.optimizers.SGD(d_rate),
        "g_optimizer": keras.optimizers.SGD(g_rate),
        "objective": losses.non_saturating,
        "latent_dim": LATENT_DIM,
        "seed": 5,
    }
    return factory(discriminator, generator, **settings | changes)


def weights(model):
    return [v.numpy() for v in model.variables]


def assert_equal(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(one, other, rtol=1e-5, atol=1e-6):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def step_at(number):
    return tf.Variable(number, dtype=tf.int64)


# One step.


def bce(label, logits):
    """Mean binary cross-entropy of one label: Keras' formula, not the course's."""
    labels = tf.fill(tf.shape(logits), float(label))
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


@pytest.mark.parametrize("objective", ["non_saturating", "minimax"])
def test_a_step_moves_both_networks_along_their_gradients_at_one_point(objective):
    discriminator, generator = pair()
    rate, real, number = 0.5, real_batch(), 7
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=number)
    with tf.GradientTape(persistent=True) as tape:
        fake_logits = discriminator(generator(z))
        d_loss = bce(1, discriminator(real)) + bce(0, fake_logits)
        g_loss = bce(1, fake_logits) if objective == "non_saturating" else -bce(0, fake_logits)
    expected = []
    for model, loss in ((discriminator, d_loss), (generator, g_loss)):
        gradients = tape.gradient(loss, model.trainable_variables)
        expected.append([w - rate * g for w, g in zip(weights(model), gradients, strict=True)])
    before = weights(discriminator) + weights(generator)

    step = make_step(discriminator, generator, rate, rate, objective=getattr(losses, objective))
    values = step(real, step_at(number))

    after = weights(discriminator) + weights(generator)
    for new, right, old in zip(after, expected[0] + expected[1], before, strict=True):
        np.testing.assert_allclose(new, right, atol=1e-6)
        assert np.abs(new - old).max() > 1e-4
    np.testing.assert_allclose(values["d_loss"], d_loss, rtol=1e-5)
    np.testing.assert_allclose(values["g_loss"], g_loss, rtol=1e-5)


def test_updates_are_simultaneous_not_alternating():
    """The generator's new weights do not depend on the discriminator's learning rate."""
    ends = []
    for d_rate in (0.0, 5.0):
        keras.utils.set_random_seed(1)
        discriminator, generator = pair()
        make_step(discriminator, generator, d_rate=d_rate)(real_batch(), step_at(0))
        ends.append((weights(discriminator), weights(generator)))
    (d_still, g_one), (d_moved, g_other) = ends
    assert_equal(g_one, g_other)
    assert any(np.abs(x - y).max() > 1e-2 for x, y in zip(d_still, d_moved, strict=True))


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)], ids=["D alone", "G alone"])
def test_an_update_of_one_network_leaves_the_other_bit_identical(rates):
    models = pair()
    before = [weights(model) for model in models]
    make_step(*models, *rates)(real_batch(), step_at(0))
    for model, old, rate in zip(models, before, rates, strict=True):
        if rate:
            moved = [np.abs(x - y).max() for x, y in zip(weights(model), old, strict=True)]
            assert min(moved) > 1e-5
        else:
            assert_equal(weights(model), old)


def test_reported_values_are_those_before_the_update():
    discriminator, generator = pair()
    real = real_batch()
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=2)
    real_logits = discriminator(real).numpy().astype(np.float64)
    fake_logits = discriminator(generator(z)).numpy().astype(np.float64)
    d_real, d_fake = 1 / (1 + np.exp(-real_logits)), 1 / (1 + np.exp(-fake_logits))
    values = make_step(discriminator, generator, 3.0, 3.0)(real, step_at(2))
    assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake"]
    assert all(v.shape == () for v in values.values())
    assert float(values["d_real"]) == pytest.approx(d_real.mean(), 1e-5)
    assert float(values["d_fake"]) == pytest.approx(d_fake.mean(), 1e-5)
    d_loss = -np.log(d_real).mean() - np.log(1 - d_fake).mean()
    assert float(values["d_loss"]) == pytest.approx(d_loss, 1e-5)
    assert float(values["g_loss"]) == pytest.approx(-np.log(d_fake).mean(), 1e-5)
    assert abs(d_real.mean() - d_fake.mean()) > 1e-3  # so a mix-up of the two would show


def test_a_step_is_traced_once_and_its_noise_follows_the_step():
    discriminator, generator = pair()
    train_step = make_step(discriminator, generator, 0.0, 0.0)
    step, seen = step_at(0), []
    for now in (0, 1, 2, 1):
        step.assign(now)
        seen.append(float(train_step(real_batch(now), step)["d_fake"]))
    assert train_step.experimental_get_tracing_count() == 1
    assert len(set(seen[:3])) == 3  # nothing but the noise differs, the rates are 0
    assert seen[3] == seen[1]
    other = float(
        make_step(discriminator, generator, 0.0, 0.0, seed=6)(real_batch(), step)["d_fake"]
    )
    assert other != seen[1]


def test_a_tensor_names_the_same_step_as_a_variable():
    train_step = make_step(*pair(), 0.0, 0.0)
    by_variable = train_step(real_batch(), step_at(3))
    by_tensor = train_step(real_batch(), tf.constant(3, tf.int64))
    assert {k: float(v) for k, v in by_variable.items()} == {
        k: float(v) for k, v in by_tensor.items()
    }


def test_optimizers_are_built_before_the_first_step():
    discriminator, generator = pair()
    optimizers = [keras.optimizers.Adam(1e-3) for _ in range(2)]
    train_step = make_step(
        discriminator, generator, d_optimizer=optimizers[0], g_optimizer=optimizers[1]
    )
    slots = [len(optimizer.variables) for optimizer in optimizers]
    # Iteration and learning rate, and two moments for each weight.
    assert slots == [2 + 2 * len(m.trainable_variables) for m in (discriminator, generator)]
    train_step(real_batch(), step_at(0))
    assert [len(optimizer.variables) for optimizer in optimizers] == slots
    assert [int(optimizer.iterations) for optimizer in optimizers] == [1, 1]


def test_the_batch_decides_how_many_latents_are_drawn():
    counts = []

    def d_loss(real_logits, fake_logits):
        counts.append((real_logits.shape[0], tf.shape(fake_logits)[0]))
        return losses.discriminator_loss(real_logits, fake_logits)

    @tf.function
    def watched(real, step):  # the inner function is inlined, so its tensors can be returned
        train_step(real, step)
        return counts[-1][1]

    objective = (d_loss, losses.generator_loss)
    train_step = make_step(*pair(), objective=objective).python_function
    for size in (8, 5):
        assert int(watched(real_batch()[:size], step_at(0))) == size


def test_batch_normalization_trains_on_batches_and_keeps_moving_statistics():
    """Momentum 0.9: G's statistics move once a step, D's once for real and then once for fake."""
    z_in, image_in = keras.Input((LATENT_DIM,)), keras.Input(IMAGE_SHAPE)
    g_bn, d_bn = (layers.BatchNormalization(momentum=0.9) for _ in range(2))
    image = layers.Reshape(IMAGE_SHAPE)(layers.Dense(16, activation="tanh")(g_bn(z_in)))
    generator = keras.Model(z_in, image)
    logit = layers.Dense(1)(d_bn(layers.Flatten()(image_in)))
    discriminator = keras.Model(image_in, logit)
    real = real_batch()
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=0).numpy()
    fake = generator(z, training=True).numpy().reshape(BATCH, -1)  # moves G's statistics, so:
    g_bn.moving_mean.assign(tf.zeros(LATENT_DIM))
    g_bn.moving_variance.assign(tf.ones(LATENT_DIM))

    make_step(discriminator, generator)(real, step_at(0))

    flat = real.numpy().reshape(BATCH, -1)
    np.testing.assert_allclose(g_bn.moving_mean, 0.1 * z.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(g_bn.moving_variance, 0.9 + 0.1 * z.var(0), rtol=1e-4)
    mean = 0.9 * 0.1 * flat.mean(0) + 0.1 * fake.mean(0)
    np.testing.assert_allclose(d_bn.moving_mean, mean, rtol=1e-4, atol=1e-6)
    variance = 0.9 * (0.9 + 0.1 * flat.var(0)) + 0.1 * fake.var(0)
    np.testing.assert_allclose(d_bn.moving_variance, variance, rtol=1e-4)


def test_dropout_is_on_while_training():
    image = keras.Input(IMAGE_SHAPE)
    discriminator = keras.Model(
        image, layers.Dense(1)(layers.Dropout(0.5)(layers.Flatten()(image)))
    )
    train_step = make_step(discriminator, pair()[1], 0.0, 0.0)
    values = {float(train_step(real_batch(), step_at(0))["d_real"]) for _ in range(5)}
    assert len(values) == 5


def dropout_pair():
    """Batch normalization in G, Dropout in D: statistics and a seed state besides the weights."""

    def leaky_dropout(x):
        return layers.Dropout(0.3)(networks.leaky_relu(x))

    discriminator = networks.mlp_discriminator(IMAGE_SHAPE, widths=(6,), after_dense=leaky_dropout)
    generator = networks.mlp_generator(
        LATENT_DIM, IMAGE_SHAPE, widths=(5,), after_dense=networks.bn_relu
    )
    return discriminator, generator


# The average of the generator's weights.


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])
def test_the_average_moves_as_its_formula_says(decay):
    discriminator, generator = dropout_pair()
    average = runtime.in_float32(generator)
    assert_equal(average.get_weights(), generator.get_weights())
    expected = [w.astype(np.float64) for w in average.get_weights()]
    plain = make_step(discriminator, generator, 0.5, 0.5)
    train_step = updates.with_average(plain, generator, average, decay=decay)
    for number in range(6):
        values = train_step(real_batch(number), step_at(number))
        share = min(decay, (1 + number) / (10 + number))
        for mean, weight in zip(expected, generator.get_weights(), strict=True):
            mean *= share
            mean += (1 - share) * weight  # the weights after the step
    assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake"]
    for mean, right in zip(average.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mean, right, rtol=1e-5, atol=1e-6)
    moved = [x - y for x, y in zip(average.get_weights(), generator.get_weights(), strict=True)]
    assert (max(np.abs(x).max() for x in moved) > 1e-3) == (decay > 0)
    assert any(not w.trainable for w in generator.weights)  # statistics are among them


def test_an_average_of_another_shape_and_an_impossible_decay_are_refused():
    discriminator, generator = pair()
    train_step = make_step(discriminator, generator)
    narrower = networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(4,))
    deeper = networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(5, 5))
    for average in (narrower, deeper):
        with pytest.raises(ValueError, match="a copy of the generator"):
            updates.with_average(train_step, generator, average)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            updates.with_average(train_step, generator, pair()[1], decay=decay)


# A step with further terms, and with several updates of D. Networks on points of the plane.

POINTS = 12


def points(number=0):
    values = np.random.default_rng(number).normal(size=(POINTS, 2))
    return tf.constant(values, tf.float32)


def point_pair(d=None, g=None):
    """A discriminator and a generator of points; d and g are further arguments of theirs."""
    discriminator = networks.point_network(2, 1, **{"widths": (6, 5)} | (d or {}))
    return discriminator, networks.point_network(LATENT_DIM, 2, **{"widths": (5, 4)} | (g or {}))


regularized = functools.partial(make_step, factory=updates.make_regularized_step)


def floats(values):
    return {name: float(value) for name, value in values.items()}


def test_without_terms_it_is_the_plain_step_bit_for_bit():
    """Adam's slots, moving statistics and Dropout's seeds included."""
    ends = []
    for make in (updates.make_train_step, updates.make_regularized_step):
        keras.utils.set_random_seed(1)
        models, optimizers = dropout_pair(), [keras.optimizers.Adam(1e-2) for _ in range(2)]
        train_step = make(
            *models,
            d_optimizer=optimizers[0],
            g_optimizer=optimizers[1],
            objective=losses.non_saturating,
            latent_dim=LATENT_DIM,
            seed=5,
        )
        start = weights(models[0])
        reports = [floats(train_step(real_batch(n), step_at(n))) for n in range(4)]
        ends.append((reports, [x for owner in (*models, *optimizers) for x in weights(owner)]))
    assert ends[0][0] == ends[1][0] and list(ends[0][0][0]) == list(ends[1][0][0])
    assert_equal(ends[0][1], ends[1][1])
    assert not np.array_equal(start[0], ends[0][1][0])


def sum_of_squares(model):
    return tf.add_n([tf.reduce_sum(tf.square(v)) for v in model.trainable_variables])


# Who -> name -> (real, fake, step, D, G) -> scalar. The first of each has a gradient in closed
# form, 2 step theta; the others depend on the samples.
TERMS = {
    "d_terms": {
        "decay": lambda r, f, n, d, g: tf.cast(n, tf.float32) * sum_of_squares(d),
        "samples": lambda r, f, n, d, g: tf.square(tf.reduce_mean(d(r)) + 3 * tf.reduce_sum(d(f))),
        "penalty": lambda r, f, n, d, g: penalties.gradient_penalty(d, r, f, seed=2, step=n),
        "r1": lambda r, f, n, d, g: penalties.r1_penalty(d, r),
    },
    "g_terms": {
        "decay": lambda r, f, n, d, g: tf.cast(n, tf.float32) * sum_of_squares(g),
        "samples": lambda r, f, n, d, g: tf.reduce_mean(tf.square(f - 2 * r)),
        "matching": lambda r, f, n, d, g: penalties.feature_matching(d, r, f),
    },
}


@pytest.mark.parametrize("who, name", [(who, name) for who in TERMS for name in TERMS[who]])
def test_a_term_changes_the_gradient_of_its_own_player_alone(who, name):
    models, rate, number, real = point_pair(), 0.25, 7, points()
    term, mine = TERMS[who][name], 0 if who == "d_terms" else 1
    start = [weights(model) for model in models]
    with tf.GradientTape() as tape:  # outside of the step, at the same point
        z = latents.sample_latents(POINTS, LATENT_DIM, seed=5, step=number)
        value = term(real, models[1](z), number, *models)
    variables = models[mine].trainable_variables
    gradients = [
        np.zeros(v.shape) if g is None else g.numpy()  # the last bias may have none
        for v, g in zip(variables, tape.gradient(value, variables), strict=True)
    ]
    if name == "decay":
        for gradient, weight in zip(gradients, start[mine], strict=True):
            np.testing.assert_allclose(gradient, 2 * number * weight, rtol=1e-6)
    assert max(np.abs(g).max() for g in gradients) > 1e-2

    factor = tf.Variable(0.0)
    train_step = regularized(
        *models, rate, rate, **{who: [lambda r, f, n: factor * term(r, f, n, *models)]}
    )
    ends, reports = {}, {}
    for w in (0.0, 0.5, -2.0):
        factor.assign(w)
        for model, values in zip(models, start, strict=True):
            model.set_weights(values)
        reports[w] = floats(train_step(real, step_at(number)))
        ends[w] = [weights(model) for model in models]
    plain = regularized(*models, rate, rate)
    for model, values in zip(models, start, strict=True):
        model.set_weights(values)
    assert floats(plain(real, step_at(number))) == pytest.approx(reports[0.0], rel=1e-6)
    for model, values in zip(models, ends[0.0], strict=True):
        assert_close(weights(model), values)
    for w in (0.5, -2.0):
        assert_equal(ends[w][1 - mine], ends[0.0][1 - mine])  # the other player's update
        for x, y, g in zip(ends[w][mine], ends[0.0][mine], gradients, strict=True):
            np.testing.assert_allclose(x - y, -rate * w * g, rtol=1e-4, atol=1e-5)
        assert reports[w] == reports[0.0]  # the objective's losses, without the terms


def test_several_terms_add_up():
    """Two terms of D and two of G, against one of each that is their sum."""
    ends = []
    for together in (False, True):
        keras.utils.set_random_seed(1)
        models, bound = point_pair(), {}
        for who, terms in TERMS.items():

            def bind(name, terms=terms, models=models):
                return lambda r, f, n: 0.01 * terms[name](r, f, n, *models)

            one, other = bind("decay"), bind("samples")

            def both(r, f, n, one=one, other=other):
                return one(r, f, n) + other(r, f, n)

            bound[who] = [both] if together else [one, other]
        train_step = regularized(*models, **bound)
        for number in (1, 2):
            train_step(points(number), step_at(number))
        ends.append([x for model in models for x in weights(model)])
    assert_close(*ends)


def no_loss(fake_logits):
    return 0.0 * tf.reduce_sum(fake_logits)


def first_hidden(discriminator):
    return keras.Model(discriminator.input, discriminator.layers[1].output)


def virtual_bn_relu(x):
    return layers.ReLU()(stabilizers.VirtualBatchNormalization(4)(x))


def with_reference(z):
    return stabilizers.WithReference(np.random.default_rng(9).normal(size=(4, LATENT_DIM)))(z)


# What differs from the plain step; the terms are made from both networks.
VARIANTS = {
    "smoothed": {"objective": (losses.smoothed_discriminator_loss, losses.generator_loss)},
    "least squares": {"objective": losses.least_squares},
    "hinge, spectral": {
        "objective": losses.hinge,
        "d": {"dense": lambda units: stabilizers.SpectralNormalization(layers.Dense(units))},
    },
    "Wasserstein, clipped": {
        "objective": losses.wasserstein,
        "constrain": functools.partial(penalties.clip_weights, limit=0.3),
        "d_steps": 2,
    },
    "Wasserstein, penalty": {
        "objective": losses.wasserstein,
        "d_terms": lambda d, g: [
            lambda real, fake, step: penalties.gradient_penalty(d, real, fake, seed=2, step=step)
        ],
        "d_steps": 3,
    },
    "R1": {"d_terms": lambda d, g: [lambda real, fake, step: penalties.r1_penalty(d, real)]},
    "feature matching": {
        "objective": (losses.discriminator_loss, no_loss),
        "g_terms": lambda d, g: [
            functools.partial(
                lambda f, real, fake, step: penalties.feature_matching(f, real, fake),
                first_hidden(d),
            )
        ],
    },
    "historical average": {
        "d_terms": lambda d, g: [history_of(d)],
        "g_terms": lambda d, g: [history_of(g)],
    },
    "minibatch": {"d": {"last": lambda x: stabilizers.MinibatchDiscrimination(3, 2)(x)}},
    "virtual batch norm": {
        "g": {
            "first": with_reference,
            "after_dense": virtual_bn_relu,
            "last": lambda x: stabilizers.DropReference(4)(x),
        }
    },
    "packed": {"d": {"first": lambda x: stabilizers.Pack(2)(x)}},
}


def history_of(model):
    average = penalties.HistoricalAverage(model.trainable_variables)
    return lambda real, fake, step: average(step)


def variant(name):
    """Both networks of a variant, and the further arguments of its step."""
    settings = dict(VARIANTS[name])
    models = point_pair(settings.pop("d", None), settings.pop("g", None))
    for who in ("d_terms", "g_terms"):
        if who in settings:
            settings[who] = settings[who](*models)
    return models, settings


def moves(model, before):
    """How far each kernel has moved, in the largest of its numbers."""
    pairs = zip(model.trainable_variables, before, strict=True)
    return [np.abs(v.numpy() - old).max() for v, old in pairs if v.name == "kernel"]


@pytest.mark.parametrize("name", VARIANTS)
def test_in_each_variant_an_update_touches_only_its_own_network(name):
    models, settings = variant(name)
    penalties.clip_weights(models[0].trainable_variables, 0.3)  # the limit of one variant
    optimizers = [keras.optimizers.SGD(0.1) for _ in models]
    own = {"d_optimizer": optimizers[0], "g_optimizer": optimizers[1]}
    train_step = regularized(*models, **own, **settings)
    number = itertools.count()
    for d_rate, g_rate in ((0.1, 0.0), (0.0, 0.1), (0.0, 0.0)):
        for optimizer, rate in zip(optimizers, (d_rate, g_rate), strict=True):
            optimizer.learning_rate.assign(rate)
        before = [[v.numpy() for v in model.trainable_variables] for model in models]
        for n in itertools.islice(number, 2):
            values = floats(train_step(points(n), step_at(n)))
            assert all(math.isfinite(x) for x in values.values())
        for model, old, rate in zip(models, before, (d_rate, g_rate), strict=True):
            if rate:
                assert min(moves(model, old)) > 1e-6
            else:
                assert_equal([v.numpy() for v in model.trainable_variables], old)
    assert train_step.experimental_get_tracing_count() == 1


def test_several_updates_of_d_are_plain_steps_of_the_parts():
    """Plain steps in which G stands still, but for the last; the noise is that of 3 step + i."""
    ends, d_steps = [], 3
    for plain in (False, True):
        keras.utils.set_random_seed(1)
        models = point_pair()
        optimizers = [keras.optimizers.SGD(0.2, momentum=0.5), keras.optimizers.SGD(0.3)]
        own = {"d_optimizer": optimizers[0], "g_optimizer": optimizers[1]}
        make = make_step if plain else functools.partial(regularized, d_steps=d_steps)
        train_step, reports = make(*models, **own), []
        for number in (0, 1, 4):
            real = points(number)
            if not plain:
                reports.append(floats(train_step(real, step_at(number))))
                continue
            for i in range(d_steps):
                optimizers[1].learning_rate.assign(0.3 if i == d_steps - 1 else 0.0)
                values = train_step(real[4 * i : 4 * i + 4], step_at(d_steps * number + i))
            reports.append(floats(values))
        assert int(optimizers[0].iterations) == 9
        assert int(optimizers[1].iterations) == (9 if plain else 3)
        ends.append((reports, [x for model in models for x in weights(model)]))
    for report, right in zip(ends[0][0], ends[1][0], strict=True):
        assert report == pytest.approx(right, rel=1e-5)
    assert_close(ends[0][1], ends[1][1])


def test_terms_see_the_part_the_fake_and_the_number_of_their_update():
    models, d_steps, number = point_pair(), 3, 5
    log = tf.Variable(tf.zeros((2, d_steps, 2)))

    def watch(row):
        def term(real, fake, step):
            assert real.shape == (4, 2)
            seen = tf.stack([tf.reduce_sum(real), tf.reduce_sum(fake)])
            log[row, step - d_steps * number].assign(seen)
            return 0.0

        return term

    train_step = regularized(
        *models, 0.0, 0.0, d_terms=[watch(0)], g_terms=[watch(1)], d_steps=d_steps
    )
    train_step(points(), step_at(number))
    for i in range(d_steps):
        z = latents.sample_latents(4, LATENT_DIM, seed=5, step=15 + i)
        right = [points().numpy()[4 * i : 4 * i + 4].sum(), models[1](z).numpy().sum()]
        for row in range(2):
            np.testing.assert_allclose(log[row, i], right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clipped", [True, False])
def test_d_is_constrained_after_each_of_its_updates(clipped):
    (discriminator, generator), limit = point_pair(), 0.05
    log = tf.Variable(tf.zeros(6))

    def largest():
        return tf.reduce_max([tf.reduce_max(tf.abs(v)) for v in discriminator.trainable_variables])

    def watch(real, fake, step):
        log[step].assign(largest())
        return 0.0

    clip = {"constrain": lambda variables: penalties.clip_weights(variables, limit)}
    train_step = regularized(
        discriminator,
        generator,
        1.0,
        objective=losses.wasserstein,
        d_terms=[watch],
        d_steps=3,
        **clip if clipped else {},
    )
    for number in range(2):
        train_step(points(number), step_at(number))
    sizes = np.array([*log.numpy(), largest()])
    assert np.isfinite(sizes).all() and sizes[0] > limit  # as D was built
    if clipped:
        np.testing.assert_allclose(sizes[1:], limit, rtol=1e-6)
    else:
        assert sizes[1:].min() > 2 * limit
    assert max(np.abs(w).max() for w in weights(generator)) > 2 * limit  # G is not constrained


def test_impossible_numbers_of_updates_are_refused():
    models = point_pair()
    for d_steps in (0, -1):
        with pytest.raises(ValueError, match=f"d_steps={d_steps} must be at least 1"):
            regularized(*models, d_steps=d_steps)
    before = [x for model in models for x in weights(model)]
    train_step = regularized(*models, d_steps=5)
    with pytest.raises(ValueError, match="divi.* 5.*12"):
        train_step(points(), step_at(0))
    assert_equal([x for model in models for x in weights(model)], before)
