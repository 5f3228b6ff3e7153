"""A save is all of a run, every bit of it; into another run it is refused. Nobody trains here."""

import functools
import math
import warnings
from pathlib import Path

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import adam, dropout_pair, fill, frozen, momentum, pair, save, saved_steps

from ganutils import checkpoints, layers, networks, training
from ganutils.families import aae, bigan, conditional, lapgan, mode_collapse


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
    means = mode_collapse.HistoricalAverage(generator.trainable_variables)
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


# Made-up numbers are made-up step sizes, too.
any_step_size = pytest.mark.filterwarnings("ignore:[dg]_optimizer learning_rate")


@any_step_size
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
    assert len(contents) == len({id(v) for v in helpers.variables_of(run)}) + 2  # with settings


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


def test_numbers_of_any_kind_in_the_history_are_saved_and_what_is_none_is_named(tmp_path):
    run, x = unjudged(), 0.1
    kinds = [np.float32(x), np.float64(x), np.float16(x), np.int64(3), 3, np.array(x), math.nan]
    kinds += [tf.constant(x), tf.constant(x, tf.bfloat16), keras.Variable(x)]
    run.history.update(score=kinds, rows=np.array([1.5, 2.0]))
    save(run, tmp_path)
    expected = [float(kind) for kind in kinds]
    checkpoints.resume(run, tmp_path)
    np.testing.assert_array_equal(run.history["score"], expected)
    assert all(type(value) in (float, int) for value in run.history["score"])
    assert run.history["rows"] == [1.5, 2.0]
    for name, bad in (("worst", [object()]), ("worst", [1j]), ("worst", {1}), (7, [1.0])):
        run.history.clear()
        run.history.update({"d_loss": [1.0], name: bad})
        run.step.assign(run.step + 1)
        with pytest.raises(TypeError, match=rf"history\[{name!r}\] cannot be saved"):
            save(run, tmp_path)
        assert saved_steps(tmp_path) == [0] and len(list(tmp_path.iterdir())) == 3


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


@any_step_size
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
    parts = {"history": checkpoints.History(run.history)}  # as before optimizers were described
    parts |= {x: getattr(run, x) for x in ("discriminator", "generator", "step")}
    parts |= {x: getattr(run, x) for x in ("d_optimizer", "g_optimizer")}
    parts["d_variables"] = checkpoints._numbered(run.discriminator)
    parts["g_variables"] = checkpoints._numbered(run.generator)
    tf.train.Checkpoint(**parts).write(str(tmp_path / "ckpt-4"))
    refused(run, tmp_path, "optimizer_settings: nothing in the file")


# What the optimizers are.

OPTIMIZERS = {
    "Adam": lambda **more: keras.optimizers.Adam(**{"learning_rate": 1e-3, "beta_1": 0.5} | more),
    "AdamW": lambda **more: keras.optimizers.AdamW(**{"learning_rate": 1e-3, "beta_1": 0.5} | more),
}


def judged_by(name="Adam", **settings):
    """A run of one optimizer alone."""
    model = pair()[0]
    run = training.Run(None, model, d_optimizer=None, g_optimizer=OPTIMIZERS[name](**settings))
    run.step.assign(4)
    return run


@pytest.mark.parametrize(
    "name, settings, line",
    [
        ("AdamW", {}, "g_optimizer: Adam in the file, AdamW here"),
        ("AdamW", {"weight_decay": 0.0}, "g_optimizer: Adam in the file, AdamW here"),
        ("Adam", {"beta_1": 0.9}, "g_optimizer beta_1: 0.5 in the file, 0.9 here"),
        ("Adam", {"epsilon": 1e-8}, "g_optimizer epsilon: 1e-07 in the file, 1e-08 here"),
        ("Adam", {"clipnorm": 1.0}, "g_optimizer clipnorm: None in the file, 1.0 here"),
        ("Adam", {"learning_rate": 1e-5, "beta_2": 0.99}, "beta_2: 0.999 in the file, 0.99 here"),
    ],
)
def test_another_optimizer_is_refused_though_its_slots_would_fit(name, settings, line, tmp_path):
    save(judged_by(), tmp_path)
    refused(judged_by(name, **settings), tmp_path, line)


def test_settings_that_agree_but_for_float32s_rounding_are_the_same(tmp_path):
    save(judged_by(beta_1=np.float32(0.9), beta_2=np.float64(np.float32(0.99))), tmp_path)
    with warnings.catch_warnings(action="error"):
        assert checkpoints.resume(judged_by(beta_1=0.9, beta_2=0.99), tmp_path) == 4


def test_another_step_size_is_told_and_the_saved_one_is_used(tmp_path):
    save(judged_by(), tmp_path)
    run = judged_by(learning_rate=1e-5)
    advice = r"0.001 in the file, 1e-05 here.*run.g_optimizer.learning_rate.assign\(1e-05\)"
    with pytest.warns(UserWarning, match=advice) as caught:
        checkpoints.resume(run, tmp_path)
    assert len(caught) == 1 and float(run.g_optimizer.learning_rate) == pytest.approx(1e-3)
    run.g_optimizer.learning_rate.assign(1e-5)  # as the warning says
    training.train(
        run,
        lambda real, step: {},
        helpers.make_batches,
        steps=5,
        callbacks=[checkpoints.saver(run, tmp_path)],
    )
    with warnings.catch_warnings(action="error"):
        assert checkpoints.resume(judged_by(learning_rate=1e-5), tmp_path) == 5
    with pytest.warns(UserWarning, match="1e-05 in the file, 0.001 here"):
        checkpoints.resume(judged_by(), tmp_path)


