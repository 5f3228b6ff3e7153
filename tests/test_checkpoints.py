"""A resumed run must be the run that was never interrupted: every bit of it, or an error.

Each oracle is two-sided: what must be equal is equal bit for bit, and the same comparison tells
apart two runs that differ.
"""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import functools
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import checkpoints, data, latents, losses, networks, training, updates

assert runtime  # used by being imported

SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (40, *SHAPE)).astype(np.float32)
MAKE_BATCHES = functools.partial(data.batches, IMAGES, 8, seed=0)  # 5 batches an epoch
HALF, END = 7, 13  # neither is a multiple of the epoch


def mlp(width=6):
    discriminator = networks.mlp_discriminator(SHAPE, widths=(5,))
    return discriminator, networks.mlp_generator(3, SHAPE, widths=(width,))


def dcgan():
    discriminator = networks.dcgan_discriminator(SHAPE, widths=(2, 3))
    return discriminator, networks.dcgan_generator(3, SHAPE, widths=(4, 3), scales=(2, 2))


def dropout_dcgan():
    """The TensorFlow tutorial's DCGAN, narrow: transposed convolutions, Dropout in D."""

    def bn_leaky(x):
        x = keras.layers.BatchNormalization()(x)
        return keras.layers.LeakyReLU(negative_slope=0.3)(x)

    def leaky_dropout(x):
        return keras.layers.Dropout(0.3)(keras.layers.LeakyReLU(negative_slope=0.3)(x))

    generator = networks.dcgan_generator(
        3,
        SHAPE,
        widths=(4, 4, 2),
        scales=(1, 2, 2),
        enlarge=networks.transposed_conv,
        kernel_size=5,
        after_dense=bn_leaky,
        after_conv=bn_leaky,
    )
    return networks.dcgan_discriminator(SHAPE, widths=(2, 3), after_conv=leaky_dropout), generator


