"""Damaged, lost and foreign checkpoints: the one before is used and the damage named, or an error.

Each oracle holds every number of the run, before and after: a restore in part cannot pass.
"""

import functools
import os
import shutil
import warnings
from types import SimpleNamespace

import kill_resume  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import pytest
import systems
import tensorflow as tf

from ganutils import checkpoints, networks, training

STEPS = (2, 4, 6)  # of the saves; 6 is the newest
INDEX, DATA = "ckpt-6.index", "ckpt-6.data-00000-of-00001"
TINY = kill_resume.SYSTEMS["tiny"]


def fill(run, seed):
    """Give every number of a run a value of its own, which decides on nothing but the seed."""
    draw = np.random.default_rng(seed)
    for part in kill_resume.parts(run.system).values():
        for variable in part.variables:
            values = draw.integers(1, 1000, variable.shape)
            variable.assign(values.astype(tf.as_dtype(variable.dtype).as_numpy_dtype))
    run.step.assign(seed)
    run.history.clear()
    run.history.update({name: draw.normal(size=seed).tolist() for name in ("d_loss", "g_loss")})


def new_run(system=TINY, *, seed=99, make_checkpoint=systems.make_checkpoint):
    """A run in memory, none of whose numbers are those of a save."""
    run = SimpleNamespace(system=systems.start(system, seed=1))
    run.step, run.history = tf.Variable(0, dtype=tf.int64), {}
    run.checkpoint = make_checkpoint(run.system, step=run.step, history=run.history)
    fill(run, seed)
    return run


def state(run):
    return kill_resume.state(run.system, run.step, run.history)


def identical(first, second):
    return first.keys() == second.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in ((first[name], second[name]) for name in first)
    )


def manager_of(run, folder):
    return tf.train.CheckpointManager(run.checkpoint, str(folder), max_to_keep=len(STEPS))


