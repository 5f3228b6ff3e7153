"""The benchmark scripts: the systems do what their programs say; the clock; rows that are kept."""

import record  # isort: skip  # first: it imports TensorFlow without its start-up messages

import ast
import contextlib
import io
import json
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import batch_size
import collapse_cure
import compare_systems
import course
import image_size
import keras
import mode_collapse
import numpy as np
import profile_step
import pytest
import stacked_mnist
import step_time
import systems
import tensorflow as tf
import time_to_quality
import two_modes
from helpers import eagerly, floats, frozen, numbers_of, sigmoid, variables_of
from keras import layers

from ganutils import checkpoints, classifier, data, latents, metrics, training
from ganutils.layers import SpectralNormalization


def moved(before, after):
    return [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]


def batch(number, count=4):
    images = np.random.default_rng(number).uniform(-1, 1, (count, *systems.MNIST))
    return tf.constant(images, tf.float32)


# The systems: one step of each by hand.


def linear_pair():
    """One weight each: G(z) = g z over one pixel, D(x) = d x + b."""
    z, image = keras.Input((1,)), keras.Input((1, 1, 1))
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    generator = keras.Model(z, layers.Reshape((1, 1, 1))(dense(z)))
    logit = layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.5))
    return keras.Model(image, logit(layers.Flatten()(image))), generator


def take_step(make_step, models, real, *, rate, seed, number):
    """One eager step of plain gradient descent: what it reports; d, b and g after it."""
    optimizers = {name: keras.optimizers.SGD(rate) for name in ("d_optimizer", "g_optimizer")}
    with eagerly():
        train_step = make_step(*models, **optimizers, latent_dim=1, seed=seed)
        values = train_step(np.reshape(real, (-1, 1, 1, 1)), tf.constant(number, tf.int64))
    return floats(values), [array.item() for array in numbers_of(*models)]


REAL = np.float32([1.5, -0.5, 2.0])


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize("show", [systems.apart, systems.in_turn, systems.together])
def test_an_alternating_step_by_hand(show, predicts):
    """Plain gradient descent on two linear networks, with the derivatives written out."""
    rate, number, seed = 0.7, 4, 9
    values, weights = take_step(
        lambda *models, **settings: systems.make_alternating_step(
            *models, **settings, show=show, predicts=predicts
        ),
        linear_pair(),
        REAL,
        rate=rate,
        seed=seed,
        number=number,
    )
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
    g -= rate * ((sigmoid(answers) - 1) * d * z).mean()

    assert weights == pytest.approx([d, b, g], 1e-5)
    real_loss = np.log1p(np.exp(-logits["real"])).mean()
    expected = {
        "d_loss": real_loss + np.log1p(np.exp(logits["fake"])).mean(),
        "g_loss": np.log1p(np.exp(-answers)).mean(),
        "d_real": sigmoid(logits["real"]).mean(),
        "d_fake": sigmoid(logits["fake"]).mean(),
    }
    assert values == pytest.approx(expected, rel=1e-5)


# Derivatives: of D's loss by real and by fake scores, of G's by fake scores; of the penalty by d.
ENTROPY = (lambda x: sigmoid(x) - 1, sigmoid, lambda x: sigmoid(x) - 1)
MARGIN = (lambda x: -1.0 * (x < 1), lambda x: 1.0 * (x > -1), lambda x: -np.ones_like(x))
MEANS = (lambda x: -np.ones_like(x), np.ones_like, lambda x: -np.ones_like(x))
LIMIT, WEIGHT = (
    tried[systems.CHOSEN[name]][0]
    for name, tried in (("clipping", systems.CLIPPING), ("penalty", systems.PENALTY))
)
SLOPES = {
    "loss-minimax": ((*ENTROPY[:2], lambda x: -sigmoid(x)), lambda d: 0),
    "loss-nonsat": (ENTROPY, lambda d: 0),
    "loss-squares": ((lambda x: x - 1, lambda x: x, lambda x: x - 1), lambda d: 0),
    "loss-hinge": (MARGIN, lambda d: 0),
    "loss-clipping": (MEANS, lambda d: 0),
    "loss-penalty": (MEANS, lambda d: WEIGHT * 2 * (d - 1)),
    "loss-recipe": (ENTROPY, lambda d: 0),
    "loss-r1": (ENTROPY, lambda d: systems.R1_WEIGHT * d),
}


@pytest.mark.parametrize("name", SLOPES)
def test_the_step_of_each_loss_by_hand(name):
    """Plain gradient descent on two linear networks; |grad D| is d, whatever the points are."""
    rate, number, seed = 0.03, 4, 9
    make_step = systems.LOSSES[name].make_step
    d_steps = make_step.keywords["d_steps"]
    real = 3 * np.random.default_rng(1).normal(size=(d_steps, 5)).astype(np.float32)
    _, weights = take_step(make_step, linear_pair(), real, rate=rate, seed=seed, number=number)

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
            d, b = np.clip([d, b], -LIMIT, LIMIT)
    assert weights == pytest.approx([d, b, g - rate * g_slope], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["clipping", "penalty"])