def new_run(make_networks, *, seed=1, optimizer=keras.optimizers.Adam):
    """Everything a kernel restart loses, built anew."""
    keras.utils.set_random_seed(seed)
    run = SimpleNamespace(step=tf.Variable(0, dtype=tf.int64), history={})
    run.discriminator, run.generator = make_networks()
    run.d_optimizer, run.g_optimizer = optimizer(1e-2), optimizer(1e-2)
    optimizers = {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
    run.train_step = updates.make_train_step(
        run.discriminator,
        run.generator,
        **optimizers,
        objective=losses.non_saturating,
        latent_dim=3,
        seed=2,
    )
    run.checkpoint = checkpoints.make_checkpoint(
        run.discriminator,
        run.generator,
        **optimizers,
        step=run.step,
        history=run.history,
    )
    return run


def train(run, steps, **options):
    return training.train(
        run.train_step, MAKE_BATCHES, steps=steps, step=run.step, history=run.history, **options
    )


def toy_step(run):
    """A step that needs no tracing, for tests of what is saved when."""

    def step_once(real, step):
        run.generator.weights[0].assign_add(tf.fill((3, 6), tf.reduce_mean(real)))
        return {"d_loss": tf.reduce_mean(real), "g_loss": tf.cast(step, tf.float32)}

    return step_once


def new_toy_run(seed=1):
    run = new_run(mlp, seed=seed)
    run.train_step = toy_step(run)
    return run


def new_toy_run_of(make_networks, seed=99):
    run = new_run(make_networks, seed=seed)
    run.history["d_loss"] = [1.0]
    return run


def manager_of(run, folder, keep=3):
    return tf.train.CheckpointManager(run.checkpoint, str(folder), max_to_keep=keep)


def variables_of(run):
    """Weights, batch-norm statistics, seeds, moments, iterations, step."""
    owners = run.discriminator, run.generator, run.d_optimizer, run.g_optimizer
    return [v for owner in owners for v in owner.variables] + [run.step]


def state(run):
    """Every number of a run."""
    return [v.numpy() for v in variables_of(run)]


def identical(first, second):
    pairs = zip(first, second, strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and (a == b).all() for a, b in pairs)


def numbers(steps):
    return [f"ckpt-{step}" for step in steps]


def names(paths):
    return [path.replace("\\", "/").rsplit("/", 1)[1] for path in paths]


def frozen(run):
    """A copy of a run's state and history."""
    return state(run), {name: list(values) for name, values in run.history.items()}


def save_and_go_on(make_networks, folder):
    """Save a run at HALF and go on to END; return the run, frozen at HALF, and frozen at END."""
    run = new_run(make_networks)
    train(run, HALF, callbacks=[checkpoints.saver(manager_of(run, folder))])
    half = frozen(run)
    train(run, END)
    return run, half, frozen(run)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the run `mlp` saved at HALF; that run frozen at HALF, and at END."""
    folder = tmp_path_factory.mktemp("saved")
    _, half, end = save_and_go_on(mlp, folder)
    return SimpleNamespace(folder=folder, half=half, end=end)


# ---------------------------------------------------------------- the resumed run is the run


@pytest.mark.parametrize("make_networks", [mlp, dcgan])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(make_networks, tmp_path):
    whole, half, end = save_and_go_on(make_networks, tmp_path)
    resumed = new_run(make_networks, seed=99)  # other initial weights: none of them may survive
    assert not identical(state(resumed), half[0])
    assert checkpoints.resume(manager_of(resumed, tmp_path)) == int(resumed.step) == HALF
    assert identical(state(resumed), half[0]) and resumed.history == half[1]
    assert not identical(state(resumed), end[0])

    train(resumed, END)
    assert identical(state(resumed), end[0]) and resumed.history == end[1]
    assert {len(values) for values in resumed.history.values()} == {END}
    z = latents.sample_latents(4, 3, seed=0, step=0)
    for mode in (False, True):  # batch norm with moving statistics, and with the batch's own
        images = [run.generator(z, training=mode).numpy() for run in (whole, resumed)]
        assert identical(images[:1], images[1:])


def test_resumed_run_with_dropout_equals_uninterrupted_run(tmp_path):
    _, half, end = save_and_go_on(dropout_dcgan, tmp_path)
    resumed = new_run(dropout_dcgan, seed=99)
    assert checkpoints.resume(manager_of(resumed, tmp_path)) == HALF
    assert identical(state(resumed), half[0]) and resumed.history == half[1]
    train(resumed, END)
    assert identical(state(resumed), end[0]) and resumed.history == end[1]


def averaged_run(seed):
    """A run whose step also keeps an average of the generator's weights."""
    run = new_run(mlp, seed=seed)
    run.average = runtime.in_float32(run.generator)
    run.train_step = updates.with_average(run.train_step, run.generator, run.average)
    run.checkpoint = checkpoints.make_checkpoint(
        run.discriminator,
        run.generator,
        d_optimizer=run.d_optimizer,
        g_optimizer=run.g_optimizer,
        step=run.step,
        history=run.history,
        average=run.average,
    )
    return run


def test_resumed_run_with_an_average_equals_uninterrupted_run(tmp_path):
    whole = averaged_run(seed=1)
    train(whole, HALF, callbacks=[checkpoints.saver(manager_of(whole, tmp_path))])
    half = whole.average.get_weights()
    train(whole, END)
    resumed = averaged_run(seed=99)
    assert not identical(resumed.average.get_weights(), half)
    assert checkpoints.resume(manager_of(resumed, tmp_path)) == HALF
    assert identical(resumed.average.get_weights(), half)
    train(resumed, END)
    assert identical(state(resumed), state(whole)) and resumed.history == whole.history
    assert identical(resumed.average.get_weights(), whole.average.get_weights())
    assert not identical(resumed.average.get_weights(), half)
    # Without its average, the checkpoint does not fit.
    with pytest.raises(ValueError, match=r"average/.* in the file, nothing here"):
        checkpoints.resume(manager_of(new_run(mlp), tmp_path))


def test_saving_changes_nothing(tmp_path):
    run = new_run(dropout_dcgan)
    before = state(run)
    manager_of(run, tmp_path).save(checkpoint_number=0)
    assert identical(state(run), before) and run.history == {}


def test_resume_restores_moments_and_iterations_not_only_weights(saved):
    resumed = new_toy_run(seed=99)
    moments = [v for v in resumed.d_optimizer.variables if "momentum" in v.path]
    assert len(moments) == 4 and not any(v.numpy().any() for v in moments)
    assert int(resumed.d_optimizer.iterations) == 0
    checkpoints.resume(manager_of(resumed, saved.folder))
    assert all(v.numpy().any() for v in moments)
    assert int(resumed.d_optimizer.iterations) == int(resumed.g_optimizer.iterations) == HALF


@pytest.mark.parametrize("part", ["moments", "step"])
def test_a_run_that_forgot_a_part_of_its_state_is_told_apart(part, saved):
    resumed = new_run(mlp, seed=99)
    parts = {
        "moments": resumed.d_optimizer.variables + resumed.g_optimizer.variables,
        "step": [resumed.step],
    }
    fresh = [v.numpy() for v in parts[part]]
    checkpoints.resume(manager_of(resumed, saved.folder))
    for variable, value in zip(parts[part], fresh, strict=True):
        variable.assign(value)
    train(resumed, int(resumed.step) + END - HALF)
    count = len(resumed.discriminator.variables) + len(resumed.generator.variables)
    assert not identical(state(resumed)[:count], saved.end[0][:count])


def test_another_process_resumes_to_the_same_bits(saved):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, test_checkpoints as t\n"
        "run = t.new_run(t.mlp, seed=99)\n"
        "assert t.checkpoints.resume(t.manager_of(run, sys.argv[2])) == t.HALF\n"
        "t.train(run, t.END)\n"
        "np.savez(sys.argv[3], *t.state(run), np.array(run.history['d_loss']))\n"
    )
    result = saved.folder / "child.npz"
    arguments = [str(path) for path in (Path(__file__).parent, saved.folder, result)]
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    with np.load(result) as arrays:
        child_state = [arrays[name] for name in arrays.files]
    assert identical(child_state, [*saved.end[0], np.array(saved.end[1]["d_loss"])])


