"""One step against its definition. Oracles by hand run eagerly; what is traced says so."""

import functools
import math

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    BATCH,
    IMAGE_SHAPE,
    LATENT_DIM,
    assert_close,
    floats,
    numbers_of,
    pair,
    real_batch,
    same_bits,
    step_at,
)

from ganutils import latents, losses, networks, runtime, steps
from ganutils.families import mode_collapse

sgd = keras.optimizers.SGD


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


@pytest.fixture
def eager():
    with helpers.eagerly():
        yield


def plain_step(models, rates=(0.1, 0.1), *, optimizers=None, **changes):
    d_optimizer, g_optimizer = optimizers or [sgd(rate) for rate in rates]
    game = {"objective": losses.non_saturating, "latent_dim": LATENT_DIM, "seed": 5} | changes
    return steps.make_train_step(*models, d_optimizer=d_optimizer, g_optimizer=g_optimizer, **game)


def played_step(models, rates=(0.1, 0.1), *, optimizers=None, d_steps=1, constrain=None, **changes):
    """The step of `make_step` on the plain game, with terms perhaps."""
    d_optimizer, g_optimizer = optimizers or [sgd(rate) for rate in rates]
    game = {"objective": losses.non_saturating, "latent_dim": LATENT_DIM, "seed": 5} | changes
    return steps.make_step(
        steps.make_gan_play(*models, **game),
        *[model.trainable_variables for model in models],
        d_optimizer=d_optimizer,
        g_optimizer=g_optimizer,
        d_steps=d_steps,
        constrain=constrain,
    )


# The plain step.


def bce(label, logits):
    """Mean binary cross-entropy of one label: Keras' formula, not the course's."""
    labels = tf.fill(tf.shape(logits), float(label))
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


@pytest.mark.parametrize("objective", ["non_saturating", "minimax"])
def test_a_step_moves_both_networks_along_their_gradients_at_one_point(objective, eager):
    """And reports what was before it: with both rates at 0.5, any other order would show."""
    models, rate, real, number = pair(), 0.5, real_batch(), 7
    discriminator, generator = models
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=number)
    with tf.GradientTape(persistent=True) as tape:
        real_logits, fake_logits = discriminator(real), discriminator(generator(z))
        d_loss = bce(1, real_logits) + bce(0, fake_logits)
        g_loss = bce(1, fake_logits) if objective == "non_saturating" else -bce(0, fake_logits)
    right = []
    for model, loss in ((discriminator, d_loss), (generator, g_loss)):
        gradients = tape.gradient(loss, model.trainable_variables)
        right += [w - rate * g for w, g in zip(numbers_of(model), gradients, strict=True)]
    before = numbers_of(*models)

    train_step = plain_step(models, (rate, rate), objective=getattr(losses, objective))
    values = train_step(real, step_at(number))

    after = numbers_of(*models)
    assert_close(after, right)
    assert all(np.abs(new - old).max() > 1e-4 for new, old in zip(after, before, strict=True))
    d_real, d_fake = (np.mean(1 / (1 + np.exp(-x))) for x in (real_logits, fake_logits))
    assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake"]
    assert_close(values.values(), [d_loss, g_loss, d_real, d_fake])
    assert abs(d_real - d_fake) > 1e-3  # so a mix-up of the two would show


def test_a_step_is_traced_once_and_its_noise_follows_the_step():
    models = pair()
    train_step = plain_step(models, (0.0, 0.0))
    step, seen = step_at(0), []
    for now in (0, 1, 2, 1):
        step.assign(now)
        seen.append(float(train_step(real_batch(now), step)["d_fake"]))
    assert train_step.experimental_get_tracing_count() == 1
    assert len(set(seen[:3])) == 3  # nothing but the noise differs, the rates are 0
    assert seen[3] == seen[1]
    by_tensor = train_step(real_batch(), tf.constant(1, tf.int64))
    assert float(by_tensor["d_fake"]) == seen[1]
    with helpers.eagerly():
        other = plain_step(models, (0.0, 0.0), seed=6)(real_batch(), step)
    assert float(other["d_fake"]) != pytest.approx(seen[1], rel=1e-5)


def test_the_batch_decides_how_many_latents_are_drawn(eager):
    counts = []

    def d_loss(real_logits, fake_logits):
        counts.append((len(real_logits), len(fake_logits)))
        return losses.discriminator_loss(real_logits, fake_logits)

    train_step = plain_step(pair(), objective=(d_loss, losses.generator_loss))
    for size in (8, 5):
        train_step(real_batch()[:size], step_at(0))
    assert counts == [(8, 8), (5, 5)]


