"""The same line again, after any interruption: the run ends where an uninterrupted one ends."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from jupyter_client.manager import start_new_kernel

from ganutils import checkpoints, data, losses, networks, penalties, stabilizers, training, updates

SHAPE, LATENT_DIM = (8, 8, 1), 3
IMAGES = np.random.default_rng(0).uniform(-1, 1, (40, *SHAPE)).astype(np.float32)
MAKE_BATCHES = functools.partial(data.batches, IMAGES, 8, seed=0)
END, EVERY = 11, 4


class Crash(Exception):
    """What stands for any error in a reader's program."""


def mlp():
    discriminator = networks.mlp_discriminator(SHAPE, widths=(5,))
    return discriminator, networks.mlp_generator(LATENT_DIM, SHAPE, widths=(6,))


def dcgan():
    discriminator = networks.dcgan_discriminator(
        SHAPE, widths=(2, 3), after_conv=lambda x: keras.layers.Dropout(0.3)(keras.layers.ReLU()(x))
    )
    return discriminator, networks.dcgan_generator(LATENT_DIM, SHAPE, widths=(4, 3), scales=(2, 2))


def spectral():
    critic = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            stabilizers.SpectralNormalization(keras.layers.Dense(5)),
            keras.layers.LeakyReLU(),
            stabilizers.MinibatchDiscrimination(2, 2),
            stabilizers.SpectralNormalization(keras.layers.Dense(1)),
        ]
    )
    return critic, mlp()[1]


def virtual():
    reference = stabilizers.WithReference(IMAGES[:4])
    x = keras.Input(SHAPE)
    y = stabilizers.VirtualBatchNormalization(4)(keras.layers.Dense(5)(reference(x)))
    y = keras.layers.Dense(1)(keras.layers.Flatten()(stabilizers.DropReference(4)(y)))
    return keras.Model(x, y), mlp()[1]


# Each variant: the networks, and what its step is made of beyond them.


def plain(run, **parts):
    return updates.make_train_step(
        run.discriminator, run.generator, objective=losses.non_saturating, **parts
    ), {}


def averaged(run, **parts):
    average = runtime.in_float32(run.generator)
    train_step = updates.with_average(plain(run, **parts)[0], run.generator, average)
    return train_step, {"average": average}


def historical(run, **parts):
    means = penalties.HistoricalAverage(run.generator.trainable_variables)
    train_step = updates.make_regularized_step(
        run.discriminator,
        run.generator,
        objective=losses.least_squares,
        g_terms=[lambda real, fake, step: means(step)],
        **parts,
    )
    return train_step, {"means": means}


def several(run, **parts):
    def penalty(real, fake, step):
        return penalties.gradient_penalty(run.discriminator, real, fake, seed=3, step=step)

    train_step = updates.make_regularized_step(
        run.discriminator,
        run.generator,
        objective=losses.wasserstein,
        d_terms=[penalty],
        d_steps=2,
        constrain=functools.partial(penalties.clip_weights, limit=0.5),
        **parts,
    )
    return train_step, {}


VARIANTS = {
    "mlp": (mlp, plain),
    "dcgan, dropout, average": (dcgan, averaged),
    "historical averaging": (mlp, historical),
    "penalty, two updates of D": (mlp, several),
    "spectral normalization, minibatch discrimination": (spectral, plain),
    "virtual batch normalization": (virtual, plain),
}


def new_run(variant="mlp", *, seed=1, folder):
    """Everything that a kernel restart loses, built anew."""
    make_networks, make_step = VARIANTS[variant]
    keras.utils.set_random_seed(seed)
    run = SimpleNamespace(step=tf.Variable(0, dtype=tf.int64), history={})
    run.discriminator, run.generator = make_networks()
    optimizers = {
        name: keras.optimizers.Adam(1e-2, beta_1=0.5) for name in ("d_optimizer", "g_optimizer")
    }
    run.train_step, more = make_step(run, **optimizers, latent_dim=LATENT_DIM, seed=2)
    run.checkpoint = checkpoints.make_checkpoint(
        run.discriminator, run.generator, **optimizers, step=run.step, history=run.history, **more
    )
    owners = [run.discriminator, run.generator, *optimizers.values(), *more.values()]
    run.variables = [v for owner in owners for v in owner.variables] + [run.step]
    run.manager = tf.train.CheckpointManager(run.checkpoint, str(folder), max_to_keep=3)
    return run


