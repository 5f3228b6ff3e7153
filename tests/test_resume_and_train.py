"""The same line again, after any interruption: the run ends where an uninterrupted one ends."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import functools
import itertools
import math
import os
import shutil
import signal
from pathlib import Path

import helpers
import keras
import pytest
import tensorflow as tf
from helpers import (
    IMAGE_SHAPE,
    IMAGES,
    LATENT_DIM,
    frozen,
    momentum,
    pair,
    saved_steps,
    tiny_run,
    variables_of,
)
from jupyter_client.manager import start_new_kernel

from ganutils import checkpoints, layers, losses, networks, steps
from ganutils.families import mode_collapse

assert runtime  # used by being imported

END, EVERY = 5, 2


def go(run, folder, train_step, stop=END, **options):
    options = {"every": EVERY} | options
    return checkpoints.resume_and_train(
        run, folder, train_step, helpers.make_batches, steps=stop, **options
    )


# The end is that of a run never interrupted, whatever there is to remember.


def dcgan():
    discriminator = networks.dcgan_discriminator(
        IMAGE_SHAPE, widths=(2, 3), after_conv=helpers.leaky_dropout
    )
    generator = networks.dcgan_generator(LATENT_DIM, IMAGE_SHAPE, widths=(4, 3), scales=(1, 2))
    return discriminator, generator


def spectral():
    dense = layers.SpectralNormalization(keras.layers.Dense(5))
    minibatch = mode_collapse.MinibatchDiscrimination(2, 2)
    last = layers.SpectralNormalization(keras.layers.Dense(1))
    image, flat = keras.Input(IMAGE_SHAPE), keras.layers.Flatten()
    return keras.Sequential([image, flat, dense, minibatch, last]), pair()[1]


def virtual():
    image = keras.Input(IMAGE_SHAPE)
    y = keras.layers.Dense(5)(mode_collapse.WithReference(IMAGES[:4])(image))
    y = mode_collapse.DropReference(4)(mode_collapse.VirtualBatchNormalization(4)(y))
    return keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(y))), pair()[1]


def played(run, terms, **settings):
    play = steps.make_gan_play(
        run.discriminator,
        run.generator,
        objective=losses.wasserstein,
        latent_dim=LATENT_DIM,
        seed=2,
        **terms,
    )
    optimizers = {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
    return steps.make_step(play, run.d_variables, run.g_variables, **optimizers, **settings)


def historical(seed):
    run, _ = tiny_run(seed, make_optimizer=momentum)
    means = run.also["means"] = mode_collapse.HistoricalAverage(run.g_variables)
    return run, played(run, {"g_terms": [lambda real, fake, step: means(step)]})


def several(seed):
    run, _ = tiny_run(seed, make_optimizer=momentum)

    def penalty(real, fake, step):
        return losses.gradient_penalty(run.discriminator, real, fake, seed=3, step=step)

    clip = functools.partial(losses.clip_weights, limit=0.5)
    return run, played(run, {"d_terms": [penalty]}, d_steps=2, constrain=clip)


def swift(make_networks):
    return functools.partial(tiny_run, make_networks=make_networks, make_optimizer=momentum)


VARIANTS = {
    "mlp": tiny_run,
    "dcgan, dropout, average": functools.partial(tiny_run, make_networks=dcgan, average=True),
    "historical averaging": historical,
    "penalty, two updates of D, clipped": several,
    "spectral norm, minibatch discrimination": swift(spectral),
    "virtual batch norm": swift(virtual),
}


def repeated_batches(start):
    return (helpers.real_batch(number) for number in itertools.count(start))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_line_in_another_program_ends_at_the_same_bits(variant, tmp_path):
    """The last save is lost, as in a power cut, and all that was in memory."""
    line = functools.partial(checkpoints.resume_and_train, steps=2, every=1)
    whole, train_step = VARIANTS[variant](1)

    def power_cut(progress):
        if progress.step == 2:  # which is not saved yet
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")

    with helpers.eagerly():
        line(whole, tmp_path / "whole", train_step, repeated_batches, callbacks=[power_cut])
        assert saved_steps(tmp_path / "cut") == [1]
        resumed, train_step = VARIANTS[variant](99)  # other weights: none of them may survive
        assert line(resumed, tmp_path / "cut", train_step, repeated_batches) is resumed
    assert frozen(resumed) == frozen(whole)
    assert {len(values) for values in resumed.history.values()} == {2} == {int(resumed.step)}
    assert saved_steps(tmp_path / "cut") == [1, 2]


# From here on: dropout in D and batch normalization in G, and all is traced.


def new_run(seed=1):
    return tiny_run(seed, helpers.dropout_pair)


@pytest.fixture(scope="module")
def built():
    run, train_step = new_run()
    return run, train_step, [variable.numpy() for variable in variables_of(run)]


def begin(built):
    """The run as it was built: one for many tests, so that it is traced once."""
    run, train_step, start = built
    for variable, value in zip(variables_of(run), start, strict=True):
        variable.assign(value)
    run.history.clear()
    return run, train_step


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    """The run that nothing interrupts, frozen at each save."""
    (run, train_step), states = begin(built), {}
    folder = tmp_path_factory.mktemp("whole")
    go(run, folder, train_step, callbacks=[lambda p: states.update({p.step: frozen(run)})])
    assert len({str(numbers) for numbers, _ in states.values()}) == 3  # they are told apart
    return states


def test_several_steps_a_call_end_at_the_same_bits(whole, built, tmp_path):
    run, train_step = begin(built)
    for stop in (3, END):
        go(run, tmp_path, train_step, stop, per_call=2)
    assert frozen(run) == whole[END]
    assert train_step.experimental_get_tracing_count() == 1


def test_a_finished_run_is_left_alone_and_its_file_too(built, tmp_path):
    (run, train_step), seen = begin(built), []
    helpers.fill(run, 7)
    helpers.save(run, tmp_path)
    before = frozen(run)
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    go(run, tmp_path, train_step, 7, callbacks=[lambda progress: seen.append(progress.step)])
    assert frozen(run) == before and seen == [7]
    assert times == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="step 7 must be at most steps=5"):
        go(run, tmp_path, train_step)


# Interrupted.


def test_what_callbacks_write_into_the_history_is_saved_with_the_step(whole, built, tmp_path):
    """And a callback may fail."""

    def note(progress):
        progress.history.setdefault("noted", []).append(progress.step)

    def fail(progress):
        if progress.step >= 2 * EVERY:
            raise ArithmeticError("of a reader's")

    run, train_step = begin(built)
    with pytest.raises(ArithmeticError):
        go(run, tmp_path, train_step, callbacks=[note, fail])
    go(run, tmp_path, train_step, callbacks=[note])
    assert run.history.pop("noted") == [2, 4, 5]
    assert frozen(run) == whole[END]


def test_ctrl_c_ends_after_the_step_saves_and_the_same_line_goes_on(whole, tmp_path, capsys):
    """Before the first save, and at one; nothing is traced a second time."""
    (run, train_step), traced = new_run(), []

    def press(step):
        if int(step) + 1 in (1, 4):
            signal.raise_signal(signal.SIGINT)
        return step

    def pressed_step(real, step):
        traced.append(step)
        return train_step(real, tf.ensure_shape(tf.py_function(press, [step], step.dtype), ()))

    for number in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            go(run, tmp_path, pressed_step)
        assert {len(values) for values in run.history.values()} == {number} == {int(run.step)}
        assert saved_steps(tmp_path)[-1] == number
        assert "go on" in capsys.readouterr().out
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    go(run, tmp_path, pressed_step)
    assert frozen(run) == whole[END]
    assert len(traced) == 1


def test_after_a_save_that_failed_the_run_goes_on_from_memory(whole, built, tmp_path):
    """A folder lies where a file should be; whatever a disk may do is in test_disk.py."""
    (run, train_step), starts = begin(built), []

    def noted(start):
        starts.append(start)
        return helpers.make_batches(start)

    line = functools.partial(
        checkpoints.resume_and_train, run, tmp_path, train_step, noted, steps=END, every=EVERY
    )
    (tmp_path / "ckpt-4.data-00000-of-00001").mkdir()
    with pytest.raises(OSError, match="Step 4 could not be saved.*in memory"):
        line()
    assert run.unsaved == 4 and saved_steps(tmp_path) == [2]
    assert frozen(run) == whole[4]
    line()
    assert run.unsaved is None and saved_steps(tmp_path) == [2, 4, 5]
    assert frozen(run) == whole[END] and starts == [0, 4]


# Diverged.


def test_what_diverges_stops_the_run_at_its_step_and_is_not_saved(whole, tmp_path):
    """A weight of either player, or batch normalization's statistics, which no step reads."""
    run, train_step = new_run()
    statistics = run.generator.weights[-3]
    assert "moving_variance" in statistics.path
    bad = {
        "d_weights": (run.d_variables[-1], math.nan),
        "g_weights": (run.g_variables[-1], math.inf),
        "g_weights.*nan": (statistics, math.nan),
    }
    breaks = {name: tf.Variable(False) for name in bad}

    def breaking_step(real, step):
        values = train_step(real, step)
        for name, (weight, value) in bad.items():
            now = breaks[name] & (step == 2)
            weight.assign_add(tf.fill(weight.shape, tf.where(now, tf.constant(value), 0.0)))
        return values

    for name in bad:
        breaks[name].assign(True)
        with pytest.raises(FloatingPointError, match=f"step 3: .*{name}"):
            go(run, tmp_path, breaking_step)
        assert saved_steps(tmp_path) == [2] and int(run.step) == 2
        assert run.history == whole[2][1] and frozen(run)[0] != whole[2][0]
        breaks[name].assign(False)
    go(run, tmp_path, breaking_step)  # the same objects, bad weights and all
    assert frozen(run) == whole[END]