# ---------------------------------------------------------------- History


def test_history_keeps_every_float_exactly(tmp_path):
    awkward = [0.1, 1 / 3, math.pi * 1e-300, 5e-324, -0.0, float(np.float32(0.1)), 1e308, 2**53 + 2]
    values = {"d_loss": awkward, "empty": []}
    path = tf.train.Checkpoint(history=checkpoints.History(values)).save(str(tmp_path / "h"))
    restored = {"stale": [1.0]}
    status = tf.train.Checkpoint(history=checkpoints.History(restored)).restore(path)
    status.assert_existing_objects_matched().expect_partial()
    assert restored == {"d_loss": awkward, "empty": []}  # and "stale" is gone
    assert math.copysign(1, restored["d_loss"][4]) == -1
    assert restored["d_loss"][1] != float(np.float32(1 / 3))


def test_resume_fills_the_very_dict_that_train_extends(saved):
    resumed = new_toy_run(seed=99)
    history = resumed.history
    history["d_loss"] = [123.0]
    checkpoints.resume(manager_of(resumed, saved.folder))
    assert resumed.history is history and history == saved.half[1]
    assert train(resumed, END) is history and len(history["d_loss"]) == END


# ---------------------------------------------------------------- resume


def test_resume_on_an_empty_folder_returns_0_and_changes_nothing(tmp_path):
    run = new_toy_run()
    train(run, 2)
    run.step.assign(0)
    before = frozen(run)
    assert checkpoints.resume(manager_of(run, tmp_path / "new")) == 0
    assert identical(frozen(run)[0], before[0]) and run.history == before[1]