def test_a_critic_has_an_optimizer_of_its_own(name):
    tried = {"clipping": systems.CLIPPING, "penalty": systems.PENALTY}[name]
    for title, rates in (
        *((f"{name}-{i}", rates) for i, (_, rates) in enumerate(tried)),
        (f"loss-{name}", tried[systems.CHOSEN[name]][1]),
    ):
        system = systems.ALL[title]
        assert system.batch_size == systems.CRITIC_STEPS * systems.PLAIN.batch_size
        run, _ = systems.start(system, seed=1)
        optimizers = run.d_optimizer, run.g_optimizer
        assert [float(x.learning_rate) for x in optimizers] == pytest.approx(rates)
        assert [(x.beta_1, x.beta_2) for x in optimizers] == [(0.0, 0.9)] * 2
    run, _ = systems.start(systems.PLAIN, seed=1)
    assert float(run.d_optimizer.learning_rate) == float(run.g_optimizer.learning_rate)


def test_cross_entropy_is_that_of_keras():
    logits, labels = np.float32([[-3], [0], [2]]), np.float32([[1], [0], [0]])
    keras_value = keras.losses.binary_crossentropy(labels, logits, from_logits=True)
    loss = systems.cross_entropy(tf.constant(logits), tf.constant(labels))
    np.testing.assert_allclose(loss, np.mean(keras_value), rtol=1e-6)
    np.testing.assert_allclose(systems.cross_entropy(tf.zeros((2, 1)), 1.0), math.log(2), rtol=1e-6)


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
        real = 4 + np.linspace(-1, 1, 50, dtype=np.float32).reshape(-1, 1, 1, 1)
        with eagerly():
            step = systems.make_alternating_step(
                discriminator,
                generator,
                d_optimizer=keras.optimizers.SGD(0.0),
                g_optimizer=keras.optimizers.SGD(0.0),
                latent_dim=1,
                seed=0,
                show=show,
            )
            values = step(real, tf.constant(0, tf.int64))
        means[show] = float(values["d_real"]), float(values["d_fake"])
    alone, at_once = means[systems.in_turn], means[systems.together]
    assert abs(alone[0] - 0.5) < 0.02 and abs(alone[1] - 0.5) < 0.02
    assert at_once[0] > 0.7 and at_once[1] < 0.3  # told apart by the mean alone


def test_uniform_latents():
    z = systems.uniform_latents(500, 100, seed=1, step=tf.constant(2, tf.int64)).numpy()
    assert z.shape == (500, 100) and -1 <= z.min() < -0.99 and 0.99 < z.max() < 1
    assert abs(z.mean()) < 5 / math.sqrt(3 * z.size)
    assert abs(z.var() - 1 / 3) < 5 * math.sqrt(4 / 45 / z.size)
    np.testing.assert_array_equal(z, systems.uniform_latents(500, 100, seed=1, step=2))
    for seed, step in ((1, 3), (2, 2)):
        other = systems.uniform_latents(500, 100, seed=seed, step=step).numpy()
        assert not np.isclose(z, other).all()


def test_the_penalties_look_at_the_right_points():
    def bowl(x, training):
        """|x|^2 / 2, whose gradient at x is x."""
        return tf.reduce_sum(x * x, axis=1, keepdims=True) / 2

    draws = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)
    real, fake = map(tf.constant, draws)
    lengths = np.linalg.norm(draws[0], axis=1)
    (r1,) = systems.r1_penalty(3.0)(bowl, None, 1)
    assert float(r1(real, fake, 2)) == pytest.approx(3 * np.mean(lengths**2) / 2, rel=1e-5)
    (penalty,) = systems.gradient_penalty(10.0)(bowl, None, 1)
    assert float(penalty(real, real, 2)) == pytest.approx(
        10 * np.mean((lengths - 1) ** 2), rel=1e-5
    )
    assert float(penalty(real, fake, 2)) != float(penalty(real, fake, 3))


def test_the_spectral_discriminator_is_the_plain_one_with_kernels_of_norm_1():
    plain, spectral = systems.PLAIN.make_discriminator(), systems.spectral_discriminator()
    weights = []
    for old, new in zip(plain.layers, spectral.layers, strict=True):
        assert isinstance(new, SpectralNormalization) == hasattr(old, "kernel")
        inner = getattr(new, "layer", new)
        assert type(inner) is type(old) and inner.compute_dtype == old.compute_dtype
        if inner is not new:
            kernel, bias = (weight.numpy() for weight in inner.trainable_variables)
            assert kernel.shape == old.kernel.shape
            _, sigmas, rows = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))
            new.u.assign(rows[0])  # where power iteration ends
            weights += [kernel / sigmas[0], bias]
    assert len(weights) == len(plain.trainable_variables) == len(spectral.trainable_variables)
    plain.set_weights(weights)
    np.testing.assert_allclose(spectral(batch(1)), plain(batch(1)), rtol=1e-3, atol=1e-5)