def test_batch_normalization_trains_on_batches_and_keeps_moving_statistics(eager):
    """Momentum 0.9: G's statistics move once a step, D's once for real and then once for fake."""
    z_in, image_in = keras.Input((LATENT_DIM,)), keras.Input(IMAGE_SHAPE)
    g_bn, d_bn = (keras.layers.BatchNormalization(momentum=0.9) for _ in range(2))
    pixels = keras.layers.Dense(16, activation="tanh")(g_bn(z_in))
    generator = keras.Model(z_in, keras.layers.Reshape(IMAGE_SHAPE)(pixels))
    logit = keras.layers.Dense(1)(d_bn(keras.layers.Flatten()(image_in)))
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=0).numpy()
    fake = generator(z, training=True).numpy().reshape(BATCH, -1)  # moves G's statistics, so:
    g_bn.moving_mean.assign(tf.zeros(LATENT_DIM))
    g_bn.moving_variance.assign(tf.ones(LATENT_DIM))

    plain_step((keras.Model(image_in, logit), generator))(real_batch(), step_at(0))

    flat = real_batch().numpy().reshape(BATCH, -1)
    statistics = [g_bn.moving_mean, g_bn.moving_variance, d_bn.moving_mean, d_bn.moving_variance]
    expected = [
        0.1 * z.mean(0),
        0.9 + 0.1 * z.var(0),
        0.9 * 0.1 * flat.mean(0) + 0.1 * fake.mean(0),
        0.9 * (0.9 + 0.1 * flat.var(0)) + 0.1 * fake.var(0),
    ]
    assert_close(statistics, expected, rtol=1e-4)


def test_dropout_is_on_while_training(eager):
    train_step = plain_step(helpers.dropout_pair(), (0.0, 0.0))
    assert len({float(train_step(real_batch(), step_at(0))["d_real"]) for _ in range(3)}) == 3


# Players that could not learn.


def unbuilt():
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])


def frozen():
    model = pair()[0]
    model.trainable = False
    return model


@pytest.mark.parametrize("make", [plain_step, played_step])
@pytest.mark.parametrize("mine", [0, 1])
def test_a_player_that_cannot_learn_is_refused(make, mine):
    name = ("discriminator", "generator")[mine]
    for broken in (unbuilt(), frozen()):
        models, optimizers = list(pair()), [sgd(0.1), sgd(0.1)]
        models[mine] = broken
        with pytest.raises(ValueError, match=f"{name} has no variables.*keras.Input.*trainable"):
            make(models, optimizers=optimizers)
        assert not any(optimizer.built for optimizer in optimizers)
    for scaling in (keras.optimizers.LossScaleOptimizer(sgd(0.1)), sgd(0.1, loss_scale_factor=8)):
        optimizers = [sgd(0.1), sgd(0.1)]
        optimizers[mine] = scaling
        with pytest.raises(ValueError, match=f"{name} needs a scaled loss.*bfloat16 or float32"):
            make(pair(), optimizers=optimizers)


@pytest.mark.parametrize("make", [plain_step, played_step])
def test_float16_is_refused_and_a_model_frozen_in_part_is_not(make, eager):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match="float16"):
            make(pair())
    finally:
        keras.config.set_dtype_policy("float32")
    models = pair()
    models[0].layers[-1].trainable = False
    before = numbers_of(models[0])
    make(models)(real_batch(), step_at(0))
    assert same_bits(numbers_of(models[0])[2:], before[2:])
    assert not same_bits(numbers_of(models[0])[:2], before[:2])


# The average of the generator's weights.


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])
def test_the_average_moves_as_its_formula_says(decay, eager):
    generator, draw = helpers.dropout_pair()[1], np.random.default_rng(0)
    average = runtime.in_float32(generator)
    expected = [w.astype(np.float64) for w in generator.get_weights()]
    assert same_bits(average.get_weights(), generator.get_weights())
    assert any(not w.trainable for w in generator.weights)  # statistics are among them

    def plain(real, step):
        generator.set_weights([draw.normal(size=w.shape) for w in generator.weights])
        return {"seen": real + tf.cast(step, tf.float32)}

    train_step = steps.with_ema(plain, generator, average, decay=decay)
    for number in (0, 1, 5):
        assert floats(train_step(tf.constant(1.0), step_at(number))) == {"seen": number + 1}
        share = min(decay, (1 + number) / (10 + number))
        for mean, weight in zip(expected, generator.get_weights(), strict=True):
            mean *= share
            mean += (1 - share) * weight  # the weights after the step
        assert_close(average.get_weights(), expected)
    assert same_bits(average.get_weights(), generator.get_weights()) == (decay == 0)


def test_an_average_of_another_shape_and_an_impossible_decay_are_refused():
    models = pair()
    for widths in ((4,), (5, 5)):
        average = networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=widths)
        with pytest.raises(ValueError, match="average.*generator's weights"):
            steps.with_ema(plain_step(models), models[1], average)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            steps.with_ema(plain_step(models), models[1], pair()[1], decay=decay)


