"""The benchmark scripts: the systems do what their programs say; the clock, the files, refusals."""

import contextlib
import io
import json
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import compare_systems
import keras
import mode_collapse
import numpy as np
import profile_step
import pytest
import step_time
import systems
import tensorflow as tf
import time_to_quality
from keras import layers

from ganutils import checkpoints, classifier, data, latents, losses, metrics, training
from ganutils.stabilizers import SpectralNormalization

LOG2 = math.log(2)


def values_of(variables):
    return [v.numpy() for v in variables]


def moved(variables, before):
    return [not np.array_equal(v.numpy(), x) for v, x in zip(variables, before, strict=True)]


def batch(number, count=4):
    images = np.random.default_rng(number).uniform(-1, 1, (count, *systems.MNIST))
    return tf.constant(images, tf.float32)


# The systems.


def everything(run):
    """All variables of a run, dropout's seeds and the optimizers' moments included."""
    models = run.discriminator, run.generator, run.sampler
    return [v for part in (*models, run.d_optimizer, run.g_optimizer) for v in part.variables]


def three_steps(run, *, count=4):
    """A step of D alone, one of G alone, one of both: what each moved, what each reported."""
    d_vars, g_vars = run.discriminator.trainable_variables, run.generator.trainable_variables
    players = [(x, float(x.learning_rate)) for x in (run.d_optimizer, run.g_optimizer)]
    step, moves, reported = tf.Variable(0, dtype=tf.int64), [], []
    for number, still in enumerate((1, 0, None)):
        before = values_of(d_vars), values_of(g_vars)
        for player, (optimizer, rate) in enumerate(players):
            optimizer.learning_rate = 0.0 if player == still else rate
            for slot in optimizer.variables[2:] if player == still else ():
                slot.assign(tf.zeros_like(slot))  # momentum would go on by itself
        step.assign(number)
        values = run.train_step(batch(number, count), step)
        reported.append({k: float(v) for k, v in values.items()})
        moves.append((moved(d_vars, before[0]), moved(g_vars, before[1])))
    return moves, reported


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_each_system_trains_as_it_should(name):
    policy = keras.config.dtype_policy().name
    run = systems.start(systems.SYSTEMS[name], seed=3)
    assert keras.config.dtype_policy().name == policy
    moves, reported = three_steps(run)
    (d_alone, g_still), (d_still, g_alone), both = moves
    assert all(d_alone) and not any(g_still)
    assert all(g_alone) and not any(d_still)
    assert all(map(all, both))
    for values in reported:
        assert list(values) == ["d_loss", "g_loss", "d_real", "d_fake"]
        assert all(map(math.isfinite, values.values()))
        assert 0 < values["d_real"] < 1 and 0 < values["d_fake"] < 1
    samples = systems.sample(run, 6, at_once=4)
    assert samples.shape == (6, 28, 28, 1) and samples.dtype == np.float32
    assert -1 <= samples.min() < samples.max() <= 1
    assert len({image.tobytes() for image in samples}) == 6

    # The same seed again: the same start, and from there the same bytes.
    end = values_of(everything(run))
    again = systems.start(systems.SYSTEMS[name], seed=3)
    for variable, first in zip(everything(run), everything(again), strict=True):
        variable.assign(first)
    assert three_steps(run) == (moves, reported)
    np.testing.assert_array_equal(systems.sample(run, 6, at_once=4), samples)
    assert [x.tobytes() for x in values_of(everything(run))] == [x.tobytes() for x in end]
    assert run.train_step.experimental_get_tracing_count() == 1


def test_another_seed_gives_another_run():
    starts = [systems.start(systems.SYSTEMS["S5"], seed=seed) for seed in (0, 1)]
    kernels = [run.generator.trainable_variables[0].numpy() for run in starts]
    assert not np.isclose(*kernels).all()
    assert not np.isclose(*(systems.sample(run, 3) for run in starts)).all()


def test_settings_are_those_of_the_programs():
    found = {}
    for name, system in systems.SYSTEMS.items():
        optimizer = system.make_optimizer()
        assert optimizer is not system.make_optimizer()
        kind = type(optimizer).__name__
        momenta = ("beta_1", "beta_2") if kind == "Adam" else ("momentum", "nesterov")
        rate = round(float(optimizer.learning_rate), 7)
        moments = [getattr(optimizer, name) for name in momenta]
        found[name] = (kind, rate, *moments, system.batch_size, system.latent_dim)
        assert system.make_generator().input_shape == (None, system.latent_dim)
    del found["course"]
    assert found == {
        "S1": ("Adam", 1e-4, 0.9, 0.999, 256, 100),
        "S2": ("Adam", 2e-4, 0.5, 0.999, 32, 100),
        "S3": ("SGD", 1e-3, 0.9, True, 128, 100),
        "S4": ("Adam", 2e-4, 0.5, 0.999, 128, 100),
        "S5": ("Adam", 2e-4, 0.5, 0.999, 100, 64),
    }


