"""One step against its definition, one run against its promises."""

import itertools
import math
import sys
from io import StringIO

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils import data, latents, losses, networks, runtime, training

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


def make_step(discriminator, generator, d_rate=0.1, g_rate=0.1, **changes):
    settings = {
        "d_optimizer": keras.optimizers.SGD(d_rate),
        "g_optimizer": keras.optimizers.SGD(g_rate),
        "objective": losses.non_saturating,
        "latent_dim": LATENT_DIM,
        "seed": 5,
    }
    return training.make_train_step(discriminator, generator, **settings | changes)


def weights(model):
    return [v.numpy() for v in model.variables]


def assert_equal(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


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


# One run, with steps that only count.


class Run:
    """A step, batches and a callback that write down how they are called."""

    def __init__(self, start=0, broken=None):
        self.step = step_at(start)
        self.history, self.starts, self.served, self.seen = {}, [], [], []
        self.broken = broken or {}

    def make_batches(self, start):
        self.starts.append(start)
        return itertools.count(start)

    def train_step(self, real, step):
        number = int(step)
        self.served.append((real, number))
        return {"d_loss": tf.constant(10.0 * number), "g_loss": self.broken.get(number, number)}

    def callback(self, progress):
        self.seen.append(progress)
        assert int(self.step) == progress.step
        assert all(len(values) == progress.step for values in progress.history.values())

    def train(self, steps, **settings):
        settings = {"every": 3, "callbacks": [self.callback]} | settings
        return training.train(
            self.train_step,
            self.make_batches,
            steps=steps,
            step=self.step,
            history=self.history,
            **settings,
        )


def test_a_run_takes_every_step_once_in_order():
    run = Run()
    result = run.train(7)
    assert result is run.history
    assert run.history == {
        "d_loss": [0, 10, 20, 30, 40, 50, 60],
        "g_loss": [0, 1, 2, 3, 4, 5, 6],
    }
    assert all(type(x) is float for values in run.history.values() for x in values)
    assert int(run.step) == 7
    assert run.starts == [0]
    assert run.served == [(k, k) for k in range(7)]  # batch k and noise k in step k


@pytest.mark.parametrize(
    "steps, every, expected",
    [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 3, [2]), (3, 1, [1, 2, 3]), (1, 100, [1])],
)
def test_callbacks_come_at_every_multiple_and_at_the_end(steps, every, expected):
    run, second = Run(), []
    run.train(steps, every=every, callbacks=[run.callback, lambda p: second.append(p.step)])
    assert [p.step for p in run.seen] == expected == second
    assert all(p.steps == steps and p.history is run.history for p in run.seen)
    assert all(math.isfinite(p.seconds_left) and p.seconds_left >= 0 for p in run.seen)
    assert run.seen[-1].seconds_left == 0


def test_the_time_left_is_the_pace_of_this_call_times_the_steps_to_do(monkeypatch):
    ticks = itertools.count(100.0, 0.5)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(ticks))
    run = Run()
    run.history.update(d_loss=[0.0] * 10, g_loss=[0.0] * 10)
    run.step.assign(10)
    run.train(30, every=5)
    # The clock is read twice after step 11 and once after each later one: 0.5 s for each read.
    left = [p.seconds_left for p in run.seen]
    assert left == pytest.approx([2.5 / 4 * 15, 5 / 9 * 10, 7.5 / 14 * 5, 0])


def test_a_second_call_goes_on_where_the_first_ended():
    run = Run()
    run.train(4)
    run.train(10)
    assert run.starts == [0, 4]
    assert run.served == [(k, k) for k in range(10)]
    assert run.history["d_loss"] == [10 * k for k in range(10)]
    assert [p.step for p in run.seen] == [3, 4, 6, 9, 10]


def test_a_finished_run_only_calls_its_callbacks():
    run = Run()
    run.train(4)
    before = {name: list(values) for name, values in run.history.items()}
    assert run.train(4) is run.history
    assert run.history == before and len(run.served) == 4 and run.starts == [0]
    assert [p.step for p in run.seen] == [3, 4, 4]
    assert run.seen[-1] == training.Progress(4, 4, run.history, 0.0)