# The step of any game: terms, several updates of D, constraints. Networks on points of the plane.

POINTS = 12


def points(number=0):
    values = np.random.default_rng(number).normal(size=(POINTS, 2))
    return tf.constant(values, tf.float32)


def point_pair():
    discriminator = networks.point_network(2, 1, widths=(6, 5))
    return discriminator, networks.point_network(LATENT_DIM, 2, widths=(5, 4))


def test_of_the_plain_game_it_is_the_plain_step_bit_for_bit():
    """Adam's slots, moving statistics and Dropout's seeds included; traced, as readers run it."""
    ends = []
    for make in (plain_step, played_step):
        keras.utils.set_random_seed(1)
        models, optimizers = helpers.dropout_pair(), [helpers.adam(), helpers.adam()]
        train_step, start = make(models, optimizers=optimizers), numbers_of(*models)
        reports = [floats(train_step(real_batch(n), step_at(n))) for n in range(4)]
        assert train_step.experimental_get_tracing_count() == 1
        ends.append((reports, numbers_of(*models, *optimizers)))
    assert ends[0][0] == ends[1][0] and list(ends[0][0][0]) == list(ends[1][0][0])
    assert same_bits(ends[0][1], ends[1][1])
    assert not np.array_equal(start[0], ends[0][1][0])


def test_a_play_may_take_a_tuple_and_move_several_variables(eager):
    """Totals a x and b + c y have the gradients x, and 1 and y. The batch is cut into two parts."""
    a, b, c = (keras.Variable(0.0) for _ in range(3))
    seen = []

    def play(real, step):
        x, y = (tf.reduce_sum(part) for part in real)
        seen.append((float(x), float(y), int(step)))
        return a * x, b + c * y, {"x": x}

    optimizers = {"d_optimizer": sgd(1.0), "g_optimizer": sgd(1.0)}
    train_step = steps.make_step(play, [a], [b, c], **optimizers, d_steps=2)
    batch = tf.constant([1.0, 2.0, 3.0, 4.0]), tf.constant([10.0, 20.0, 30.0, 40.0])
    assert floats(train_step(batch, step_at(3))) == {"x": 7.0}
    assert seen == [(3.0, 30.0, 6), (7.0, 70.0, 7)]
    assert [float(v) for v in (a, b, c)] == [-10.0, -1.0, -70.0]


def decay(n, model):
    """n |theta|^2, of gradient 2 n theta."""
    return tf.cast(n, tf.float32) * tf.add_n([tf.reduce_sum(v * v) for v in model.weights])


# Whose it is, and (real, fake, step, D, G) -> scalar.
TERMS = {
    "decay of D": (0, lambda r, f, n, d, g: decay(n, d)),
    "penalty": (0, lambda r, f, n, d, g: losses.gradient_penalty(d, r, f, seed=2, step=n)),
    "decay of G": (1, lambda r, f, n, d, g: decay(n, g)),
    "matching": (1, lambda r, f, n, d, g: mode_collapse.feature_matching(d, r, f)),
}


def terms_of(name, models, factor=1):
    """The argument of `make_gan_play` that adds one of `TERMS`."""
    mine, term = TERMS[name]
    return {("d_terms", "g_terms")[mine]: [lambda r, f, n: factor * term(r, f, n, *models)]}


@pytest.mark.parametrize("name", TERMS)
def test_terms_add_to_the_gradient_of_their_own_player_alone(name, eager):
    models, rate, number, real = point_pair(), 0.25, 7, points()
    mine, term = TERMS[name]
    start = [model.get_weights() for model in models]
    with tf.GradientTape() as tape:  # outside of the step, at the same point
        z = latents.sample_latents(POINTS, LATENT_DIM, seed=5, step=number)
        value = term(real, models[1](z), number, *models)
    variables = models[mine].trainable_variables
    gradients = [
        tf.zeros(v.shape) if g is None else g  # the last bias may have none
        for v, g in zip(variables, tape.gradient(value, variables), strict=True)
    ]
    if "decay" in name:
        assert_close(gradients, [2 * number * weight for weight in start[mine]])
    assert max(np.abs(g).max() for g in gradients) > 1e-2

    one = terms_of(name, models)
    two = {who: [*terms_of(name, models, -3)[who], *terms] for who, terms in one.items()}
    ends, reports = [], []
    for terms in ({}, one, two):
        for model, values in zip(models, start, strict=True):
            model.set_weights(values)
        train_step = played_step(models, (rate, rate), **terms)
        reports.append(floats(train_step(real, step_at(number))))
        ends.append([numbers_of(model) for model in models])
    assert reports[0] == reports[1] == reports[2]  # the objective's losses, without the terms
    for end, factor in zip(ends[1:], (1, -2), strict=True):
        assert same_bits(end[1 - mine], ends[0][1 - mine])  # the other player's update
        moved = [x - y for x, y in zip(end[mine], ends[0][mine], strict=True)]
        assert_close(moved, [-rate * factor * g for g in gradients], rtol=1e-4, atol=1e-5)