def test_uniform_latents():
    z = systems.uniform_latents(500, 100, seed=1, step=tf.constant(2, tf.int64)).numpy()
    assert z.shape == (500, 100) and -1 <= z.min() < -0.99 and 0.99 < z.max() < 1
    n = z.size
    assert abs(z.mean()) < 5 / math.sqrt(3 * n)
    assert abs(z.var() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    np.testing.assert_array_equal(z, systems.uniform_latents(500, 100, seed=1, step=2))
    for seed, step in ((1, 3), (2, 2)):
        other = systems.uniform_latents(500, 100, seed=seed, step=step).numpy()
        assert not np.isclose(z, other).all()


def linear_pair():
    """One weight each: G(z) = g z over one pixel, D(x) = d x + b."""
    z, image = keras.Input((1,)), keras.Input((1, 1, 1))
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    generator = keras.Model(z, layers.Reshape((1, 1, 1))(dense(z)))
    logit = layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.5))
    return keras.Model(image, logit(layers.Flatten()(image))), generator


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


REAL = np.float32([1.5, -0.5, 2.0])


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize("show", [systems.apart, systems.in_turn, systems.together])
def test_an_alternating_step_by_hand(show, predicts):
    """Plain gradient descent on two linear networks, with the derivatives written out."""
    rate, number, seed = 0.7, 4, 9
    discriminator, generator = linear_pair()
    train_step = systems.make_alternating_step(
        discriminator,
        generator,
        d_optimizer=keras.optimizers.SGD(rate),
        g_optimizer=keras.optimizers.SGD(rate),
        latent_dim=1,
        seed=seed,
        show=show,
        predicts=predicts,
    )
    values = train_step(REAL.reshape(3, 1, 1, 1), tf.constant(number, tf.int64))

    shown, z = (
        latents.sample_latents(3, 1, seed=seed, step=k).numpy()[:, 0].astype(float)
        for k in (2 * number, 2 * number + 1)
    )
    if not predicts:
        shown = z
    d, b, g = 0.5, 0.0, 1.0
    real, fake = REAL.astype(float), g * shown
    logits = {}

    def learn(parts, factor):
        """One step along the gradient of factor * (mean cross-entropy of each part, summed)."""
        nonlocal d, b
        slopes = {}
        for name, x, label in parts:
            logits[name] = d * x + b
            slopes[name] = sigmoid(logits[name]) - label
        d_slope = sum((slopes[name] * x).mean() for name, x, _ in parts)
        b_slope = sum(slopes[name].mean() for name, _, _ in parts)
        d, b = d - rate * factor * d_slope, b - rate * factor * b_slope

    both = [("real", real, 1.0), ("fake", fake, 0.0)]
    if show is systems.in_turn:
        for part in both:
            learn([part], 1.0)
    else:
        learn(both, 0.5 if show is systems.together else 1.0)
    answers = d * g * z + b  # of the D that has learned
    g_after = g - rate * ((sigmoid(answers) - 1) * d * z).mean()

    kernel, bias = values_of(discriminator.trainable_variables)
    assert kernel.item() == pytest.approx(d, 1e-5) and bias.item() == pytest.approx(b, 1e-5)
    assert generator.trainable_variables[0].numpy().item() == pytest.approx(g_after, 1e-5)
    expected = {
        "d_loss": np.log1p(np.exp(-logits["real"])).mean()
        + np.log1p(np.exp(logits["fake"])).mean(),
        "g_loss": np.log1p(np.exp(-answers)).mean(),
        "d_real": sigmoid(logits["real"]).mean(),
        "d_fake": sigmoid(logits["fake"]).mean(),
    }
    assert {k: float(v) for k, v in values.items()} == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_that_of_keras():
    logits, labels = np.float32([[-3], [0], [2]]), np.float32([[1], [0], [0]])
    keras_value = keras.losses.binary_crossentropy(labels, logits, from_logits=True)
    loss = systems.cross_entropy(tf.constant(logits), tf.constant(labels))
    np.testing.assert_allclose(loss, np.mean(keras_value), rtol=1e-6)
    np.testing.assert_allclose(systems.cross_entropy(tf.zeros((2, 1)), 1.0), LOG2, rtol=1e-6)