def refused(run, folder, *lines):
    """Resuming is refused in these lines, and leaves the run as it was."""
    before = frozen(run)
    with pytest.raises(ValueError, match="saved by a run of other parts") as caught:
        checkpoints.resume(manager_of(run, folder))
    assert set(lines) <= set(str(caught.value).splitlines())
    assert str(caught.value).endswith("or choose a fresh folder.")
    assert identical(state(run), before[0]) and run.history == before[1]


def test_restoring_into_another_width_is_refused_with_names_and_shapes(saved):
    refused(
        new_toy_run_of(functools.partial(mlp, width=7)),
        saved.folder,
        "g_variables/0 kernel: float32 (3, 6) in the file, float32 (3, 7) here",
        "g_variables/1 bias: float32 (6,) in the file, float32 (7,) here",
    )


def test_restoring_into_other_layers_is_refused_with_names_and_shapes(saved):
    refused(
        new_toy_run_of(dcgan),
        saved.folder,
        "d_variables/0 kernel: float32 (64, 5) in the file, float32 (5, 5, 1, 2) here",
        "...",  # more than fit
    )


@pytest.mark.parametrize(
    ("widths", "line"),
    [
        ((), "d_variables/3 bias: float32 (1,) in the file, nothing here"),
        ((5, 1), "d_variables/5 bias: nothing in the file, float32 (1,) here"),
    ],
)
def test_restoring_into_a_shallower_or_deeper_network_is_refused(widths, line, saved):
    def make_networks():
        return networks.mlp_discriminator(SHAPE, widths=widths), mlp()[1]

    refused(new_toy_run_of(make_networks), saved.folder, line)


def test_restoring_into_another_optimizer_is_refused(saved):
    run = new_run(mlp, optimizer=keras.optimizers.SGD)
    refused(
        run,
        saved.folder,
        "d_optimizer/_variables/2: float32 (64, 5) in the file, nothing here",
    )


def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path):
    run = new_run(mlp)
    partial = tf.train.Checkpoint(discriminator=run.discriminator, generator=run.generator)
    tf.train.CheckpointManager(partial, str(tmp_path), max_to_keep=1).save()
    refused(
        new_run(mlp), tmp_path, "d_variables/0 kernel: nothing in the file, float32 (64, 5) here"
    )