def test_samples_are_those_of_inference_in_float32():
    """Without averaging the sampler has the generator's weights, whatever it had."""
    system = systems.SYSTEMS["S4"]
    run, _ = systems.start(system, seed=1)
    for weight in run.generator.weights:
        weight.assign(weight + 0.05)
    z = system.draw(5, system.latent_dim, seed=1, step=-1)
    samples = systems.sample(run, system, 5, seed=1)
    compiled = tf.function(run.generator)  # as `predict` is: oneDNN joins operations in a graph
    np.testing.assert_array_equal(samples, compiled(z, training=False))
    np.testing.assert_allclose(samples, run.generator(z, training=False), atol=1e-6)
    assert not np.isclose(samples, run.generator(z, training=True)).all()
    other, _ = systems.start(system, seed=2)
    assert not np.isclose(samples, systems.sample(other, system, 5, seed=2)).all()


def test_the_course_samples_from_the_average():
    system = systems.SYSTEMS["course"]
    run, train_step = systems.start(system, seed=1)
    start = numbers_of(run.average)
    with eagerly():
        train_step(batch(0), run.step)
    for mean, first, now in zip(run.average.weights, start, run.generator.weights, strict=True):
        assert mean.dtype == "float32"
        np.testing.assert_allclose(mean, 0.1 * first + 0.9 * now.numpy(), rtol=1e-4, atol=1e-6)
    before = numbers_of(run.average)
    systems.sample(run, system, 2, seed=1)
    assert not any(moved(before, numbers_of(run.average)))
    assert {layer.compute_dtype for layer in run.average.layers} == {"float32"}


def three_steps(run, train_step):
    """A step of D alone, one of G alone, one of both: what each moved, what each reported."""
    optimizers = run.d_optimizer, run.g_optimizer
    rates = [float(optimizer.learning_rate) for optimizer in optimizers]
    moves, reported = [], []
    for number, still in enumerate((1, 0, None)):
        before = [np.array(v) for v in (*run.d_variables, *run.g_variables)]
        for player, optimizer in enumerate(optimizers):
            optimizer.learning_rate = 0.0 if player == still else rates[player]
            for slot in optimizer.variables[2:] if player == still else ():
                slot.assign(tf.zeros_like(slot))  # momentum would go on by itself
        run.step.assign(number)
        reported.append(floats(train_step(batch(number, 2), run.step)))
        after = [np.array(v) for v in (*run.d_variables, *run.g_variables)]
        moves.append(moved(before, after))
    split = len(run.d_variables)
    return [(move[:split], move[split:]) for move in moves], reported


HINGED = ("course", "loss-spectral")
TRACED = ("S4", "course")  # the others run eagerly, which takes a fraction of the time


@pytest.mark.slow
@pytest.mark.parametrize("name", [*systems.SYSTEMS, "loss-spectral"])
def test_each_design_trains_as_it_should(name):
    """Each player moves all that is its own and nothing else; the same seed gives the same bits."""
    policy, system = keras.config.dtype_policy().name, systems.ALL[name]
    run, train_step = systems.start(system, seed=3)
    assert keras.config.dtype_policy().name == policy
    mode = contextlib.nullcontext() if name in TRACED else eagerly()
    with mode:
        moves, reported = three_steps(run, train_step)
        end = frozen(run)
        # The same seed again: the same start, and from there the same bits.
        again, _ = systems.start(system, seed=3)
        for variable, first in zip(variables_of(run), variables_of(again), strict=True):
            variable.assign(first)
        assert three_steps(run, train_step) == (moves, reported)
        assert frozen(run) == end
    assert train_step.experimental_get_tracing_count() == (name in TRACED)

    (d_alone, g_still), (d_still, g_alone), (d_both, g_both) = moves
    assert not any(d_still) and not any(g_still) and all(g_alone) and all(g_both)
    # The last bias moves all scores alike, which a hinge that no score has passed does not see.
    assert all(d_alone[:-1]) and all(d_both[:-1]) and d_alone[-1] != (name in HINGED)
    assert all(math.isfinite(x) for values in reported for x in values.values())
    samples = systems.sample(run, system, 6, seed=3)
    assert samples.shape == (6, 28, 28, 1) and samples.dtype == np.float32
    assert -1 <= samples.min() < samples.max() <= 1
    assert len({image.tobytes() for image in samples}) == 6


# The clock.


class Clock:
    """A clock under the test's control."""

    now = 100.0

    def __call__(self):
        return self.now


def test_the_clock_stands_still_while_reporting_and_then_stops():
    clock, seen = Clock(), []

    def report(seconds, progress):
        seen.append((seconds, progress))
        clock.now += 1000

    watch = course.Watch([2, 2.5, 5, 7], report, clock)
    with pytest.raises(course.TimeIsUp):
        for step in range(1, 20):
            clock.now += 1
            watch(step)
    # Two marks passed at once are one report; the last mark ends the training.
    assert seen == [(2, 2), (3, 3), (5, 5), (7, 7)]
    assert watch.seconds == 7


def test_marks_passed_at_once_are_reported_once():
    clock, seen = Clock(), []
    watch = course.Watch([1, 2, 3, 9], lambda *told: seen.append(told), clock)
    for step in (4, 8):
        clock.now += 4
        watch(step)
    assert seen == [(4, 4)]
    clock.now += 4
    with pytest.raises(course.TimeIsUp):
        watch(12)
    assert seen == [(4, 4), (12, 12)]