def test_a_run_beyond_its_end_and_a_period_below_one_are_refused():
    run = Run(start=5)
    with pytest.raises(ValueError, match="step 5 .*steps=4"):
        run.train(4)
    with pytest.raises(ValueError, match="every=0"):
        run.train(9, every=0)
    assert int(run.step) == 5 and not (run.history or run.served or run.starts or run.seen)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_the_run_and_is_named(value):
    run = Run(broken={5: tf.constant(value)})  # while 5 steps are done: step 6
    with pytest.raises(FloatingPointError, match=rf"step 6.*'g_loss': {value}") as error:
        run.train(9)
    assert "d_loss" not in str(error.value)
    assert run.history == {"d_loss": [0, 10, 20, 30, 40], "g_loss": [0, 1, 2, 3, 4]}
    assert int(run.step) == 5
    assert [p.step for p in run.seen] == [3]  # step 6 would have been the next


class Terminal(StringIO):
    """An error stream that says whether it is a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_the_bar_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    for terminal in (True, False):
        stream = Terminal(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        run = Run()
        run.train(4)
        run.train(4)  # finished: nothing to show
        drawn = stream.getvalue()
        if terminal:
            assert "4/4" in drawn and "step/s" in drawn
        else:
            assert drawn == ""
    assert capsys.readouterr().out == ""


def test_a_resumed_bar_starts_where_the_run_stands(monkeypatch):
    stream = Terminal(True)
    monkeypatch.setattr(sys, "stderr", stream)
    run = Run(start=6)
    run.history.update(d_loss=[0.0] * 6, g_loss=[0.0] * 6)
    run.train(8)
    assert "6/8" in stream.getvalue() and "8/8" in stream.getvalue()
    assert "0/8" not in stream.getvalue()


def test_a_real_step_and_a_real_run_fit_together():
    discriminator, generator = pair()
    train_step = make_step(discriminator, generator)
    step, history = step_at(0), {}

    def make_batches(start):
        return (real_batch(number) for number in itertools.count(start))

    for steps in (3, 5):
        training.train(train_step, make_batches, steps=steps, step=step, history=history)
    assert {name: len(values) for name, values in history.items()} == {
        "d_loss": 5,
        "g_loss": 5,
        "d_real": 5,
        "d_fake": 5,
    }
    assert train_step.experimental_get_tracing_count() == 1
    # Interrupted or not: the same steps.
    keras.utils.set_random_seed(1)
    at_once = training.train(make_step(*pair()), make_batches, steps=5, step=step_at(0), history={})
    assert at_once == history


# Several steps per call.

IMAGES = np.random.default_rng(3).uniform(-1, 1, (20, *IMAGE_SHAPE)).astype(np.float32)


def dataset(start):
    return data.batches(IMAGES, BATCH, seed=0, start=start)


def dropout_pair():
    """Batch normalization in G, Dropout in D: statistics and a seed state besides the weights."""

    def leaky_dropout(x):
        return layers.Dropout(0.3)(networks.leaky_relu(x))

    discriminator = networks.mlp_discriminator(IMAGE_SHAPE, widths=(6,), after_dense=leaky_dropout)
    generator = networks.mlp_generator(
        LATENT_DIM, IMAGE_SHAPE, widths=(5,), after_dense=networks.bn_relu
    )
    return discriminator, generator


def real_run(stops, averaged=False, **settings):
    """A run of real steps that ends at each of stops in turn: every number of its end."""
    keras.utils.set_random_seed(1)
    models = dropout_pair()
    optimizers = [keras.optimizers.Adam(1e-2) for _ in range(2)]
    train_step = make_step(*models, d_optimizer=optimizers[0], g_optimizer=optimizers[1])
    if averaged:
        average = runtime.in_float32(models[1])
        train_step = training.with_average(train_step, models[1], average)
        models += (average,)
    step, history, seen = step_at(0), {}, []

    def callback(progress):
        weight = models[1].weights[0].numpy()
        seen.append((progress.step, len(history["d_loss"]), int(step), weight))

    for steps in stops:
        training.train(
            train_step,
            dataset,
            steps=steps,
            step=step,
            history=history,
            callbacks=[callback],
            **settings,
        )
    variables = [v.numpy() for owner in (*models, *optimizers) for v in owner.variables]
    return history, variables, seen, train_step


@pytest.fixture(scope="module")
def one_at_a_time():
    return real_run([11], averaged=True, every=4)


@pytest.mark.parametrize(
    "per_call, stops", [(2, [11]), (4, [11]), (3, [5, 11]), (100, [11]), (100, [1, 3, 11])]
)
def test_several_steps_per_call_give_the_same_bits(one_at_a_time, per_call, stops):
    history, variables, seen, train_step = real_run(
        stops, averaged=True, every=4, per_call=per_call
    )
    expected_history, expected, expected_seen, _ = one_at_a_time
    assert history == expected_history and len(history["d_loss"]) == 11
    assert_equal(variables, expected)
    calls = {s: (length, counter, weight) for s, length, counter, weight in seen}
    assert list(calls) == sorted({4, 8, 11, *stops})
    for s, length, counter, weight in expected_seen:
        assert calls[s][:2] == (length, counter) == (s, s)
        np.testing.assert_array_equal(calls[s][2], weight)
    assert train_step.experimental_get_tracing_count() == 1


def test_the_comparison_tells_runs_apart(one_at_a_time):
    other = real_run([12], averaged=True, every=4, per_call=4)
    assert other[0] != one_at_a_time[0]
    differ = [not np.array_equal(x, y) for x, y in zip(other[1], one_at_a_time[1], strict=True)]
    assert sum(differ) > 10


@pytest.mark.parametrize("per_call", [1, 2, 5, 50])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_value_stops_at_its_step_whatever_per_call(per_call, value):
    step, weight, history, seen = step_at(0), tf.Variable(0.0), {}, []

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    with pytest.raises(FloatingPointError, match=rf"step 7: \{{'g_loss': {value}\}}"):
        training.train(
            train_step,
            dataset,
            steps=20,
            step=step,
            history=history,
            callbacks=[lambda p: seen.append(p.step)],
            every=4,
            per_call=per_call,
        )
    assert history == {"d_loss": [0, 1, 2, 3, 4, 5], "g_loss": [1] * 6}
    assert (int(step), float(weight), seen) == (6, 7.0, [4])  # the broken step itself was taken


def test_several_steps_per_call_need_a_dataset():
    run = Run()
    with pytest.raises(TypeError, match=r"tf.data.Dataset, not .*count"):
        run.train(4, per_call=2)
    assert int(run.step) == 0 and not run.history
    with pytest.raises(ValueError, match="per_call=0"):
        run.train(4, per_call=0)


# The average of the generator's weights.


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])
def test_the_average_moves_as_its_formula_says(decay):
    discriminator, generator = dropout_pair()
    average = runtime.in_float32(generator)
    assert_equal(average.get_weights(), generator.get_weights())
    expected = [w.astype(np.float64) for w in average.get_weights()]
    plain = make_step(discriminator, generator, 0.5, 0.5)
    train_step = training.with_average(plain, generator, average, decay=decay)
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


def test_averaging_leaves_the_run_as_it_is():
    history, variables, *_ = real_run([5])
    averaged_history, averaged, *_ = real_run([5], averaged=True)
    assert history == averaged_history
    count = len(real_run([1])[1])
    models = sum(len(model.variables) for model in dropout_pair())
    assert count == len(variables)
    assert_equal(variables[:models], averaged[:models])


def test_an_average_of_another_shape_and_an_impossible_decay_are_refused():
    discriminator, generator = pair()
    train_step = make_step(discriminator, generator)
    narrower = networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(4,))
    deeper = networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(5, 5))
    for average in (narrower, deeper):
        with pytest.raises(ValueError, match="a copy of the generator"):
            training.with_average(train_step, generator, average)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            training.with_average(train_step, generator, pair()[1], decay=decay)