def test_batch_norm_shows_what_d_sees_at_once():
    """Real of mean 4 and fake near 0: alone, each batch is normalized to a mean of 0."""
    means = {}
    for show in (systems.in_turn, systems.together):
        image, z = keras.Input((1, 1, 1)), keras.Input((1,))
        x = layers.BatchNormalization()(layers.Flatten()(image))
        ones = layers.Dense(1, kernel_initializer="ones")
        discriminator = keras.Model(image, ones(x))
        thin = layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.01))
        generator = keras.Model(z, layers.Reshape((1, 1, 1))(thin(z)))
        step = systems.make_alternating_step(
            discriminator,
            generator,
            d_optimizer=keras.optimizers.SGD(0.0),
            g_optimizer=keras.optimizers.SGD(0.0),
            latent_dim=1,
            seed=0,
            show=show,
        )
        real = 4 + np.linspace(-1, 1, 50, dtype=np.float32).reshape(-1, 1, 1, 1)
        values = step(real, tf.constant(0, tf.int64))
        means[show] = float(values["d_real"]), float(values["d_fake"])
    alone, at_once = means[systems.in_turn], means[systems.together]
    assert abs(alone[0] - 0.5) < 0.02 and abs(alone[1] - 0.5) < 0.02
    assert at_once[0] > 0.7 and at_once[1] < 0.3  # told apart by the mean alone


def test_samples_are_those_of_inference_in_float32():
    """A sampler of a system without averaging has the generator's weights, whatever it had."""
    run = systems.start(systems.SYSTEMS["S4"], seed=1)
    for weight in run.generator.weights:
        weight.assign(weight + 0.05)
    z = run.system.draw(5, run.system.latent_dim, seed=1, step=-1)
    expected = run.generator(z, training=False)
    np.testing.assert_array_equal(systems.sample(run, 5, at_once=2), expected)
    assert not np.isclose(systems.sample(run, 5), run.generator(z, training=True)).all()


def test_the_course_samples_from_the_average():
    system = systems.SYSTEMS["course"]
    assert system.averaged
    run = systems.start(system, seed=1)
    start = values_of(run.sampler.weights)
    run.train_step(batch(0), tf.Variable(0, dtype=tf.int64))
    for mean, first, now in zip(run.sampler.weights, start, run.generator.weights, strict=True):
        assert mean.dtype == "float32"
        np.testing.assert_allclose(mean, 0.1 * first + 0.9 * now.numpy(), rtol=1e-4, atol=1e-6)
    before = values_of(run.sampler.weights)
    systems.sample(run, 2)
    assert not any(moved(run.sampler.weights, before))
    assert {layer.compute_dtype for layer in run.sampler.layers} == {"float32"}


# The losses.


def test_the_losses_differ_in_nothing_else():
    assert not systems.LOSSES.keys() & (systems.SYSTEMS | systems.STEPS | systems.TRIED).keys()
    titles = [system.title for system in systems.LOSSES.values()]
    assert len(set(titles)) == len(titles)
    for name, system in systems.LOSSES.items():
        own = {"title": system.title, "make_step": system.make_step}
        own["batch_size"] = 64 * system.make_step.keywords["d_steps"]
        if name == "loss-spectral":
            own["make_discriminator"] = systems.spectral_discriminator
        assert system == systems.SYSTEMS["course"]._replace(**own)
    assert systems.with_loss("5 updates of D", losses.hinge, d_steps=5).batch_size == 320
    text = ",".join(systems.LOSSES)
    assert compare_systems.chosen_systems(text) == list(systems.LOSSES)