def save(run, manager):
    checkpoints.saver(manager)(training.Progress(int(run.step), 100, run.history, 0.0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with three saves, and the states that they hold."""
    folder, run, states = tmp_path_factory.mktemp("saved"), new_run(), {}
    manager = manager_of(run, folder)
    for step in STEPS:
        fill(run, step)
        states[step] = state(run)
        save(run, manager)
    return SimpleNamespace(folder=folder, states=states, run=run)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved.folder, tmp_path / "copy")


def resumed(run, folder):
    """Resume with nothing of the saves in memory; return the step and the warnings."""
    fill(run, 99)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step = checkpoints.resume(manager_of(run, folder))
    return step, [str(warning.message) for warning in caught if warning.category is UserWarning]


def restores(step, saved, folder):
    """Resume; whether just that save is in memory afterwards is asserted. Return the warnings."""
    found, told = resumed(saved.run, folder)
    assert found == step
    assert identical(state(saved.run), saved.states[step])
    return told


def goes_on_from(step, saved, folder, *, names=()):
    """Whether a resume restores just that save, with a warning that has each name, or with none."""
    told = restores(step, saved, folder)
    assert len(told) == bool(names), told
    assert all(name in text for text in told for name in names), told
    return True


def cut(name, share, less=0):
    def damage(folder):
        size = (folder / name).stat().st_size
        os.truncate(folder / name, int(size * share) - less)

    return damage


def lose(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def exchange(suffix):
    """Put one half of the save before in place of the newest one's."""
    return lambda folder: shutil.copy(folder / f"ckpt-4{suffix}", folder / f"ckpt-6{suffix}")


def blank(name):
    return lambda folder: (folder / name).write_bytes(bytes((folder / name).stat().st_size))


def bury(name):
    """A folder where the file was."""

    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


DAMAGES = {
    f"{name}, {title}": damage
    for name in (INDEX, DATA)
    for title, damage in {
        "empty": cut(name, 0),
        "1 byte": cut(name, 0, less=-1),
        "half": cut(name, 0.5),
        "but 1 byte": cut(name, 1, less=1),
        "but 48 bytes": cut(name, 1, less=48),
        "zeros": blank(name),
        "a folder": bury(name),
        "gone": lose(name),
    }.items()
} | {
    "gone": lose(INDEX, DATA),
    "the index of another": exchange(".index"),
    "the data of another": exchange(".data-00000-of-00001"),
}


# ---------------------------------------------------------------- the newest one is damaged


def test_whole_saves_are_restored_without_a_word(saved, folder):
    assert goes_on_from(6, saved, folder)
    assert not any(identical(saved.states[6], saved.states[step]) for step in STEPS[:2])


@pytest.mark.parametrize("title", DAMAGES)
def test_the_save_before_a_damaged_one_is_used(title, saved, folder):
    DAMAGES[title](folder)
    assert goes_on_from(4, saved, folder, names=[str(folder / "ckpt-6")])


def test_two_damaged_ones_are_both_named(saved, folder):
    cut(DATA, 0.5)(folder)
    lose("ckpt-4.index")(folder)
    names = [str(folder / "ckpt-6"), str(folder / "ckpt-4")]
    assert goes_on_from(2, saved, folder, names=names)


def test_bytes_behind_the_end_do_no_harm(saved, folder):
    with (folder / DATA).open("ab") as file:
        file.write(b"more")
    assert goes_on_from(6, saved, folder)


def test_saving_again_replaces_the_damaged_one(saved, folder):
    cut(DATA, 0.5)(folder)
    assert goes_on_from(4, saved, folder, names=["ckpt-6"])
    manager = manager_of(saved.run, folder)
    fill(saved.run, 6)
    save(saved.run, manager)
    assert [kill_resume.number(path) for path in manager.checkpoints] == [2, 4, 6]
    assert goes_on_from(6, saved, folder)


def flipped(path, positions):
    """Flip one bit of a file at each position, one after the other; yield the position."""
    content = path.read_bytes()
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        yield position
    path.write_bytes(content)


def readable(path):
    """What a save holds, if it can be read from end to end; else None."""
    try:
        checkpoints.contents_of_file(path)
    except Exception:
        return None
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def same_contents(first, second):
    return first.keys() == second.keys() and all(
        np.asarray(first[name]).tobytes() == np.asarray(second[name]).tobytes()
        if np.asarray(first[name]).dtype.kind != "O"
        else first[name] == second[name]
        for name in first
    )


def test_a_flipped_bit_is_detected_or_does_no_harm(saved, folder):
    path = str(folder / "ckpt-6")
    whole, harmless = readable(path), []
    size = (folder / DATA).stat().st_size
    positions = {
        INDEX: range((folder / INDEX).stat().st_size),
        DATA: sorted(np.random.default_rng(0).choice(size, 600, replace=False).tolist()),
    }
    for name, where in positions.items():
        for position in flipped(folder / name, where):
            contents = readable(path)
            if contents is not None:
                assert same_contents(contents, whole), (name, position)
                harmless.append((name, position))
    # Only the last bytes of an index, which it does not use, are without a checksum.
    assert all(name == INDEX for name, _ in harmless) and len(harmless) < 100
    for name, where in positions.items():
        spared = {position for other, position in harmless if other == name}
        for position in flipped(folder / name, [*where[:: len(where) // 15], *sorted(spared)[::9]]):
            if position in spared:
                assert goes_on_from(6, saved, folder)
            else:
                assert goes_on_from(4, saved, folder, names=["ckpt-6"])
    assert goes_on_from(6, saved, folder)


# ---------------------------------------------------------------- the list of saves is damaged


LISTS = {
    "gone": None,
    "words": b"not a list of checkpoints",
    "half": b'model_checkpoint_path: "ckpt-6"\nall_model_checkpoint_pa',
}


@pytest.mark.parametrize("title", LISTS)
def test_without_its_list_a_folder_is_searched(title, saved, folder):
    (folder / "checkpoint").unlink()
    if LISTS[title]:
        (folder / "checkpoint").write_bytes(LISTS[title])
    assert goes_on_from(6, saved, folder, names=["the list of saves", "ckpt-6"])


@pytest.mark.parametrize("content", [b"", bytes(range(256))])
def test_a_list_that_tensorflow_refuses_costs_nothing_but_the_list(content, saved, folder):
    (folder / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="Invalid checkpoint state loaded from|decode byte"):
        manager_of(saved.run, folder)
    (folder / "checkpoint").unlink()
    assert goes_on_from(6, saved, folder, names=["the list of saves"])


def test_a_flipped_bit_in_the_list_leads_to_a_whole_save_or_to_an_error(saved, folder):
    refusals, size = 0, (folder / "checkpoint").stat().st_size
    for position in flipped(folder / "checkpoint", range(0, size, 6)):
        fill(saved.run, 99)
        before = state(saved.run)
        try:
            manager = manager_of(saved.run, folder)
        except ValueError:  # TensorFlow's
            refusals += 1
            assert identical(state(saved.run), before), position
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert (step := checkpoints.resume(manager)) in STEPS, position
        assert identical(state(saved.run), saved.states[step]), position
    assert refusals < size / 12  # most of them do reach resume


def test_without_its_list_damage_is_passed_over(saved, folder):
    (folder / "checkpoint").unlink()
    cut(DATA, 0.5)(folder)
    assert goes_on_from(4, saved, folder, names=[str(folder / "ckpt-6")])


def test_a_folder_whose_list_has_only_what_is_gone_is_searched(saved, folder):
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n'
        "all_model_checkpoint_timestamps: 1e9\nlast_preserved_timestamp: 1e8\n"
    )
    assert goes_on_from(6, saved, folder, names=[str(folder / "ckpt-9")])


def test_leftovers_of_a_killed_save_do_no_harm(saved, folder):
    (folder / "ckpt-8_temp").mkdir()
    part = folder / "ckpt-8_temp" / "part-00000-of-00001.data-00000-of-00001"
    part.write_bytes((folder / DATA).read_bytes()[:5000])
    (folder / "ckpt-9.data-00000-of-00001").write_bytes(b"")
    (folder / "checkpoint.tmp0123456789").write_bytes(b"model")
    assert goes_on_from(6, saved, folder)
    fill(saved.run, 8)
    there = state(saved.run)
    save(saved.run, manager_of(saved.run, folder))
    found, told = resumed(saved.run, folder)
    assert found == 8 and told == [] and identical(state(saved.run), there)


def test_a_first_save_that_was_cut_off_is_no_obstacle(saved, tmp_path):
    shutil.copy(saved.folder / INDEX, tmp_path)
    fill(saved.run, 99)
    before = state(saved.run)
    with pytest.warns(UserWarning, match="ckpt-6"):
        assert checkpoints.resume(manager_of(saved.run, tmp_path)) == 99
    assert identical(state(saved.run), before)


# ---------------------------------------------------------------- nothing can be used


@pytest.mark.parametrize("list_too", [False, True])
def test_where_all_are_damaged_the_error_lists_each_with_its_reason(list_too, saved, folder):
    cut(DATA, 0.5)(folder)
    lose("ckpt-4.index")(folder)
    for _ in flipped(folder / "ckpt-2.data-00000-of-00001", [77]):
        if list_too:
            (folder / "checkpoint").unlink()
        fill(saved.run, 99)
        before = state(saved.run)
        with pytest.raises(OSError) as caught:
            checkpoints.resume(manager_of(saved.run, folder))
        break
    text = str(caught.value)
    reasons = {2: "hecksum|DATA_LOSS|DataLoss", 6: "OUT_OF_RANGE|Read|read"}
    if not list_too:  # else nothing tells that there ever was a ckpt-4
        reasons[4] = "Failed to find|NOT_FOUND|NotFound"
    lines = text.splitlines()
    for step, words in reasons.items():
        (line,) = [line for line in lines if f"{folder / f'ckpt-{step}'}:" in line]
        assert any(word in line for word in words.split("|")), line
    assert identical(state(saved.run), before)


# ---------------------------------------------------------------- a save of another run


def other(**changes):
    return systems.dcgan("other", TINY, **changes)


def in_float64(make):
    def made():
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float64")
        try:
            return make()
        finally:
            keras.config.set_dtype_policy(policy)

    return made


def without_average(run, *, step, history):
    return checkpoints.make_checkpoint(
        run.discriminator,
        run.generator,
        d_optimizer=run.d_optimizer,
        g_optimizer=run.g_optimizer,
        step=step,
        history=history,
    )


# What differs, and a line of the error that says so.
OTHERS = {
    "wider G": (other(g={"widths": (7,)}), r"average/.*\(3, 6\) in the file.*\(3, 7\) here"),
    "wider D": (other(d={"widths": (7,)}), r"\(64, 6\) in the file.*\(64, 7\) here"),
    "deeper D": (other(d={"widths": (6, 6)}), r"nothing in the file.*\(6, 1\) here"),
    "shallower D": (other(d={"widths": ()}), r"\(64, 6\) in the file.*\(64, 1\) here"),
    "longer latents": (
        TINY._replace(
            make_generator=functools.partial(
                networks.mlp_generator, 4, kill_resume.SMALL, **TINY.make_generator.keywords
            )
        ),
        r"\(3, 6\) in the file.*\(4, 6\) here",
    ),
    "no dropout": (other(d={"after_dense": keras.activations.relu}), r"seed.*nothing here"),
    "no batch norm": (other(g={"after_dense": keras.activations.relu}), r"nothing here"),
    "SGD": (
        other(make_optimizer=functools.partial(keras.optimizers.SGD, 0.1)),
        r"optimizer.*in the file, nothing here",
    ),
    "AMSGrad": (
        other(make_optimizer=functools.partial(keras.optimizers.Adam, 0.1, amsgrad=True)),
        r"optimizer.*nothing in the file",
    ),
    "float64": (
        TINY._replace(make_discriminator=in_float64(TINY.make_discriminator)),
        r"float32 \(64, 6\) in the file.*float64 \(64, 6\) here",
    ),
}


def refused(run, folder, line):
    before = state(run)
    with pytest.raises(ValueError, match=line) as caught:
        checkpoints.resume(manager_of(run, folder))
    assert str(folder / "ckpt-6") in str(caught.value)
    assert identical(state(run), before)


@pytest.mark.parametrize("title", OTHERS)
def test_a_save_of_another_run_is_refused_and_memory_is_as_it_was(title, saved, folder):
    system, line = OTHERS[title]
    refused(new_run(system), folder, line)


def test_a_save_with_an_average_does_not_fit_a_run_without(saved, folder):
    refused(new_run(make_checkpoint=without_average), folder, r"average/.*nothing here")


def test_a_save_without_an_average_does_not_fit_a_run_with_one(saved, tmp_path):
    run = new_run(make_checkpoint=without_average, seed=6)
    save(run, manager_of(run, tmp_path))
    refused(new_run(), tmp_path, r"average/.*nothing in the file")


def test_another_run_is_refused_even_where_the_newest_is_damaged(saved, folder):
    cut(DATA, 0.5)(folder)
    run = new_run(OTHERS["wider G"][0])
    before = state(run)
    with pytest.raises(ValueError, match=r"\(3, 6\) in the file"):
        checkpoints.resume(manager_of(run, folder))
    assert identical(state(run), before)
