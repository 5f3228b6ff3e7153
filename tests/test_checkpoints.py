"""A save is all of a run, every bit of it; into another run it is refused. Nobody trains here."""

import functools
import math

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import adam, dropout_pair, fill, frozen, momentum, pair, save, saved_steps

from ganutils import checkpoints, losses, training


def run_of(make_networks=dropout_pair, *, average=False, make_optimizer=momentum, number=99):
    """A run whose every number is a made-up one."""
    run, _ = helpers.tiny_run(
        make_networks=make_networks, average=average, make_optimizer=make_optimizer
    )
    fill(run, number)
    return run


def of_lists():
    return training.Run(
        [pair()[0], dropout_pair()[0]],
        [pair()[1], dropout_pair()[1]],
        d_optimizer=momentum(),
        g_optimizer=momentum(),
        average=[pair()[1], dropout_pair()[1]],
    )


def unjudged():
    return training.Run(None, list(pair()), d_optimizer=None, g_optimizer=momentum())


def with_more():
    discriminator, generator = pair()
    means = losses.HistoricalAverage(generator.trainable_variables)
    return training.Run(
        discriminator,
        generator,
        d_optimizer=momentum(),
        g_optimizer=momentum(),
        also={"means": means, "third": pair()[0]},
    )


def decaying(rate=1e-2):
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(rate, 10, 0.9))


ema_adam = functools.partial(keras.optimizers.Adam, 1e-2, use_ema=True)
ams_adam = functools.partial(keras.optimizers.Adam, 1e-2, amsgrad=True)
RUNS = {
    "plain": functools.partial(run_of, pair),
    "dropout, batch norm, average": functools.partial(run_of, average=True, make_optimizer=adam),
    "AMSGrad": functools.partial(run_of, pair, make_optimizer=ams_adam),
    "Adam's own average": functools.partial(run_of, pair, make_optimizer=ema_adam),
    "schedule": functools.partial(run_of, pair, make_optimizer=decaying),
    "lists of models": of_lists,
    "nobody judges": unjudged,
    "more to save": with_more,
}


@pytest.mark.parametrize("title", RUNS)
def test_a_save_brings_back_every_number(title, tmp_path):
    run, other = RUNS[title](), RUNS[title]()
    fill(run, 4)
    fill(other, 99)
    before, history = frozen(run), other.history
    save(run, tmp_path)
    assert frozen(run) == before  # saving changes nothing
    assert not any(x == y for x, y in zip(before[0], frozen(other)[0], strict=True))
    assert checkpoints.resume(other, tmp_path) == int(other.step) == 4
    assert frozen(other) == before and other.history is history

    contents = checkpoints.contents_of_run(run)
    path = str(tmp_path / "ckpt-4")
    assert contents == checkpoints.contents_of_file(path)
    # As TensorFlow lists them: the variables, the history, and two of its own.
    assert len(contents) == len(tf.train.list_variables(path)) - 2
    assert len(contents) == len({id(v) for v in helpers.variables_of(run)}) + 1


def test_a_part_under_a_name_of_the_run_is_refused(tmp_path):
    run = run_of(pair)
    run.also["generator"] = pair()[1]
    with pytest.raises(TypeError, match="generator"):
        save(run, tmp_path)


def test_history_keeps_every_float_exactly(tmp_path):
    run = run_of(pair)
    awkward = [0.1, 1 / 3, math.pi * 1e-300, 5e-324, -0.0, float(np.float32(0.1)), 1e308, 2**53 + 2]
    run.history.clear()
    run.history.update(d_loss=awkward, empty=[])
    save(run, tmp_path)
    run.history.clear()
    run.history.update(stale=[1.0])
    checkpoints.resume(run, tmp_path)
    assert run.history == {"d_loss": awkward, "empty": []}
    assert math.copysign(1, run.history["d_loss"][4]) == -1
    assert run.history["d_loss"][1] != float(np.float32(1 / 3))


def test_resume_on_an_empty_folder_changes_nothing(tmp_path):
    run = run_of()
    before = frozen(run)
    assert checkpoints.resume(run, tmp_path / "new") == 99
    assert frozen(run) == before


def test_the_generator_alone_is_restored_to_the_bit(tmp_path):
    run, generator = run_of(), dropout_pair()[1]
    save(run, tmp_path)
    status = tf.train.Checkpoint(generator=generator).restore(str(tmp_path / "ckpt-99"))
    status.assert_existing_objects_matched().expect_partial()
    assert helpers.same_bits(generator.get_weights(), run.generator.get_weights())