@pytest.mark.parametrize("name", systems.LOSSES)
def test_each_loss_trains_as_it_should(name):
    run = systems.start(systems.LOSSES[name], seed=3)
    moves, reported = three_steps(run, count=run.system.batch_size // 16)
    (d_alone, g_still), (d_still, g_alone), (d_both, g_both) = moves
    assert not any(d_still) and not any(g_still)
    assert all(d_alone[:-1]) and all(g_alone) and all(d_both[:-1]) and all(g_both)
    # The last bias moves all scores alike, which a difference of means does not see, nor a hinge
    # that no score has passed.
    unseen = losses.wasserstein, losses.hinge
    assert d_alone[-1] == (run.system.make_step.keywords["objective"] not in unseen)
    assert all(math.isfinite(x) for values in reported for x in values.values())
    assert run.train_step.experimental_get_tracing_count() == 1
    samples = systems.sample(run, 3)
    assert -1 <= samples.min() < samples.max() <= 1

    largest = max(abs(v.numpy()).max() for v in run.discriminator.trainable_variables)
    if name == "loss-clipping":
        assert largest == np.float32(systems.CLIP)
    else:
        assert largest > 2 * systems.CLIP


# Derivatives: of D's loss by real and by fake scores, of G's by fake scores; of the penalty by d.
ENTROPY = (lambda x: sigmoid(x) - 1, sigmoid, lambda x: sigmoid(x) - 1)
MARGIN = (lambda x: -1.0 * (x < 1), lambda x: 1.0 * (x > -1), lambda x: -np.ones_like(x))
MEANS = (lambda x: -np.ones_like(x), np.ones_like, lambda x: -np.ones_like(x))
SLOPES = {
    "loss-minimax": ((*ENTROPY[:2], lambda x: -sigmoid(x)), lambda d: 0),
    "loss-nonsat": (ENTROPY, lambda d: 0),
    "loss-squares": ((lambda x: x - 1, lambda x: x, lambda x: x - 1), lambda d: 0),
    "loss-hinge": (MARGIN, lambda d: 0),
    "loss-spectral": (MARGIN, lambda d: 0),
    "loss-clipping": (MEANS, lambda d: 0),
    "loss-penalty": (MEANS, lambda d: 10 * 2 * (d - 1)),
    "loss-r1": (ENTROPY, lambda d: systems.R1_WEIGHT * d),
}


@pytest.mark.parametrize("name", systems.LOSSES)
def test_the_step_of_each_loss_by_hand(name):
    """Plain gradient descent on two linear networks; |grad D| is d, whatever the points are."""
    rate, number, seed = 0.03, 4, 9
    discriminator, generator = linear_pair()
    make_step = systems.LOSSES[name].make_step
    train_step = make_step(
        discriminator,
        generator,
        d_optimizer=keras.optimizers.SGD(rate),
        g_optimizer=keras.optimizers.SGD(rate),
        latent_dim=1,
        seed=seed,
    )
    d_steps = make_step.keywords["d_steps"]
    real = 3 * np.random.default_rng(1).normal(size=(d_steps, 5)).astype(np.float32)
    train_step(real.reshape(-1, 1, 1, 1), tf.constant(number, tf.int64))

    (of_real, of_fake, of_generated), of_penalty = SLOPES[name]
    d, b, g, g_slope = 0.5, 0.0, 1.0, None
    for i, x in enumerate(real.astype(float)):
        z = latents.sample_latents(5, 1, seed=seed, step=d_steps * number + i).numpy()[:, 0]
        fake = g * z.astype(float)
        real_slopes, fake_slopes = of_real(d * x + b), of_fake(d * fake + b)
        g_slope = (of_generated(d * fake + b) * d * z).mean()
        d_slope = (real_slopes * x).mean() + (fake_slopes * fake).mean() + of_penalty(d)
        b_slope = real_slopes.mean() + fake_slopes.mean()
        d, b = d - rate * d_slope, b - rate * b_slope
        if name == "loss-clipping":
            d, b = np.clip([d, b], -systems.CLIP, systems.CLIP)
    kernel, bias = values_of(discriminator.trainable_variables)
    assert kernel.item() == pytest.approx(d, 1e-5) and bias.item() == pytest.approx(b, 1e-5, 1e-7)
    after = generator.trainable_variables[0].numpy().item()
    assert after == pytest.approx(g - rate * g_slope, 1e-5)


def test_the_penalties_look_at_the_right_points():
    def bowl(x, training):
        """|x|^2 / 2, whose gradient at x is x."""
        return tf.reduce_sum(x * x, axis=1, keepdims=True) / 2

    draws = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)
    real, fake = map(tf.constant, draws)
    lengths = np.linalg.norm(draws[0], axis=1)
    found = systems.r1_penalty(3.0)(bowl, real, fake, seed=1, step=2)
    assert float(found) == pytest.approx(3 * np.mean(lengths**2) / 2, rel=1e-5)
    found = systems.gradient_penalty(10.0)(bowl, real, real, seed=1, step=2)
    assert float(found) == pytest.approx(10 * np.mean((lengths - 1) ** 2), rel=1e-5)


def test_the_spectral_discriminator_is_the_course_s_with_kernels_of_norm_1():
    plain, spectral = systems.COURSE.make_discriminator(), systems.spectral_discriminator()
    weights = []
    for old, new in zip(plain.layers, spectral.layers, strict=True):
        assert isinstance(new, SpectralNormalization) == hasattr(old, "kernel")
        inner = getattr(new, "layer", new)
        assert type(inner) is type(old) and inner.compute_dtype == old.compute_dtype
        if inner is not new:
            kernel, bias = values_of(inner.trainable_variables)
            assert kernel.shape == old.kernel.shape
            _, sigmas, rows = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))
            new.u.assign(rows[0])  # where power iteration ends
            weights += [kernel / sigmas[0], bias]
    assert len(weights) == len(plain.trainable_variables) == len(spectral.trainable_variables)
    plain.set_weights(weights)
    np.testing.assert_allclose(spectral(batch(1)), plain(batch(1)), rtol=1e-3, atol=1e-5)