# In other processes.


@pytest.mark.slow
def test_ctrl_c_in_another_process(tmp_path):
    """A real signal from outside, at a moment nobody chose."""
    program = (
        "import sys, time, test_resume_and_train as t\n"
        "run, train_step = t.new_run()\n"
        "def slow(progress):\n"
        "    print('at', progress.step, flush=True)\n"
        "    time.sleep(0.05)\n"
        "try:\n"
        "    t.go(run, sys.argv[1], train_step, 10_000, callbacks=[slow], every=1)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "print('ended', int(run.step), len(run.history['d_loss']))\n"
    )
    child = helpers.start_python(program, tmp_path)
    for line in child.stdout:
        if line == "at 3\n":
            os.kill(child.pid, signal.SIGINT)
            break
    output, errors = child.communicate()
    assert child.returncode == 0 and "interrupted" in output, errors
    step, values = map(int, output.split()[-2:])
    assert step == values == saved_steps(tmp_path)[-1] >= 3

    ends = []
    for seed, folder in ((1, tmp_path / "whole"), (99, tmp_path)):
        run, train_step = new_run(seed)
        ends.append(frozen(go(run, folder, train_step, step + 5)))
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_the_stop_button_of_a_notebook(tmp_path):
    """Under "Run all": the cells after it do not run, and the same cell once more goes on."""
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
        f"folder, (run, train_step) = {str(tmp_path)!r}, t.new_run()",
        "report = lambda progress: print('at', progress.step, flush=True)\n"
        "t.go(run, folder, train_step, 10_000, callbacks=[report], every=1);",
        "print('the cell after')",
        "print('stands at', int(run.step), len(run.history['d_loss']))",
        "t.go(run, folder, train_step, int(run.step) + 2);",
    ]
    try:
        client.execute_interactive(cells[0], timeout=120)
        trained, after = (client.execute(cell) for cell in cells[1:3])  # both wait in the queue
        kinds = []
        while "error" not in kinds:
            message = client.get_iopub_msg(timeout=120)
            kinds.append(message["msg_type"])
            show(message)
        ended = [client.get_shell_msg(timeout=120) for _ in range(2)]
        statuses = {x["parent_header"]["msg_id"]: x["content"]["status"] for x in ended}
        replies = [client.execute_interactive(c, output_hook=show, timeout=120) for c in cells[3:]]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert (statuses[trained], statuses[after]) == ("error", "aborted")
    assert [reply["content"]["status"] for reply in replies] == ["ok"] * 2
    text = "".join(printed)
    assert text.count("Run the same cell once more") == 1 and "the cell after" not in text
    step, values = map(int, text.rpartition("stands at")[2].split())
    assert 3 <= step == values < 10_000 and saved_steps(tmp_path)[-2:] == [step, step + 2]