class Undescribed(keras.optimizers.schedules.LearningRateSchedule):
    """As a reader writes it, without get_config."""

    def __call__(self, step):
        return 0.01


def rate():
    return 0.01


def test_a_schedule_is_a_part_of_the_run(tmp_path):
    decay = keras.optimizers.schedules.ExponentialDecay
    for i, make in enumerate([lambda: decay(0.1, 10, 0.9), Undescribed, lambda: rate]):
        folder = tmp_path / f"{i}"
        save(judged_by(learning_rate=make()), folder)
        with warnings.catch_warnings(action="error"):
            assert checkpoints.resume(judged_by(learning_rate=make()), folder) == 4
    line = "g_optimizer learning_rate: .*decay_rate': '0.9'.* in the file, .*'0.5'.* here"
    refused(judged_by(learning_rate=decay(0.1, 10, 0.5)), tmp_path / "0", line)
    refused(judged_by(), tmp_path / "0", "_learning_rate: nothing in the file")


# Folders.


@pytest.mark.parametrize("name", ["a[1]", "a]", "*", "what?", "back\\slash", "[x]/deep"])
def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused_at_the_door(name, tmp_path):
    run, folder = unjudged(), tmp_path / name
    for call in (
        lambda: checkpoints.saver(run, folder),
        lambda: checkpoints.resume(run, str(folder)),
        lambda: checkpoints.resume_and_train(run, folder, None, None, steps=1),
    ):
        with pytest.raises(ValueError, match="(?s)folder.*pattern.*another folder"):
            call()
    assert list(tmp_path.iterdir()) == []


@any_step_size
@pytest.mark.parametrize(
    "name", ["a b", "漢字 äß 🙂", "runs/", "./deep/er", "../up", "100%", "{a},$b'\"", "~/runs", "."]
)
def test_any_other_folder_is_saved_to_and_resumed_from(name, tmp_path, monkeypatch):
    """Relative, from the home folder, a text or a path."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run, other = unjudged(), unjudged()
    fill(run, 4)
    save(run, name)
    assert checkpoints.resume(other, Path(name)) == 4 and frozen(other) == frozen(run)
    assert ("home" in [path.name for path in tmp_path.iterdir()]) == (name == "~/runs")
    assert list(tmp_path.rglob("ckpt-4.index"))


def test_a_file_and_an_empty_text_are_no_folders(tmp_path):
    file = tmp_path / "notes"
    file.write_text("mine")
    for folder in (file, file / "runs"):
        with pytest.raises(NotADirectoryError, match="notes.*is a file"):
            checkpoints.saver(unjudged(), folder)
    with pytest.raises(ValueError, match="folder is an empty text"):
        checkpoints.resume(unjudged(), "")
    assert file.read_text() == "mine"


# Given away.


@pytest.mark.slow
def test_saved_models_are_loaded_in_another_program_that_imports_the_layers_alone(tmp_path):
    shape, label = (8, 8, 1), np.array([1, 2], np.int32)
    small = networks.dcgan_discriminator(shape, widths=(3,))
    two = networks.dcgan_discriminator((8, 8, 2), widths=(3,))
    points = functools.partial(networks.point_network, 2, 1, widths=(4,))
    models = {
        "dcgan": networks.dcgan_generator(3, shape, widths=(4, 4, 3)),
        "laplacian": lapgan.lapgan_generator(shape, widths=(4, 4, 4)),
        "heads": networks.with_heads(small, 1, 3, 2),
        "bigan": bigan.joint_discriminator(small, 3, units=4),
        "encoder": aae.clustering_encoder(small, 2, 3),
        "conditional": conditional.joined_discriminator(two, 3),
        "projection": conditional.projection_discriminator(small, 3),
        "ops": networks.mlp_generator(3, shape, widths=(4,), after_dense=keras.ops.gelu),
        "points": points(dense=lambda n: layers.SpectralNormalization(keras.layers.Dense(n))),
    }
    draw = np.random.default_rng(0)
    for name, model in models.items():
        x = [draw.normal(size=(2, *i.shape[1:])).astype("float32") for i in model.inputs]
        x = [label if "int" in i.dtype else a for i, a in zip(model.inputs, x, strict=True)]
        y = tf.nest.flatten(model(x if len(x) > 1 else x[0]))
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", *x, **{f"y{i}": part for i, part in enumerate(y)})
    program = """
from ganutils import layers
import sys, keras, numpy as np, pathlib
for path in pathlib.Path(sys.argv[1]).glob("*.keras"):
    model, saved = keras.models.load_model(path), np.load(path.with_suffix(".npz"))
    x = [saved[name] for name in saved if name.startswith("arr")]
    y = model(x if len(x) > 1 else x[0])
    y = y if isinstance(y, (list, tuple)) else [y]
    assert all(np.array_equal(part, saved[f"y{i}"]) for i, part in enumerate(y)), path
    print(path.stem)
"""
    assert set(helpers.fresh_python(program, tmp_path).split()) == set(models)