# Rows that are kept, and what makes them anew.


@pytest.fixture
def measurement(tmp_path):
    """A measure function that notes its calls, and a function that runs its script."""
    script, calls = tmp_path / "x.py", []
    script.write_text("one = 1\n")

    def measure(variant, *, seed, steps, source):
        calls.append((variant, seed))
        drawn = np.random.rand(2, 4, 4, 1) * 2 - 1  # from the global seed
        return {"score": 10 * seed + len(variant)}, {"first": record.as_bytes(drawn)}

    def run(*more):
        arguments = [f"--out={tmp_path / 'x.json'}", f"--work={tmp_path / 'w'}", *more]
        variants = {"script": script, "doc": "", "steps": 7, "arguments": arguments}
        return record.over_seeds(measure, ["a", "bb"], **variants)

    return run, calls, tmp_path


def test_rows_are_made_once_and_gathered(measurement):
    run, calls, folder = measurement
    run("--seeds=1")
    assert calls == [("a", 1), ("bb", 1)]
    result = run("--seeds=0,1")
    assert calls[2:] == [("a", 0), ("bb", 0)]
    rows = [(row["variant"], row["seed"], row["score"]) for row in result["rows"]]
    assert rows == [("a", 0, 1), ("bb", 0, 2), ("a", 1, 11), ("bb", 1, 12)]
    assert result == json.loads((folder / "x.json").read_text())
    assert result["steps"] == 7 and result["data"] == "mnist" and result["machine"]
    with np.load(folder / "x.npz") as pictures:
        assert sorted(pictures) == ["a-0-first", "a-1-first", "bb-0-first", "bb-1-first"]
        np.testing.assert_array_equal(pictures["a-0-first"], pictures["bb-0-first"])
        assert (pictures["a-0-first"] != pictures["a-1-first"]).any()


@pytest.mark.parametrize("change", ["--steps=8", "--data=digits", "code", "damage"])
def test_rows_of_something_else_are_made_anew(measurement, change):
    run, calls, folder = measurement
    run("--seeds=0", "--variants", "a")
    if change == "code":
        (folder / "x.py").write_text("one = 2\n")
    if change == "damage":
        (folder / "w" / "a-0.json").write_text('{"settings": ')
    run("--seeds=0", "--variants", "a", *([change] if change[:2] == "--" else []))
    assert calls == [("a", 0), ("a", 0)]


def test_rows_of_another_machine_are_refused(measurement, monkeypatch):
    run, _, _ = measurement
    run("--seeds=0", "--variants", "a")
    monkeypatch.setattr(record, "about", lambda: {"machine": "another"})
    with pytest.raises(ValueError, match="differ in about"):
        run("--seeds=0")