def go(run, steps=END, *, train_step=None, **options):
    return checkpoints.resume_and_train(
        train_step or run.train_step,
        MAKE_BATCHES,
        manager=run.manager,
        steps=steps,
        **{"every": EVERY} | options,
    )


def frozen(run):
    """A run's numbers as bytes, and its history."""
    numbers = [v.numpy() for v in run.variables]
    return [(v.dtype, v.shape, v.tobytes()) for v in numbers], {
        name: list(values) for name, values in run.history.items()
    }


def saved_steps(run):
    return [int(path.rpartition("-")[2]) for path in run.manager.checkpoints]


def crash_at(number):
    def callback(progress):
        if progress.step >= number:
            raise Crash

    return callback


def press_at(number, train_step):
    """A step during which somebody presses Ctrl-C."""

    def press(step):
        if int(step) + 1 == number:
            signal.raise_signal(signal.SIGINT)
        return step

    def pressed_step(real, step):
        return train_step(real, tf.ensure_shape(tf.py_function(press, [step], step.dtype), ()))

    return pressed_step


# The end is that of a run never interrupted.


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_line_after_a_crash_ends_at_the_same_bits(variant, tmp_path):
    whole = new_run(variant, folder=tmp_path / "whole")
    go(whole)
    crashed = new_run(variant, folder=tmp_path / "crashed")
    with pytest.raises(Crash):
        go(crashed, callbacks=[crash_at(2 * EVERY)])
    resumed = new_run(variant, seed=99, folder=tmp_path / "crashed")  # after a kernel restart
    assert frozen(resumed) != frozen(crashed)
    history = go(resumed)
    assert history is resumed.history and {len(x) for x in history.values()} == {END}
    assert frozen(resumed) == frozen(whole)
    assert saved_steps(resumed) == [4, 8, 11]


def test_losing_one_variable_would_be_seen(tmp_path):
    whole = new_run("dcgan, dropout, average", folder=tmp_path / "whole")
    go(whole)
    for name in ("average", "d_optimizer"):
        resumed = new_run("dcgan, dropout, average", folder=tmp_path / name)
        go(resumed, EVERY)
        getattr(resumed.checkpoint, name).variables[-1].assign_add(
            tf.ones_like(getattr(resumed.checkpoint, name).variables[-1])
        )
        resumed.manager.save(checkpoint_number=EVERY)
        go(resumed)
        assert frozen(resumed) != frozen(whole), name


def test_several_steps_a_call_end_at_the_same_bits(tmp_path):
    whole, parts = (new_run(folder=tmp_path / name) for name in "ab")
    go(whole, per_call=3)
    go(parts, 7, per_call=2)
    go(parts, per_call=4)
    assert frozen(parts) == frozen(whole)


def test_a_finished_run_is_left_alone_and_its_file_too(tmp_path):
    run = new_run(folder=tmp_path)
    go(run)
    before, seen = frozen(run), []
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    go(run, callbacks=[lambda progress: seen.append(progress.step)])
    assert frozen(run) == before and seen == [END]
    assert times == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_what_callbacks_write_into_the_history_is_saved_with_the_step(tmp_path):
    def note(progress):
        progress.history.setdefault("noted", []).append(progress.step)

    whole, run = (new_run(folder=tmp_path / name) for name in "ab")
    go(whole, callbacks=[note])
    with pytest.raises(Crash):
        go(run, callbacks=[note, crash_at(2 * EVERY)])
    again = new_run(seed=99, folder=tmp_path / "b")
    go(again, callbacks=[note])
    assert again.history["noted"] == [4, 8, 11] and frozen(again) == frozen(whole)


def test_a_folder_that_is_further_than_the_end_is_refused(tmp_path):
    go(new_run(folder=tmp_path))
    with pytest.raises(ValueError, match="step 11 must be at most steps=7"):
        go(new_run(folder=tmp_path), 7)


# Interrupted.