OPTIMIZERS = {
    "Adam": functools.partial(keras.optimizers.Adam, amsgrad=True),
    "SGD": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
    "average": functools.partial(keras.optimizers.Adam, use_ema=True),
    "schedule": lambda step_size: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(step_size, 10, 0.9)
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make_networks", [mlp, dropout_dcgan])
def test_contents_of_a_run_are_those_of_its_file(make_networks, optimizer, tmp_path):
    run = new_run(make_networks, optimizer=OPTIMIZERS[optimizer])
    run.history["d_loss"] = [0.5]
    path = run.checkpoint.save(str(tmp_path / "a"))
    contents = checkpoints.contents_of_run(run.checkpoint)
    assert contents == checkpoints.contents_of_file(path)
    # As TensorFlow lists them: the variables, the history, and two of its own.
    assert len(contents) == len(tf.train.list_variables(path)) - 2
    count = len({id(v) for v in variables_of(run)}) + 1  # and the history
    assert len(contents) == count


def test_restore_before_the_optimizers_are_built_is_refused(saved):
    run = SimpleNamespace()
    run.discriminator, run.generator = mlp()
    unbuilt = tf.train.Checkpoint(
        discriminator=run.discriminator,
        generator=run.generator,
        d_optimizer=keras.optimizers.Adam(),
        g_optimizer=keras.optimizers.Adam(),
        step=tf.Variable(0, dtype=tf.int64),
        history=checkpoints.History({}),
    )
    status = unbuilt.restore(str(saved.folder / f"ckpt-{HALF}"))
    with pytest.raises(AssertionError, match="Unresolved object.*optimizer._variables"):
        status.assert_consumed()
    status.expect_partial()  # or TensorFlow would warn when the objects go


def test_generator_alone_is_restored_to_the_bit(saved):
    run = new_toy_run(seed=99)
    checkpoints.resume(manager_of(run, saved.folder))
    generator = mlp()[1]
    status = tf.train.Checkpoint(generator=generator).restore(str(saved.folder / f"ckpt-{HALF}"))
    status.assert_existing_objects_matched().expect_partial()
    assert identical(
        [v.numpy() for v in generator.variables], [v.numpy() for v in run.generator.variables]
    )


# ---------------------------------------------------------------- saver and manager


def test_saver_numbers_by_step_and_the_manager_keeps_the_last(tmp_path):
    run = new_toy_run()
    manager = manager_of(run, tmp_path, keep=2)
    train(run, 11, callbacks=[checkpoints.saver(manager)], every=3)
    assert names(manager.checkpoints) == numbers([9, 11])  # 3 and 6 are gone; the end is saved too
    assert sorted(p.stem for p in tmp_path.glob("*.index")) == sorted(numbers([9, 11]))
    assert names([manager.latest_checkpoint]) == numbers([11])
    assert checkpoints.resume(manager_of(new_toy_run(), tmp_path, keep=2)) == 11


def test_running_a_training_cell_twice_saves_the_same_thing_once(tmp_path):
    run = new_toy_run()
    manager = manager_of(run, tmp_path)
    for _ in range(2):
        train(run, 6, callbacks=[checkpoints.saver(manager)], every=3)
        assert names(manager.checkpoints) == numbers([3, 6])
    again = new_toy_run(seed=99)  # as after a kernel restart: resume, then train to the same end
    manager = manager_of(again, tmp_path)
    assert checkpoints.resume(manager) == 6
    train(again, 6, callbacks=[checkpoints.saver(manager)], every=3)
    assert identical(state(again), state(run)) and again.history == run.history
    assert names(manager.checkpoints) == numbers([3, 6])


def test_two_managers_of_one_checkpoint_do_not_disturb_each_other(tmp_path):
    run = new_toy_run()
    last = manager_of(run, tmp_path / "last", keep=2)
    best = manager_of(run, tmp_path / "best", keep=1)

    def save_at_4(progress):
        if progress.step == 4:
            best.save(checkpoint_number=4)

    train(run, 6, callbacks=[checkpoints.saver(last), save_at_4], every=2)
    assert names(last.checkpoints) == numbers([4, 6]) and names(best.checkpoints) == numbers([4])
    assert checkpoints.resume(best) == 4 and len(run.history["d_loss"]) == 4
    assert checkpoints.resume(last) == 6 and len(run.history["d_loss"]) == 6


def test_non_finite_loss_leaves_the_last_good_checkpoint(tmp_path):
    good, bad = new_toy_run(), new_toy_run()
    train(good, 6)
    manager = manager_of(bad, tmp_path)
    sound_step = bad.train_step

    def breaks_at_8(real, step):
        values = sound_step(real, step)
        if int(step) == 7:  # the eighth step
            bad.generator.weights[0].assign(np.full(bad.generator.weights[0].shape, np.nan))
            values["g_loss"] = tf.constant(math.nan)
        return values

    bad.train_step = breaks_at_8
    with pytest.raises(FloatingPointError, match="step 8.*g_loss"):
        train(bad, END, callbacks=[checkpoints.saver(manager)], every=3)
    assert names(manager.checkpoints) == numbers([3, 6])
    assert int(bad.step) == 7 and not identical(state(bad), state(good))
    assert checkpoints.resume(manager) == 6
    assert identical(state(bad), state(good)) and bad.history == good.history