# The clock.


class Clock:
    """`time.perf_counter` under the test's control."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time_to_quality.time, "perf_counter", lambda: self.now)


def test_the_clock_stands_still_while_reporting_and_then_stops(monkeypatch):
    clock, seen = Clock(monkeypatch), []

    def report(seconds, progress):
        seen.append((seconds, progress))
        clock.now += 1000

    watch = time_to_quality.Watch([2, 2.5, 5, 7], report)
    with pytest.raises(time_to_quality.TimeIsUp):
        for step in range(1, 20):
            clock.now += 1
            watch(step)
    # Two marks passed at once are one report; the last mark ends the training.
    assert seen == [(2, 2), (3, 3), (5, 5), (7, 7)]
    assert watch.seconds == 7


def test_marks_passed_at_once_are_reported_once(monkeypatch):
    clock, seen = Clock(monkeypatch), []
    watch = time_to_quality.Watch([1, 2, 3, 9], lambda *told: seen.append(told))
    for step in (4, 8):
        clock.now += 4
        watch(step)
    assert seen == [(4, 4)]
    clock.now += 4
    with pytest.raises(time_to_quality.TimeIsUp):
        watch(12)
    assert seen == [(4, 4), (12, 12)]


# Runs of a second, on small data with a small judge.

QUICK = {"steps": 30, "batch_size": 64}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANUTILS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def judge(own_cache):
    return time_to_quality.make_judge("digits", count=1000, **QUICK)


def test_the_judge_has_test_and_training_images(judge):
    test_images, _, _ = data.load_images("digits", split="test")
    images, _, _ = data.load_images("digits")
    assert [len(x) for x in (*judge.real, *judge.held_out)] == [297, 297, 1000, 1000]
    features, _ = classifier.classify(judge.model, images[:1000])
    np.testing.assert_array_equal(judge.held_out[0], features)
    assert judge.frechet(test_images) == pytest.approx(0, abs=1e-3)
    noise = np.random.default_rng(0).uniform(-1, 1, (300, 28, 28, 1)).astype(np.float32)
    assert judge.frechet(noise) > 3 * metrics.frechet_distance(judge.real[0], judge.held_out[0])


@pytest.fixture(scope="module")
def second(own_cache, tmp_path_factory):
    """What the command leaves behind after a second: folder, samples, record, printed lines."""
    folder, printed = tmp_path_factory.mktemp("second"), io.StringIO()
    arguments = "--seconds 1 --system S5 --seed 2 --data digits --count 200 --points 4".split()
    arguments += ["--samples", str(folder / "x.npy"), "--curve", str(folder / "x.json")]
    with contextlib.redirect_stdout(printed):
        time_to_quality.main(arguments, **QUICK)
    record = json.loads((folder / "x.json").read_text())
    return folder, np.load(folder / "x.npy"), record, printed.getvalue().splitlines()


def test_the_command_writes_samples_and_record(second):
    folder, samples, record, printed = second
    assert sorted(path.name for path in folder.iterdir()) == ["x.json", "x.npy"]
    assert samples.shape == (200, 28, 28, 1) and samples.dtype == np.float32
    assert np.isfinite(samples).all() and -1 <= samples.min() < samples.max() <= 1
    assert record["command"].startswith("python tests/benchmarks/time_to_quality.py --seconds 1 ")
    assert record["parameters"] == {"discriminator": 533_505, "generator": 1_477_136}
    assert record["seed"] == 2 and record["data"] == "scikit-learn digits"
    assert record["precision"] == "float32"
    assert record["versions"]["tensorflow"] == tf.__version__
    assert len(printed) == 3 + len(record["curve"]) + 1
    assert printed[-2].split()[1] == str(record["steps"])
    assert printed[-1] == f"200 samples in {folder / 'x.npy'}"


def test_the_curve_ends_with_the_run(second, judge):
    _, samples, record, _ = second
    curve = record["curve"]
    assert 1 <= len(curve) <= 4 and record["seconds"] >= 1
    assert curve[-1]["step"] == record["steps"] > 0
    assert curve[-1]["seconds"] == record["seconds"]
    assert [point["seconds"] for point in curve] == sorted(point["seconds"] for point in curve)
    assert curve[-1]["frechet"] == pytest.approx(judge.frechet(samples), rel=1e-4)
    assert all(point["frechet"] > record["floor"] > 0 for point in curve)


def test_the_clock_only_cuts_off_what_train_does(second):
    """n steps until the time was up are n steps of `train`, taken in other portions."""
    _, samples, record, _ = second
    images, _, _ = data.load_images("digits")
    run = systems.start(systems.SYSTEMS["S5"], seed=2)
    history = training.train(
        run.train_step,
        lambda start: data.batches(images, 100, seed=2, start=start),
        steps=record["steps"],
        step=tf.Variable(0, dtype=tf.int64),
        history={},
    )
    means = {name: np.mean(values[-50:]) for name, values in history.items()}
    assert means == pytest.approx({name: record["curve"][-1][name] for name in means}, rel=1e-3)
    np.testing.assert_allclose(systems.sample(run, 200), samples, atol=1e-3)


def test_steps_go_on_from_the_last_save_to_the_same_samples(own_cache, tmp_path, capsys):
    """Stopped by Ctrl-C and run again: samples, curve and losses are those of a run in one go."""

    def run(name, **changes):
        settings = {
            "--steps": "120",
            "--system": "S5",
            "--data": "digits",
            "--count": "100",
        } | changes
        settings |= {"--saves": tmp_path / name, "--samples": tmp_path / f"{name}.npy"}
        settings |= {"--curve": tmp_path / f"{name}.json", "--points": "3"}
        time_to_quality.main([f"{k}={v}" for k, v in settings.items()], **QUICK)
        return np.load(tmp_path / f"{name}.npy"), json.loads(
            (tmp_path / f"{name}.json").read_text()
        )

    whole, record = run("whole")
    assert [(p["step"], p["seconds"]) for p in record["curve"]] == [
        (50, None),
        (100, None),
        (120, None),
    ]
    assert record["steps"] == 120 and record["seconds"] is None

    saver = checkpoints.saver

    def pressed_saver(manager):
        save = saver(manager)

        def save_and_press(progress):
            save(progress)
            if progress.step == 50:
                signal.raise_signal(signal.SIGINT)

        return save_and_press

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "saver", pressed_saver)
        with pytest.raises(SystemExit, match="At step 70 of 120; the same command goes on"):
            run("stopped")
    assert not (tmp_path / "stopped.npy").exists()
    resumed, resumed_record = run("stopped")
    np.testing.assert_array_equal(resumed, whole)
    assert resumed_record["curve"] == record["curve"]


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    time_to_quality.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        time_to_quality.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [x.name for x in tmp_path.iterdir()] == ["x.json"]


GOOD = {"--seconds": "1", "--samples": "x.npy", "--data": "digits"}
BAD = [
    ({"--system": "S9"}, "invalid choice: 'S9'"),
    ({"--seconds": "0"}, "not above 0"),
    ({"--seconds": "-3"}, "not above 0"),
    ({"--seconds": "nan"}, "not above 0"),
    ({"--seconds": "inf"}, "not above 0 and finite"),
    ({"--samples": "missing/x.npy"}, "does not exist"),
    ({"--samples": "x.png"}, "does not end in .npy"),
    ({"--curve": "missing/x.json"}, "does not exist"),
    ({"--seed": "-1"}, "not in 0"),
    ({"--count": "0"}, "not in 1"),
    ({"--points": "-1"}, "not in 0"),
    ({"--steps": "5"}, "not allowed with argument"),
    ({"--saves": "folder"}, "belong together"),
]


@pytest.mark.parametrize("change, message", BAD, ids=lambda x: str(x))
def test_refusals(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        time_to_quality.main([f"{name}={value}" for name, value in (GOOD | change).items()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_images_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "small.npz"
    x, y = np.zeros((20, 8, 8), np.uint8), np.zeros(20, np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="28x28x1"):
        time_to_quality.measure("S5", seconds=1, source=str(path))


# The comparison.


def small_comparison(folder, **change):
    options = {"--seconds": "0.2", "--seeds": "2", "--systems": "S5", "--count": "1000"}
    options |= {"--data": "digits", "--out": str(folder / "x.json"), "--work": str(folder / "w")}
    arguments = [f"{name}={value}" for name, value in (options | change).items()]
    compare_systems.main(arguments, **QUICK)
    return json.loads((folder / "x.json").read_text())


@pytest.fixture
def in_process(monkeypatch):
    """Trains in this process instead of a child, to save its start; counts the trainings."""
    calls = []

    def run(command):
        assert command[0] == sys.executable and Path(command[1]).name == "time_to_quality.py"
        calls.append(command)
        time_to_quality.main(command[2:])

    monkeypatch.setattr(compare_systems, "run_child", run)
    return calls


def test_a_comparison_goes_on_where_it_was(tmp_path, in_process, monkeypatch, judge):
    code = compare_systems.code_hash(compare_systems.row_files())
    monkeypatch.setattr(compare_systems, "code_hash", lambda paths: code)
    first = small_comparison(tmp_path, **{"--seeds": "1"})
    assert len(in_process) == 1 and [row["seed"] for row in first["rows"]] == [0]
    result = small_comparison(tmp_path)
    assert len(in_process) == 2 and "--seed=1" in in_process[1]
    assert result["rows"][0] == first["rows"][0] and result["floor"] == first["floor"]
    assert [row["seed"] for row in result["rows"]] == [0, 1]
    assert result["rows"][0]["scores"] != result["rows"][1]["scores"]

    row, floor = result["rows"][1], result["floor"]
    assert row["system"] == "S5" and row["seconds"] >= 0.2 and row["steps"] >= 1
    assert list(row["scores"]) == list(floor)
    held_out = metrics.score_samples(judge.real, judge.held_out, held_out=judge.held_out)
    assert {name: floor[name] for name in held_out} == pytest.approx(
        {name: value for name, (value, _) in held_out.items()}, rel=1e-4
    )
    assert row["scores"]["frechet_distance"] > 2 * floor["frechet_distance"]
    assert floor["memorization"] == 1 and row["scores"]["memorization"] > 1  # blur is far from all

    with np.load(tmp_path / "x.npz") as shown:
        assert shown.files == ["S5"]
        assert shown["S5"].shape == (24, 28, 28) and shown["S5"].dtype == np.uint8
    assert not {"samples.npy", "record.json"} & {x.name for x in (tmp_path / "w").iterdir()}

    settings = json.loads((tmp_path / "w" / "S5-0.json").read_text())["settings"]
    assert settings["code"] == code
    assert compare_systems.kept_row("S5", 0, settings, tmp_path / "w")["row"] == first["rows"][0]
    for change in ({"code": "another"}, {"seconds": 9.0}, {"machine": "another"}):
        assert compare_systems.kept_row("S5", 0, settings | change, tmp_path / "w") is None
    assert compare_systems.kept_row("S5", 2, settings, tmp_path / "w") is None


def test_real_images_score_as_their_floor(judge):
    images, _, _ = data.load_images("digits")
    scores = compare_systems.Scorer("digits", count=1000, **QUICK)(images[:1000])
    for name, (score, floor) in scores.items():
        if name != "memorization":
            assert score == floor, name
    assert scores["memorization"][0] < 0.01  # they are training images, each its own neighbor


def test_the_nearest_pair_of_each_batch():
    points = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)
    found = compare_systems.nearest_pairs(points)
    assert len(found) == 2  # the last 50 fill no batch
    for value, part in zip(found, (points[:100], points[100:200]), strict=True):
        pairs = [np.linalg.norm(x - y) for i, x in enumerate(part) for y in part[:i]]
        assert value == pytest.approx(min(pairs), rel=1e-5)


def test_the_code_hash_sees_code_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_systems, "ROOT", tmp_path)
    (tmp_path / "ganutils").mkdir()

    def hash_of(text, room="losses.py"):
        (tmp_path / "ganutils" / room).write_text(text)
        return compare_systems.code_hash(compare_systems.row_files())

    one = hash_of('"""A room."""\n\n\ndef f(x):\n    """Double."""\n    return 2 * x\n')
    assert one == hash_of("def f(x):\n    # twice\n    return 2*x\n")
    assert one == hash_of("def g(x):\n    return x\n", room="figures.py")
    assert one != hash_of("def f(x):\n    return 3 * x\n")


def test_the_table_shows_ranges_and_floor():
    rows = [
        {"system": "S1", "scores": {"a": 2.0, "support": None}},
        {"system": "S1", "scores": {"a": 1.5, "support": 7.0}},
        {"system": "S5", "scores": {"a": 9.0, "support": 0.0}},
    ]
    lines = compare_systems.table(rows, {"a": 0.5, "support": None}).splitlines()
    assert [line.split() for line in lines] == [
        ["S1", "S5", "real"],
        ["a", "1.5", "..", "2", "9", "..", "9", "0.5"],
        ["support", "7", "..", "inf", "0", "..", "0", "inf"],
    ]


def test_unknown_systems_are_refused(capsys, tmp_path):
    for change, message in [
        ({"--systems": "S1,S8"}, "unknown S8"),
        ({"--seeds": "0"}, "not in 1"),
        ({"--out": str(tmp_path / "x.txt")}, "does not end in .json"),
    ]:
        with pytest.raises(SystemExit) as stop:
            small_comparison(tmp_path, **change)
        assert stop.value.code == 2 and message in capsys.readouterr().err


# The profile and the count of operations.


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("discriminator_1/conv2d_1/convolution:_MklNativeFusedConv2D", "convolution, forward"),
        (
            "generator_1/upsample_conv2d_1/conv2d_transpose:Conv2DBackpropInput",
            "convolution, forward",
        ),
        (
            "gradient_tape/generator/conv2d_1/Conv2DBackpropInput:Conv2D",
            "convolution, to the input",
        ),
        ("gradient_tape/d/conv2d/Conv2DBackpropFilter:X", "convolution, to the kernel"),
        ("generator/fused_batch_normalization_1/FusedBatchNormV3:Y", "batch normalization"),
        ("a/b:Unheard", "other"),
        ("ExecutorState::Process", None),
        ("Run", None),
    ],
)
def test_operations_have_their_kind(event, kind):
    assert profile_step.kind_of(event) == kind


def test_the_time_of_an_operation_leaves_out_what_runs_inside_it():
    def event(start, length):
        return SimpleNamespace(offset_ps=start, duration_ps=length)

    outer, inner, innermost, later = event(0, 100), event(10, 50), event(20, 5), event(200, 7)
    line = SimpleNamespace(events=[later, innermost, outer, inner])
    own = {id(e): time for e, time in profile_step.self_times(line)}
    assert [own[id(e)] for e in (outer, inner, innermost, later)] == [50, 45, 5, 7]


@pytest.mark.parametrize("name", ["S1", "S5"])
def test_the_operations_of_a_forward_pass_are_those_that_tensorflow_counts(name):
    system = systems.SYSTEMS[name]
    for model in (system.make_discriminator(), system.make_generator()):
        ours = sum(step_time.layer_flops(layer) for layer in model.layers)
        graph = tf.function(lambda x, model=model: model(x, training=False)).get_concrete_function(
            tf.TensorSpec((1, *model.input_shape[1:]))
        )
        options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        options["output"] = "none"
        counted = tf.compat.v1.profiler.profile(graph.graph, options=options).total_float_ops
        assert ours <= counted <= 1.05 * ours  # activations and biases are left out of ours


# mode_collapse.py


def made_up_rows():
    """Two methods, two seeds, both worlds; the first method covers 3 and 5 modes of the ring."""
    modes = {("plain GAN", "ring"): (3, 5), ("plain GAN", "grid"): (20, 20)}
    modes |= {("R1 penalty", "ring"): (8, 8), ("R1 penalty", "grid"): (25, 24)}
    return [
        {"title": title, "world": world, "seed": seed, "modes": count, "high_quality": 0.97}
        for (title, world), counts in modes.items()
        for seed, count in enumerate(counts)
    ]


def test_the_table_of_modes_shows_mean_error_and_worst():
    lines = mode_collapse.table(made_up_rows()).splitlines()
    assert lines[1].split() == [
        *("plain", "GAN", "4.0", "+-1.0", "3", "97.0", "+-", "0.0"),
        *("20.0", "+-0.0", "20", "97.0", "+-", "0.0"),
    ]
    assert lines[2].split()[2:5] == ["8.0", "+-0.0", "8"]
    assert lines[2].split()[8:11] == ["24.5", "+-0.5", "24"]
    assert mode_collapse.mean_and_error([7]) == (7, 0)


@pytest.mark.parametrize("name", ["clipping"])
def test_a_run_on_the_ring_repeats_and_depends_on_its_seed(name):
    method, world = mode_collapse.METHODS[name], mode_collapse.WORLDS["ring"]
    one, same, other = (
        mode_collapse.run(method, world, seed=seed, updates=100)["coverage"] for seed in (1, 1, 2)
    )
    assert len(one) == mode_collapse.PARTS
    assert one == same
    assert one != other


def test_every_method_differs_from_the_plain_one_in_something():
    plain = mode_collapse.METHODS["plain"]
    changed = {
        name: [k for k, v in method._asdict().items() if v != getattr(plain, k)]
        for name, method in mode_collapse.METHODS.items()
    }
    assert changed.pop("plain") == []
    assert all(set(fields) > {"title"} for fields in changed.values()), changed


def test_updates_that_do_not_divide_are_refused(capsys):
    for arguments in (["--updates", "120"], ["--methods", "plain,none"]):
        with pytest.raises(SystemExit):
            mode_collapse.main(arguments)
    told = capsys.readouterr().err
    assert "no multiple of 50" in told and "unknown {'none'}" in told


def test_saving_some_methods_keeps_the_rows_of_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mode_collapse, "SAVED", tmp_path / "results" / "mode_collapse.json")
    rows = [{"method": name, "modes": 1} for name in ("r1", "plain")]
    mode_collapse.save(rows, "first")
    mode_collapse.save([{"method": "r1", "modes": 2}], "second")
    stored = json.loads(mode_collapse.SAVED.read_text())
    assert [(row["method"], row["modes"]) for row in stored["rows"]] == [("plain", 1), ("r1", 2)]
    assert stored["commands"] == ["first", "second"]
    mode_collapse.save(rows, "third")  # nothing is left of the others
    assert json.loads(mode_collapse.SAVED.read_text())["commands"] == ["third"]
