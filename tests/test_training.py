"""One step against its definition, one run against its promises."""

import functools
import itertools
import math
import signal
import sys
from io import StringIO

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils import data, latents, losses, networks, runtime, training
from ganutils import layers as our_layers

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
    discriminator, generator, d_rate=0.1, g_rate=0.1, *, factory=training.make_train_step, **changes
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


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_ctrl_c_ends_the_run_after_the_step_at_hand(number, capsys):
    run = Run()
    take, seen = run.train_step, []

    def pressed_step(real, step):
        if int(step) + 1 == number:
            signal.raise_signal(signal.SIGINT)
        return take(real, step)

    run.train_step = pressed_step
    assert run.train(9) is run.history
    assert int(run.step) == number == len(run.history["d_loss"]) == len(run.history["g_loss"])
    # Callbacks see the end once, even where it is one of their steps anyway.
    seen = [p.step for p in run.seen]
    assert seen == [k for k in (3,) if k < number] + [number]
    assert run.seen[-1].steps == 9 and run.seen[-1].seconds_left >= 0
    assert "Run the same once more" in capsys.readouterr().out

    run.train_step = take
    run.train(9)
    assert run.history["d_loss"] == [10 * k for k in range(9)]
    assert run.served == [(k, k) for k in range(9)]


def test_ctrl_c_in_a_callback_waits_for_the_callback():
    run, ended = Run(), []

    def slow(progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)
        ended.append(progress.step)

    run.train(9, callbacks=[slow])
    assert ended == [3, 4]  # the press is noticed after the next step


def test_ctrl_c_twice_interrupts_at_once():
    run = Run()

    def impatient(real, step):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one should have interrupted")

    run.train_step = impatient
    with pytest.raises(KeyboardInterrupt):
        run.train(9)
    assert int(run.step) == 0 and not run.seen
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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


# A step with further terms, and with several updates of D. Networks on points of the plane.

POINTS = 12


def points(number=0):
    values = np.random.default_rng(number).normal(size=(POINTS, 2))
    return tf.constant(values, tf.float32)


def point_pair(d=None, g=None):
    """A discriminator and a generator of points; d and g are further arguments of theirs."""
    discriminator = networks.point_network(2, 1, **{"widths": (6, 5)} | (d or {}))
    return discriminator, networks.point_network(LATENT_DIM, 2, **{"widths": (5, 4)} | (g or {}))


regularized = functools.partial(make_step, factory=training.make_regularized_step)


def floats(values):
    return {name: float(value) for name, value in values.items()}