# Saves are numbered by the step.


def counting_step(real, step):
    return {"d_loss": tf.reduce_mean(real)}


def test_saves_are_numbered_by_step_and_the_last_are_kept(tmp_path):
    run = unjudged()

    def train(steps, **settings):
        callbacks = [checkpoints.saver(run, tmp_path, keep=2)]
        settings |= {"steps": steps, "callbacks": callbacks, "every": 3}
        training.train(run, counting_step, helpers.make_batches, **settings)

    for _ in range(2):  # a cell that is run twice saves the same thing once
        train(11)
        assert saved_steps(tmp_path) == [9, 11]  # 3 and 6 are gone; the end is saved, too
        assert sorted(p.stem for p in tmp_path.glob("*.index")) == ["ckpt-11", "ckpt-9"]
    train(13)
    assert saved_steps(tmp_path) == [12, 13]
    again = unjudged()
    assert checkpoints.resume(again, tmp_path) == 13 and frozen(again) == frozen(run)


def test_two_folders_of_one_run_do_not_disturb_each_other(tmp_path):
    run, best, last = unjudged(), tmp_path / "best", tmp_path / "last"
    for number in (2, 4, 6):
        fill(run, number)
        save(run, last, keep=2)
        if number == 4:
            save(run, best, keep=1)
    assert saved_steps(last) == [4, 6] and saved_steps(best) == [4]
    assert checkpoints.resume(run, best) == 4 and len(run.history["d_loss"]) == 4
    assert checkpoints.resume(run, last) == 6 and len(run.history["d_loss"]) == 6


# A save of another run.


def float64_judge():
    keras.config.set_dtype_policy("float64")
    try:
        discriminator = dropout_pair()[0]
    finally:
        keras.config.set_dtype_policy("float32")
    return discriminator, dropout_pair()[1]


def sized(**sizes):
    return functools.partial(run_of, functools.partial(dropout_pair, **sizes))


def without_dropout():
    return run_of(lambda: (pair()[0], dropout_pair()[1]))


def without_batch_norm():
    return run_of(lambda: (dropout_pair()[0], pair()[1]))


# What differs, and a line of the error that says so.
OTHERS = {
    "wider G": (sized(g_widths=(7,)), r"g_variables/0 .*\(3, 5\) in the file.*\(3, 7\) here"),
    "wider D": (sized(d_widths=(7,)), r"d_variables/0 .*\(16, 6\) in the file.*\(16, 7\) here"),
    "deeper D": (sized(d_widths=(6, 6)), r"nothing in the file.*\(6, 1\) here"),
    "shallower D": (sized(d_widths=()), r"\(16, 6\) in the file.*\(16, 1\) here"),
    "longer latents": (sized(latent_dim=4), r"\(3, 5\) in the file.*\(4, 5\) here"),
    "no dropout": (without_dropout, "seed.*nothing here"),
    "no batch norm": (without_batch_norm, r"\(5,\) in the file, nothing here"),
    "lists of models": (of_lists, "nothing in the file"),
    "Adam": (functools.partial(run_of, make_optimizer=adam), "optimizer.*nothing in the file"),
    "float64": (
        functools.partial(run_of, float64_judge),
        r"float32 \(16, 6\) in the file.*float64 \(16, 6\) here",
    ),
    "average": (functools.partial(run_of, average=True), "average/.*nothing in the file"),
}


def refused(run, folder, line):
    before = frozen(run)
    with pytest.raises(ValueError, match=line) as caught:
        checkpoints.resume(run, folder)
    assert str(folder / "ckpt-4") in str(caught.value) and "fresh folder" in str(caught.value)
    assert frozen(run) == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(run_of(number=4), folder)
    return folder


@pytest.mark.parametrize("title", OTHERS)
def test_a_save_of_another_run_is_refused_and_memory_is_as_it_was(title, saved):
    new_run, line = OTHERS[title]
    refused(new_run(), saved, line)


def test_a_save_of_more_and_one_of_less_is_refused(tmp_path):
    save(run_of(average=True, make_optimizer=adam, number=4), tmp_path)
    refused(run_of(make_optimizer=adam), tmp_path, "average/.*in the file, nothing here")
    refused(run_of(average=True), tmp_path, "optimizer.*in the file, nothing here")
    run = run_of()
    parts = tf.train.Checkpoint(discriminator=run.discriminator, generator=run.generator)
    parts.write(str(tmp_path / "ckpt-4"))
    refused(run, tmp_path, r"d_variables/0 kernel: nothing in the file, float32 \(16, 6\) here")