@pytest.mark.parametrize("number", [1, 4, 6, 11])
def test_ctrl_c_ends_after_the_step_saves_and_the_same_line_goes_on(number, tmp_path, capsys):
    whole, run = (new_run(folder=tmp_path / name) for name in "ab")
    go(whole)
    history = go(run, train_step=press_at(number, run.train_step))
    assert {len(values) for values in history.values()} == {number} == {int(run.step)}
    assert saved_steps(run)[-1] == number
    assert "go on" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    go(run)
    assert frozen(run) == frozen(whole)


def test_ctrl_c_in_another_process(tmp_path):
    """A real signal from outside, at a moment nobody chose."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "import test_resume_and_train as t\n"
        "run = t.new_run(folder=sys.argv[2])\n"
        "def slow(progress):\n"
        "    print('at', progress.step, flush=True)\n"
        "    time.sleep(0.05)\n"
        "t.go(run, 10_000, callbacks=[slow], every=1)\n"
        "print('ended', int(run.step), len(run.history['d_loss']), t.saved_steps(run)[-1])\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in child.stdout:
        if line == "at 3\n":
            os.kill(child.pid, signal.SIGINT)
            break
    rest = child.stdout.read().split()
    child.stdout.close()
    assert child.wait() == 0
    step, losses_, newest = map(int, rest[-3:])
    assert step == losses_ == newest >= 3

    whole, resumed = new_run(folder=tmp_path / "whole"), new_run(seed=99, folder=tmp_path)
    go(whole, step + 5)
    go(resumed, step + 5)
    assert frozen(resumed) == frozen(whole)


# Diverged.


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("who", ["discriminator", "generator"])
def test_a_bad_weight_stops_the_run_at_its_step_and_is_not_saved(who, value, tmp_path):
    good, bad = (new_run(folder=tmp_path / name) for name in "ab")
    go(good, 4)
    bad_weight = getattr(bad, who).weights[-1]

    def breaks_at_6(real, step):
        values = bad.train_step(real, step)
        share = tf.where(step == 5, tf.constant(value, tf.float32), 0.0)
        bad_weight.assign_add(tf.fill(bad_weight.shape, share))
        return values

    with pytest.raises(FloatingPointError, match=f"step 6: .*{who[0]}_weights"):
        go(bad, train_step=breaks_at_6)
    assert saved_steps(bad) == [4]
    assert int(bad.step) == 5 == len(bad.history["d_loss"])
    again = new_run(seed=99, folder=tmp_path / "b")
    assert checkpoints.resume(again.manager) == 4 and frozen(again) == frozen(good)
    go(good)
    go(bad)  # the same objects, bad weights and all
    assert frozen(bad) == frozen(good)


def test_the_norms_are_those_of_the_weights_and_change_no_step(tmp_path):
    watched, bare = (new_run("dcgan, dropout, average", folder=tmp_path / name) for name in "ab")
    go(watched, 5)
    training.train(
        bare.train_step, MAKE_BATCHES, steps=5, step=bare.step, history=bare.history, every=5
    )
    assert frozen(watched)[0] == frozen(bare)[0]
    for name, model in (("d_weights", watched.discriminator), ("g_weights", watched.generator)):
        squares = [float((w.numpy().astype(np.float64) ** 2).sum()) for w in model.weights]
        assert watched.history.pop(name)[-1] == pytest.approx(sum(squares) ** 0.5, rel=1e-6)
    assert watched.history == bare.history


def test_the_stop_button_of_a_notebook(tmp_path):
    """A kernel that is interrupted as by the button: the cell ends well, and the next one runs."""
    manager, client = start_new_kernel()
    printed = []

    def show(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])
            if "at 3\n" in message["content"]["text"]:
                manager.interrupt_kernel()

    cells = [
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_resume_and_train as t\n"
        f"run = t.new_run(folder={str(tmp_path)!r})",
        "t.go(run, 10_000, callbacks=[lambda p: print('at', p.step, flush=True)], every=1);",
        "print('stands at', int(run.step), len(run.history['d_loss']), t.saved_steps(run)[-1])",
    ]
    try:
        replies = [client.execute_interactive(c, output_hook=show, timeout=120) for c in cells]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [reply["content"]["status"] for reply in replies] == ["ok"] * 3
    text = "".join(printed)
    assert text.count("Run the same once more") == 1
    step, values, newest = map(int, text.rpartition("stands at")[2].split())
    assert 3 <= step == values == newest < 10_000