def test_without_terms_it_is_the_plain_step_bit_for_bit():
    """Adam's slots, moving statistics and Dropout's seeds included."""
    ends = []
    for make in (training.make_train_step, training.make_regularized_step):
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
        "penalty": lambda r, f, n, d, g: losses.gradient_penalty(d, r, f, seed=2, step=n),
        "r1": lambda r, f, n, d, g: losses.r1_penalty(d, r),
    },
    "g_terms": {
        "decay": lambda r, f, n, d, g: tf.cast(n, tf.float32) * sum_of_squares(g),
        "samples": lambda r, f, n, d, g: tf.reduce_mean(tf.square(f - 2 * r)),
        "matching": lambda r, f, n, d, g: losses.feature_matching(d, r, f),
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
    return layers.ReLU()(our_layers.VirtualBatchNormalization(4)(x))


def with_reference(z):
    return our_layers.WithReference(np.random.default_rng(9).normal(size=(4, LATENT_DIM)))(z)


# What differs from the plain step; the terms are made from both networks.
VARIANTS = {
    "smoothed": {"objective": (losses.smoothed_discriminator_loss, losses.generator_loss)},
    "least squares": {"objective": losses.least_squares},
    "hinge, spectral": {
        "objective": losses.hinge,
        "d": {"dense": lambda units: our_layers.SpectralNormalization(layers.Dense(units))},
    },
    "Wasserstein, clipped": {
        "objective": losses.wasserstein,
        "constrain": functools.partial(losses.clip_weights, limit=0.3),
        "d_steps": 2,
    },
    "Wasserstein, penalty": {
        "objective": losses.wasserstein,
        "d_terms": lambda d, g: [
            lambda real, fake, step: losses.gradient_penalty(d, real, fake, seed=2, step=step)
        ],
        "d_steps": 3,
    },
    "R1": {"d_terms": lambda d, g: [lambda real, fake, step: losses.r1_penalty(d, real)]},
    "feature matching": {
        "objective": (losses.discriminator_loss, no_loss),
        "g_terms": lambda d, g: [
            functools.partial(
                lambda f, real, fake, step: losses.feature_matching(f, real, fake), first_hidden(d)
            )
        ],
    },
    "historical average": {
        "d_terms": lambda d, g: [history_of(d)],
        "g_terms": lambda d, g: [history_of(g)],
    },
    "minibatch": {"d": {"last": lambda x: our_layers.MinibatchDiscrimination(3, 2)(x)}},
    "virtual batch norm": {
        "g": {
            "first": with_reference,
            "after_dense": virtual_bn_relu,
            "last": lambda x: our_layers.DropReference(4)(x),
        }
    },
    "packed": {"d": {"first": lambda x: our_layers.Pack(2)(x)}},
}


def history_of(model):
    average = losses.HistoricalAverage(model.trainable_variables)
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
    losses.clip_weights(models[0].trainable_variables, 0.3)  # the limit of one variant
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

    clip = {"constrain": lambda variables: losses.clip_weights(variables, limit)}
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


# Many steps as one program, real samples drawn inside.


def wave(count, size, *, seed, step):
    """Latents or samples that spread over the plane and owe nothing to random numbers."""
    angles = tf.range(count * size, dtype=tf.float32) + 0.7 * tf.cast(step, tf.float32) + seed
    return tf.reshape(1.5 * tf.sin(angles * angles / 5), (count, size))


class DrawnRun:
    """A step of real networks with a draw of its samples, and all that the two change."""

    def __init__(self, draw, start=0, remedies=False):
        keras.utils.set_random_seed(1)
        optimizers = [keras.optimizers.SGD(0.05, momentum=0.5) for _ in range(2)]
        own = {"d_optimizer": optimizers[0], "g_optimizer": optimizers[1]}
        self.draw, self.step, self.traces = draw, step_at(start), 0
        if not remedies:
            self.models = point_pair()
            clip = functools.partial(losses.clip_weights, limit=0.5)
            self.train_step = regularized(*self.models, **own, d_steps=2, constrain=clip)
            self.owners = [*self.models, *optimizers]
            return
        short = {"widths": (6,)}  # XLA takes its time
        virtual = VARIANTS["virtual batch norm"]["g"] | short
        spectral = VARIANTS["hinge, spectral"]["d"] | VARIANTS["packed"]["d"] | short
        self.models = point_pair(spectral, virtual)
        average = point_pair(g=virtual)[1]
        average.set_weights(self.models[1].get_weights())
        history = losses.HistoricalAverage(self.models[1].trainable_variables)
        penalty = VARIANTS["R1"]["d_terms"](*self.models)
        terms = {"d_terms": penalty, "g_terms": [lambda real, fake, step: history(step)]}
        train_step = regularized(*self.models, **own, **terms)
        self.train_step = training.with_average(train_step, self.models[1], average)
        means = tf.Module()
        means.means = history.means
        self.owners = [*self.models, average, *optimizers, means]

    def count_draw(self, step):
        self.traces += 1
        return self.draw(step)

    def loop(self):
        return training.make_drawn_loop(self.train_step, self.count_draw, step=self.step)

    def one_by_one(self, count, jit_compile):
        """The same steps from Python, each compiled by itself."""

        @tf.function(jit_compile=jit_compile)
        def one(number):
            return self.train_step(self.draw(number), number)

        values = []
        for _ in range(count):
            values.append(floats(one(tf.identity(self.step))))
            self.step.assign_add(1)
        return {name: [row[name] for row in values] for name in values[0]}

    def numbers(self):
        return [x for owner in self.owners for x in weights(owner)]


def ring(step):
    return data.ring_of_gaussians(POINTS, seed=3, step=step)


def test_the_drawn_loop_takes_the_steps_that_python_would_take():
    """With several remedies in one step, so that XLA compiles them, too."""
    looped, plain = (DrawnRun(ring, start=2, remedies=True) for _ in range(2))
    start = plain.numbers()
    assert_equal(looped.numbers(), start)
    values, expected = looped.loop()(3), plain.one_by_one(3, jit_compile=True)
    assert list(values) == list(expected) == ["d_loss", "g_loss", "d_real", "d_fake"]
    for name, column in values.items():
        assert column == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert len(set(column)) == 3 and {type(x) for x in column} == {float}
    assert_close(looped.numbers(), plain.numbers(), rtol=1e-4, atol=1e-5)
    assert int(looped.step) == int(plain.step) == 5
    moved = [np.abs(x - y).max() for x, y in zip(plain.numbers(), start, strict=True) if x.ndim > 1]
    assert min(moved) > 1e-4


@pytest.fixture(scope="module")
def four_steps():
    """Four steps in one call."""
    run = DrawnRun(ring)
    return run.loop()(4), run.numbers(), int(run.step)


def test_two_calls_in_a_row_are_one_call_of_the_sum(four_steps):
    values, numbers, step = four_steps
    run = DrawnRun(ring)
    take = run.loop()
    first = take(2)
    assert int(run.step) == 2
    traces = run.traces
    second = take(2)
    assert run.traces == traces  # nothing was traced again
    assert {name: first[name] + second[name] for name in first} == values
    assert_equal(run.numbers(), numbers)
    assert int(run.step) == step == 4


def test_the_drawn_loop_agrees_with_steps_that_xla_never_saw(monkeypatch):
    """XLA has random numbers of its own, so neither latents nor samples may be random here."""
    monkeypatch.setattr(training, "sample_latents", wave)
    looped, plain = (DrawnRun(lambda step: wave(POINTS, 2, seed=1, step=step)) for _ in range(2))
    values, expected = looped.loop()(4), plain.one_by_one(4, jit_compile=False)
    for name, column in values.items():
        assert column == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert len(set(column)) == 4
    assert_close(looped.numbers(), plain.numbers(), rtol=1e-4, atol=1e-5)
    assert int(looped.step) == int(plain.step) == 4


def test_a_resumed_counter_draws_the_samples_of_its_steps():
    step, total = step_at(5), tf.Variable(0.0)

    def train_step(real, number):
        total.assign_add(tf.reduce_sum(real))
        return {"real": real[1, 0], "number": number, "total": total.read_value()}

    take = training.make_drawn_loop(
        train_step, lambda now: tf.fill((3, 2), 10.0 * tf.cast(now, tf.float32)), step=step
    )
    assert take(3) == {"real": [50, 60, 70], "number": [5, 6, 7], "total": [300, 660, 1080]}
    assert take(1) == {"real": [80], "number": [8], "total": [1560]}
    assert int(step) == 9 and type(take(1)["number"][0]) is float
    step.assign(0)
    assert take(3)["real"] == [0, 10, 20]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_value_stops_the_drawn_loop_at_its_step(value):
    step, weight = step_at(0), tf.Variable(0.0)

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    take = training.make_drawn_loop(train_step, lambda now: tf.zeros((2, 2)), step=step)
    assert take(4) == {"d_loss": [0, 1, 2, 3], "g_loss": [1] * 4}
    with pytest.raises(FloatingPointError, match=rf"step 7: .*'g_loss': {value}\}}"):
        take(5)
    assert (int(step), float(weight)) == (6, 7.0)  # the broken step itself was taken
    step.assign(7)
    assert take(4)["d_loss"] == [7, 8, 9, 10]  # the loop is still good