def test_terms_are_added_to_the_totals_of_any_game_and_not_to_its_report():
    def play(real, step):
        return real[0], real[1], {"d_loss": real[0]}

    def term(real, step):
        return 10 * real[1] + step

    real = (2.0, 3.0)
    assert steps.with_terms(play)(real, 7) == (2, 3, {"d_loss": 2})
    assert steps.with_terms(play, d_terms=[term, term])(real, 7) == (2 + 2 * 37, 3, {"d_loss": 2})
    assert steps.with_terms(play, g_terms=[term])(real, 7) == (2, 3 + 37, {"d_loss": 2})


@pytest.mark.parametrize("name", ["plain", "penalty", "matching"])
def test_an_update_touches_only_its_own_network(name, eager):
    """To the bit where its rate is 0; and every kernel moves where it is not. Two updates of D."""
    models = point_pair()
    terms = {} if name == "plain" else terms_of(name, models)
    for number, rates in enumerate([(0.01, 0.0), (0.0, 0.01)], start=1):
        before = [model.get_weights() for model in models]
        train_step = played_step(models, rates, d_steps=2, **terms)
        values = floats(train_step(points(number), step_at(number)))
        assert all(math.isfinite(x) for x in values.values())
        for model, old, rate in zip(models, before, rates, strict=True):
            new = model.get_weights()
            moves = [np.abs(x - y).max() for x, y in zip(new, old, strict=True) if x.ndim > 1]
            assert min(moves) > 1e-6 if rate else same_bits(new, old)


def test_several_updates_of_d_are_plain_steps_of_the_parts(eager):
    """Plain steps in which G stands still, but for the last; the noise is that of 3 step + i.

    So the last of D's updates and G's are simultaneous, and the updates before it move D alone.
    """
    ends = []
    for plain in (True, False):
        keras.utils.set_random_seed(1)
        models, optimizers, reports = point_pair(), [sgd(0.2, momentum=0.5), sgd(0.3)], []
        if plain:
            train_step = plain_step(models, optimizers=optimizers)
        else:
            train_step = played_step(models, optimizers=optimizers, d_steps=3)
        for number in (0, 4):
            real = points(number)
            for i in range(3 if plain else 0):
                optimizers[1].learning_rate.assign(0.3 if i == 2 else 0.0)
                values = train_step(real[4 * i : 4 * i + 4], step_at(3 * number + i))
            reports.append(floats(values if plain else train_step(real, step_at(number))))
        ends.append((reports, numbers_of(*models)))
        assert [int(x.iterations) for x in optimizers] == ([6, 6] if plain else [6, 2])
    for report, right in zip(ends[0][0], ends[1][0], strict=True):
        assert report == pytest.approx(right, rel=1e-5)
    assert_close(ends[0][1], ends[1][1])


@pytest.mark.parametrize("clipped", [True, False])
def test_d_is_constrained_after_each_of_its_updates(clipped, eager):
    models, limit, sizes = point_pair(), 0.05, []
    discriminator, generator = models

    def watch(*_):
        sizes.append(max(np.abs(v.numpy()).max() for v in discriminator.trainable_variables))
        return 0.0

    constrain = functools.partial(losses.clip_weights, limit=limit) if clipped else None
    game = {"objective": losses.wasserstein, "d_terms": [watch], "d_steps": 3}
    train_step = played_step(models, (1.0, 0.1), constrain=constrain, **game)
    for number in range(2):
        train_step(points(number), step_at(number))
    watch()
    assert len(sizes) == 7 and np.isfinite(sizes).all() and sizes[0] > limit  # as D was built
    if clipped:
        np.testing.assert_allclose(sizes[1:], limit, rtol=1e-6)
    else:
        assert min(sizes[1:]) > 2 * limit
    assert max(np.abs(w).max() for w in numbers_of(generator)) > 2 * limit  # G is not constrained


def test_impossible_numbers_of_updates_are_refused():
    models = point_pair()
    for d_steps in (0, -1):
        with pytest.raises(ValueError, match=f"d_steps={d_steps}.*at least 1"):
            played_step(models, d_steps=d_steps)
    before = numbers_of(*models)
    with pytest.raises(ValueError, match="divi.* 5.*12"):
        played_step(models, d_steps=5)(points(), step_at(0))
    assert same_bits(numbers_of(*models), before)