def test_bytes_are_those_of_the_range():
    values = np.array([-1.5, -1, 0, 1, 2], np.float32)
    np.testing.assert_array_equal(
        record.as_bytes(values.reshape(1, 1, 5, 1)).ravel(), [0, 0, 128, 255, 255]
    )


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Two scripts, what they share, and a package: a function that edits a file of it."""
    monkeypatch.setattr(record, "HERE", tmp_path / "scripts")
    monkeypatch.setattr(record, "ROOT", tmp_path)

    def edit(path, text):
        (tmp_path / path).write_text(text)
        scripts = tmp_path / "scripts"
        return [record.code_hash(scripts / name) for name in ("one.py", "two.py")]

    (tmp_path / "ganutils").mkdir()
    (tmp_path / "scripts").mkdir()
    for path, text in {
        "ganutils/__init__.py": "",
        "ganutils/losses.py": '"""A room."""\n\n\ndef f(x):\n    """Double."""\n    return 2 * x\n',
        "ganutils/figures.py": "",
        "ganutils/networks.py": "from ganutils import losses",
        "scripts/record.py": "from ganutils import figures",
        "scripts/one.py": "import record\nfrom ganutils.networks import losses",
        "scripts/two.py": "import numpy",
    }.items():
        (tmp_path / path).write_text(text)
    return edit


@pytest.mark.parametrize(
    "path, text, changed",
    [
        ("scripts/one.py", "import record, ganutils.networks\nx = 1", [True, False]),
        ("scripts/two.py", "import numpy\nx = 1", [False, True]),
        ("ganutils/losses.py", "def f(x):\n    return 3 * x\n", [True, False]),
        ("ganutils/losses.py", "def f(x):\n    # twice\n    return 2*x\n", [False, False]),
        ("ganutils/figures.py", "x = 1", [False, False]),
        ("scripts/record.py", "x = 1", [False, False]),
    ],
)
def test_an_edit_makes_the_rows_stale_that_depend_on_it_and_no_others(path, text, changed, house):
    before = house("ganutils/figures.py", "")
    after = house(path, text)
    assert [x != y for x, y in zip(before, after, strict=True)] == changed


SCRIPTS = {
    path.stem: ast.parse(path.read_text())
    for path in Path(record.__file__).parent.glob("*.py")
    if "__main__" in path.read_text()
}


def test_no_script_imports_another():
    assert len(SCRIPTS) == 28
    shared = {"many_devices"}  # the program that workers run, and what starts them
    for path in Path(record.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & (set(SCRIPTS) - shared), path
            if isinstance(node, ast.ImportFrom):
                assert node.module not in SCRIPTS, path


def test_a_row_of_the_comparison_depends_on_the_script_that_trains(tmp_path):
    trainer = tmp_path / "trainer.py"
    hashes = []
    for text in ("x = 1", "x = 2"):
        trainer.write_text(text)
        hashes.append(record.code_hash(compare_systems.__file__, trainer))
    assert hashes[0] != hashes[1]
    assert compare_systems.TRAINER == Path(time_to_quality.__file__)


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    record.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        record.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [x.name for x in tmp_path.iterdir()] == ["x.json"]


# Runs of a second, on small data with a small judge.

QUICK = {"features": 64, "steps": 40}  # of the judge that other tests ask for, too


@pytest.fixture
def narrow(monkeypatch):
    """A system of that name, whose step is quickly traced."""
    system = systems.dcgan("narrow", systems.SYSTEMS["S5"], g={"widths": (8,)}, d={"widths": (8,)})
    monkeypatch.setitem(systems.ALL, "narrow", system._replace(per_call=1))


@pytest.fixture(scope="module")
def judge():
    return course.make_judge("digits", count=1000, **QUICK)


@pytest.fixture
def one_judge(monkeypatch, judge):
    """Whoever asks for a judge gets this one."""
    monkeypatch.setattr(course, "make_judge", lambda source, **settings: judge)


@pytest.mark.slow
def test_the_judge_has_not_seen_what_it_compares_with(judge):
    test_images, _, _ = data.load_images("digits", split="test")
    images, labels, _ = data.load_images("digits")
    assert len(images) == 1500 and [len(x) for x in judge.real] == [297, 297]
    model = classifier.digit_classifier(images[:500], labels[:500], **(course.EYE | QUICK))
    ((features, _),) = judge.held_out
    np.testing.assert_array_equal(features, classifier.classify(model, images[500:])[0])
    assert judge.scores(test_images) == pytest.approx(
        {"frechet": 0, "class_divergence": 0}, abs=1e-3
    )
    noise = np.random.default_rng(0).uniform(-1, 1, (300, 28, 28, 1)).astype(np.float32)
    assert judge.scores(noise)["frechet"] > 3 * judge.floors()[0] > 0
    too_many = course.make_judge("digits", count=10_000, **QUICK)
    np.testing.assert_array_equal(too_many.held_out[0][0], features)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """What the command leaves behind after a second: folder, samples, record, printed lines."""
    folder, printed = tmp_path_factory.mktemp("second"), io.StringIO()
    arguments = "--seconds 1 --system S5 --seed 2 --data digits --count 200 --points 4".split()
    arguments += ["--samples", str(folder / "x.npy"), "--curve", str(folder / "x.json")]
    with contextlib.redirect_stdout(printed):
        time_to_quality.main(arguments, **QUICK)
    found = json.loads((folder / "x.json").read_text())
    return folder, np.load(folder / "x.npy"), found, printed.getvalue().splitlines()


@pytest.mark.slow
def test_the_command_writes_samples_and_record(second):
    folder, samples, found, printed = second
    assert sorted(path.name for path in folder.iterdir()) == ["x.json", "x.npy"]
    assert samples.shape == (200, 28, 28, 1) and samples.dtype == np.float32
    assert np.isfinite(samples).all() and -1 <= samples.min() < samples.max() <= 1
    assert found["command"].startswith("python tests/benchmarks/time_to_quality.py --seconds 1 ")
    assert found["parameters"] == {"discriminator": 533_505, "generator": 1_477_136}
    assert found["seed"] == 2 and found["data"] == "scikit-learn digits"
    assert found["precision"] == "float32"
    assert found["versions"]["tensorflow"] == tf.__version__
    assert len(printed) == 3 + len(found["curve"]) + 1
    assert printed[-2].split()[1] == str(found["steps"])
    assert printed[-1] == f"200 samples in {folder / 'x.npy'}"


@pytest.mark.slow
def test_the_curve_ends_with_the_run(second):
    _, samples, found, _ = second
    judge = course.make_judge("digits", count=200, **QUICK)
    curve = found["curve"]
    assert 1 <= len(curve) <= 4 and found["seconds"] >= 1
    assert curve[-1]["step"] == found["steps"] > 0
    assert curve[-1]["seconds"] == found["seconds"]
    assert [point["seconds"] for point in curve] == sorted(point["seconds"] for point in curve)
    assert curve[-1]["frechet"] == pytest.approx(judge.scores(samples)["frechet"], rel=1e-4)
    assert all(point["frechet"] > found["floor"] > 0 for point in curve)


@pytest.mark.slow
def test_the_clock_only_cuts_off_what_train_does(second):
    """n steps until the time was up are n steps of `train`, taken in other portions."""
    _, samples, found, _ = second
    images, _, _ = data.load_images("digits")
    system = systems.SYSTEMS["S5"]
    run, train_step = systems.start(system, seed=2)

    def batches(start):
        return data.batches(images, 100, seed=2, start=start)

    training.train(run, train_step, batches, steps=found["steps"])
    means = {name: np.mean(values[-50:]) for name, values in run.history.items()}
    assert means == pytest.approx({name: found["curve"][-1][name] for name in means}, rel=1e-3)
    np.testing.assert_allclose(systems.sample(run, system, 200, seed=2), samples, atol=1e-3)


@pytest.mark.slow
def test_steps_go_on_to_the_same_samples(narrow, one_judge, tmp_path, monkeypatch, capsys):
    """Stopped by Ctrl-C and run again: samples, curve and losses are those of a run in one go."""
    monkeypatch.setattr(time_to_quality, "EVERY", 4)

    def run(name):
        settings = {"--steps": 12, "--system": "narrow", "--data": "digits", "--count": 100}
        settings |= {"--saves": tmp_path / name, "--samples": tmp_path / f"{name}.npy"}
        settings |= {"--curve": tmp_path / f"{name}.json", "--points": 2}
        time_to_quality.main([f"{k}={v}" for k, v in settings.items()], **QUICK)
        found = json.loads((tmp_path / f"{name}.json").read_text())
        return np.load(tmp_path / f"{name}.npy"), found

    whole, found = run("whole")
    points = [(point["step"], point["seconds"]) for point in found["curve"]]
    assert points == [(4, None), (12, None)]
    assert found["steps"] == 12 and found["seconds"] is None

    saver = checkpoints.saver

    def pressed_saver(*settings, **more):
        save = saver(*settings, **more)

        def save_and_press(progress):
            save(progress)
            if progress.step == 4:
                signal.raise_signal(signal.SIGINT)

        return save_and_press

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "saver", pressed_saver)
        with pytest.raises(SystemExit, match="At step 5 of 12; the same command goes on"):
            run("stopped")
    assert not (tmp_path / "stopped.npy").exists()
    resumed, resumed_found = run("stopped")
    np.testing.assert_array_equal(resumed, whole)
    assert resumed_found["curve"] == found["curve"]


def test_images_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "small.npz"
    x, y = np.zeros((20, 8, 8), np.uint8), np.zeros(20, np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="28x28x1"):
        time_to_quality.measure("S5", seconds=1, source=str(path))


# The comparison.


@pytest.mark.slow
def test_a_comparison_goes_on(narrow, one_judge, judge, tmp_path, monkeypatch, capsys):
    trained = []

    def run_in_this_process(command):
        assert command[0] == sys.executable and Path(command[1]).name == "time_to_quality.py"
        trained.append(command)
        time_to_quality.main(command[2:])

    monkeypatch.setattr(compare_systems, "run_child", run_in_this_process)
    monkeypatch.setattr(record, "code_hash", lambda *scripts: "one")

    def compare(length="seconds", amount=0.2, **change):
        options = {length: amount, "seeds": 2, "systems": "narrow", "count": 1000, "data": "digits"}
        options |= {"out": tmp_path / "x.json", "work": tmp_path / "w"} | change
        compare_systems.main([f"--{name}={value}" for name, value in options.items()], **QUICK)
        return json.loads((tmp_path / "x.json").read_text())

    first = compare(seeds=1)
    assert len(trained) == 1 and [row["seed"] for row in first["rows"]] == [0]
    result = compare()
    assert len(trained) == 2 and "--seed=1" in trained[1]
    assert result["rows"][0] == first["rows"][0] and result["floor"] == first["floor"]
    assert [row["seed"] for row in result["rows"]] == [0, 1]
    assert result["rows"][0]["scores"] != result["rows"][1]["scores"]
    second = compare(seeds=1, first=1)["rows"]
    assert len(trained) == 2 and second == result["rows"][1:]

    row, floor = result["rows"][1], result["floor"]
    assert row["system"] == "narrow" and row["seconds"] >= 0.2 and row["steps"] >= 1
    assert list(row["scores"]) == list(floor)
    held_out = metrics.score_samples(judge.real, judge.held_out[0], held_out=judge.held_out[0])
    assert {name: floor[name] for name in held_out} == pytest.approx(
        {name: value for name, (value, _) in held_out.items()}, rel=1e-4
    )
    assert row["scores"]["frechet_distance"] > 2 * floor["frechet_distance"]
    assert floor["memorization"] == 1 and row["scores"]["memorization"] > 1  # blur is far from all
    with np.load(tmp_path / "x.npz") as shown:
        assert shown.files == ["narrow"]
        assert shown["narrow"].shape == (24, 28, 28) and shown["narrow"].dtype == np.uint8

    (row,) = compare("steps", 3, seeds=1)["rows"]
    assert row["steps"] == 3 and row["seconds"] is None
    assert {x.suffix for x in (tmp_path / "w").iterdir()} == {".json", ".npz"}  # finished rows


@pytest.mark.slow
def test_real_images_score_as_their_floor(one_judge):
    images, _, _ = data.load_images("digits")
    scores = compare_systems.Scorer("digits", count=1000, **QUICK)(images[500:])
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


# Two modes of batch normalization.


def test_each_way_to_draw_uses_its_own_statistics():
    run, train_step = systems.start(two_modes.VARIANTS["course"], seed=1)
    fixed = latents.sample_latents(8, 32, seed=2, step=0)
    draw = two_modes.make_draw(run, fixed)
    train_step(tf.zeros((8, *systems.MNIST)), tf.constant(0, tf.int64))
    before = run.generator.get_weights()
    first, second = draw(), draw()
    for way, images in first.items():  # nothing moves by drawing
        np.testing.assert_array_equal(images, second[way])
    assert not any(moved(before, run.generator.get_weights()))
    alone = {way: two_modes.make_draw(run, fixed[:2])()[way] for way in first}
    same = {way: np.allclose(images, first[way][:2], atol=1e-5) for way, images in alone.items()}
    assert same == {"moving": True, "batch": False, "average": True}
    assert not np.allclose(first["moving"], first["average"], atol=1e-5)


@pytest.mark.slow
def test_the_curves_of_brightness_and_their_swing(monkeypatch):
    monkeypatch.setattr(two_modes, "SETTLED", 16)
    row, _ = two_modes.measure("course", seed=1, steps=24, source="digits")
    curves = row["brightness"]
    assert curves["step"] == [8, 16, 24] and 0 < row["real"] < 1
    for way, swing in row["swing"].items():
        assert swing == pytest.approx(abs(curves[way][1] - curves[way][2]) / 2)


# Larger images.


@pytest.mark.parametrize("case", image_size.CASES)
def test_the_players_of_each_size_fit_its_images(case):
    shape = (case.side, case.side, case.channels)
    discriminator, generator = image_size.new_players(case)
    assert discriminator.input_shape == generator.output_shape == (None, *shape)
    [dense] = [layer for layer in generator.layers if isinstance(layer, layers.Dense)]
    assert dense.units == 64 * (7 if case.side == 28 else 8) ** 2
    assert discriminator.layers[-1].input.shape[1] == dense.units


def test_a_row_of_an_image_size():
    row = image_size.measure(image_size.Case(28, 1, 2), 2)
    weights = [player.count_params() for player in image_size.new_players(image_size.CASES[0])]
    assert row["weights"] == sum(weights)
    assert row["seconds"] > 0 and row["peak"] >= row["start"] > 100


# The toy worlds.


def made_up_rows():
    """Two methods, two seeds, both worlds; the first method covers 3 and 5 modes of the ring."""
    modes = {("plain GAN", "ring"): (3, 5), ("plain GAN", "grid"): (20, 20)}
    modes |= {("R1 penalty", "ring"): (8, 8), ("R1 penalty", "grid"): (25, 24)}
    return [
        {
            "title": title,
            "world": world,
            "schedule": "even",
            "seed": seed,
            "modes": count,
            "high_quality": 0.97,
        }
        for (title, world), counts in modes.items()
        for seed, count in enumerate(counts)
    ]


def test_the_table_of_modes_shows_mean_error_and_worst():
    lines = mode_collapse.table(made_up_rows()).splitlines()
    assert lines[1].split() == [
        *("plain", "GAN", "even", "4.0", "+-1.0", "3", "97.0", "+-", "0.0"),
        *("20.0", "+-0.0", "20", "97.0", "+-", "0.0"),
    ]
    assert lines[2].split()[3:6] == ["8.0", "+-0.0", "8"]
    assert lines[2].split()[9:12] == ["24.5", "+-0.5", "24"]
    assert mode_collapse.mean_and_error([7]) == (7, 0)


@pytest.mark.slow
def test_a_method_gives_rows_as_those_that_are_stored():
    """A run does not depend on those before it, and moves either player as often as it says."""
    stored = json.loads(mode_collapse.SAVED.read_text())["rows"][0]
    rows = mode_collapse.make_rows(("history", "ring", "five", [1, 2, 1], 50))
    assert [row.keys() for row in rows] == [stored.keys()] * 3
    for row in rows:
        assert len(row["modes_along"]) == mode_collapse.PARTS
        assert row["modes"] == row["modes_along"][-1] and 0 <= row["high_quality"] <= 1
        assert (row["d_updates"], row["g_updates"]) == (50, 10)
    for row in rows:
        del row["seconds"]
    assert rows[0] == rows[2] and rows[0]["reverse_kl"] != rows[1]["reverse_kl"]


def test_saving_some_rows_keeps_those_of_other_kinds(tmp_path, monkeypatch, capsys):
    saved = tmp_path / "results" / "mode_collapse.json"
    monkeypatch.setattr(mode_collapse, "SAVED", saved)
    today = mode_collapse.date.today().isoformat()
    commands = [f"{today} python tests/benchmarks/mode_collapse.py {word}" for word in "abcd"]

    def row(method, schedule, modes):
        kind = {"method": method, "world": "grid", "schedule": schedule}
        return kind | {"seed": 0, "modes": modes}

    def stored():
        found = json.loads(saved.read_text())
        rows = [(row["method"], row["schedule"], row["modes"]) for row in found["rows"]]
        return rows, found["commands"]

    mode_collapse.save([row("r1", "even", 1), row("plain", "even", 2)], ["a"])
    mode_collapse.save([row("r1", "five", 3)], ["b"])
    rows = [("plain", "even", 2), ("r1", "even", 1), ("r1", "five", 3)]
    assert stored() == (rows, commands[:2])
    mode_collapse.save([row("r1", "even", 4)], ["c"])
    assert stored() == ([rows[0], ("r1", "even", 4), rows[2]], commands[:3])
    every = [row("r1", "even", 5), row("r1", "five", 5), row("plain", "even", 5)]
    mode_collapse.save(every, ["d"])  # nothing is left of the others
    assert stored()[1] == commands[3:]


# A thousand modes.


def test_three_digits_are_stacked_and_taken_apart():
    images = np.arange(6 * 4, dtype=np.float32).reshape(6, 2, 2, 1)
    examples = stacked_mnist.stack(tf.constant(images)).numpy()
    assert examples.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(examples[1, :, :, 0], images[3, :, :, 0])
    np.testing.assert_array_equal(stacked_mnist.unstack(examples), images)


def test_modes_of_stacks_are_named_by_their_digits(monkeypatch):
    """A judge that reads an image's mean: two samples of mode 123, one of 777 that is not sure."""

    def classify(judge, images):
        read = images.mean(axis=(1, 2, 3)).round().astype(int)
        sure = np.where(read == 7, 0.5, 0.95)[:, None]
        probabilities = np.eye(10)[read] * sure + (1 - sure) / 10
        return None, probabilities

    monkeypatch.setattr(classifier, "classify", classify)
    digits = np.float32([1, 2, 3, 1, 2, 3, 7, 7, 7]).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 1))
    found = stacked_mnist.scores(None, stacked_mnist.stack(tf.constant(digits)).numpy())
    divergence = 2 / 3 * math.log(2000 / 3) + 1 / 3 * math.log(1000 / 3)
    assert found == pytest.approx({"modes": 2, "divergence": divergence, "sure": 2 / 3}, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["real", *stacked_mnist.VARIANTS])
def test_a_row_of_stacked_digits(variant):
    row, drawn = stacked_mnist.measure(
        variant, seed=1, steps=1, source="digits", samples=600, judge_steps=40
    )
    assert drawn["samples"].shape == (stacked_mnist.SHOWN, 28, 28, 3)
    assert drawn["samples"].dtype == np.uint8
    assert 1 <= row["modes"] <= 600 and 0 <= row["sure"] <= 1 and row["divergence"] > 0


# Which change ends a collapse.


def functions_in(source):
    nodes = ast.parse(source).body
    return {node.name: ast.dump(node) for node in nodes if isinstance(node, ast.FunctionDef)}


def test_the_collapse_is_measured_by_the_step_that_notebook_2_shows():
    notebook = Path(record.ROOT) / "notebooks" / "02_mlp_gan.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    shown = {name: node for source in shown for name, node in functions_in(source).items()}
    measured = functions_in(Path(collapse_cure.__file__).read_text())
    for name in ("improve_discriminator", "improve_generator", "adam"):
        assert measured[name] == shown[name]


@pytest.mark.slow
def test_a_row_of_the_collapse_and_one_of_real_images():
    row, drawn = collapse_cure.measure("leaky_norm", seed=1, steps=4, source="digits")
    assert [step for step, _ in row["along"]] == [0, 1, 2, 3, 4]
    samples = drawn["samples"]
    assert samples.shape == (collapse_cure.SAMPLES, 28, 28) and samples.dtype == np.uint8
    drawn_distance = collapse_cure.mean_distance(samples / 127.5 - 1)
    assert drawn_distance == pytest.approx(row["distance"], rel=0.01)
    assert row["along"][-1][1] == row["distance"] != row["along"][0][1]
    held_out, _, _ = data.load_images("digits", split="test")
    real, drawn = collapse_cure.measure("real", seed=1, steps=4, source="digits")
    known = {image.tobytes() for image in record.as_bytes(held_out)}
    assert all(image.tobytes() in known for image in drawn["samples"]) and real["distance"] > 0


def test_the_distance_of_black_to_white():
    ends = np.stack([-np.ones((28, 28, 1)), np.ones((28, 28, 1))])
    assert collapse_cure.mean_distance(ends) == pytest.approx(2 * 28)


@pytest.mark.slow
def test_a_larger_batch_takes_fewer_and_larger_steps(monkeypatch):
    judge = SimpleNamespace(scores=lambda x: {"frechet": len(x)}, floors=lambda: [1.0, 2.0])
    monkeypatch.setattr(batch_size, "judge_of", lambda source: judge)
    monkeypatch.setattr(course, "COUNT", 10)
    row, drawn = batch_size.measure("256 scaled", seed=0, steps=9, source="digits")
    expected = {"batch": 256, "taken": 2, "rate": 2e-3, "frechet": 10, "floor": 2.0}
    assert row == expected and drawn == {}
