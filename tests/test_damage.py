"""Damaged and lost saves: the one before is used and the damage named, or it is an error.

Each oracle holds every number of the run, before and after: a restore in part cannot pass.
"""

import os
import shutil
import warnings
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import tensorflow as tf
from helpers import fill, frozen, save, saved_steps

from ganutils import checkpoints

# A made-up step size in memory is another one than that in the file, and resume says so.
pytestmark = pytest.mark.filterwarnings("ignore:[dg]_optimizer learning_rate")

STEPS = (2, 4, 6)  # of the saves; 6 is the newest
INDEX, DATA = "ckpt-6.index", "ckpt-6.data-00000-of-00001"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with three saves, and what they hold."""
    run, _ = helpers.tiny_run(make_networks=helpers.dropout_pair, average=True)
    folder, states = tmp_path_factory.mktemp("saved"), {}
    for step in STEPS:
        fill(run, step)
        states[step] = frozen(run)
        save(run, folder)
    return SimpleNamespace(folder=folder, states=states, run=run)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved.folder, tmp_path / "copy")


def goes_on_from(step, saved, folder, *names):
    """A resume restores just that save, with one warning that has each name, or with none."""
    fill(saved.run, 99)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "[dg]_optimizer learning_rate")  # made up, too
        assert checkpoints.resume(saved.run, folder) == step
    assert frozen(saved.run) == saved.states[step]
    told = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(told) == bool(names), told
    assert all(name in text for text in told for name in names), told


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
    "gone": lose(INDEX, DATA),
    "the index of another": exchange(".index"),
    "the data of another": exchange(".data-00000-of-00001"),
}
for NAME in (INDEX, DATA):
    DAMAGES |= {
        f"{NAME}, empty": cut(NAME, 0),
        f"{NAME}, 1 byte": cut(NAME, 0, less=-1),
        f"{NAME}, half": cut(NAME, 0.5),
        f"{NAME}, but 1 byte": cut(NAME, 1, less=1),
        f"{NAME}, but 48 bytes": cut(NAME, 1, less=48),
        f"{NAME}, zeros": blank(NAME),
        f"{NAME}, a folder": bury(NAME),
        f"{NAME}, gone": lose(NAME),
    }


# The newest one is damaged.


def test_whole_saves_are_restored_without_a_word(saved, folder):
    goes_on_from(6, saved, folder)
    assert len({str(state) for state in saved.states.values()}) == 3


@pytest.mark.parametrize("title", DAMAGES)
def test_the_save_before_a_damaged_one_is_used(title, saved, folder):
    DAMAGES[title](folder)
    goes_on_from(4, saved, folder, str(folder / "ckpt-6"))


def test_two_damaged_ones_are_both_named(saved, folder):
    cut(DATA, 0.5)(folder)
    lose("ckpt-4.index")(folder)
    goes_on_from(2, saved, folder, str(folder / "ckpt-6"), str(folder / "ckpt-4"))


def test_bytes_behind_the_end_do_no_harm(saved, folder):
    with (folder / DATA).open("ab") as file:
        file.write(b"more")
    goes_on_from(6, saved, folder)


def test_saving_again_replaces_the_damaged_one(saved, folder):
    cut(DATA, 0.5)(folder)
    goes_on_from(4, saved, folder, "ckpt-6")
    fill(saved.run, 6)
    save(saved.run, folder)
    assert saved_steps(folder) == [2, 4, 6]
    goes_on_from(6, saved, folder)


def test_another_run_is_refused_even_where_the_newest_is_damaged(saved, folder):
    cut(DATA, 0.5)(folder)
    run, _ = helpers.tiny_run()
    before = frozen(run)
    with pytest.raises(ValueError, match="ckpt-4.*other parts"):
        checkpoints.resume(run, folder)
    assert frozen(run) == before


def flipped(path, positions):
    """Flip one bit of a file at each position, one after the other; yield the position."""
    content = path.read_bytes()
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        yield position
    path.write_bytes(content)


def contents(path):
    """Every number that a save holds, as text; None where it cannot be read from end to end."""
    try:
        checkpoints.contents_of_file(path)
    except Exception:
        return None
    reader = tf.train.load_checkpoint(path)
    names = sorted(reader.get_variable_to_shape_map())
    return [(name, np.asarray(reader.get_tensor(name)).tolist()) for name in names]


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_detected_or_does_no_harm(every, saved, folder):
    path, harmless = str(folder / "ckpt-6"), []
    whole = contents(path)
    for name in (INDEX, DATA):
        size = (folder / name).stat().st_size
        for position in flipped(folder / name, range(0, size, every)):
            found = contents(path)
            if found is not None:
                assert found == whole, (name, position)
                harmless.append((name, position))
            if position % (20 * every) == 0:
                if found is None:
                    goes_on_from(4, saved, folder, "ckpt-6")
                else:
                    goes_on_from(6, saved, folder)
    # Only the last bytes of an index, which it does not use, are without a checksum.
    size = (folder / INDEX).stat().st_size
    assert all(name == INDEX and size - position < 100 for name, position in harmless)
    goes_on_from(6, saved, folder)


# The list of saves is damaged.


@pytest.mark.parametrize(
    "content",
    [None, b"no list", b'model_checkpoint_path: "ckpt-6"\nall_model_checkpoint_pa'],
    ids=["gone", "words", "half"],
)
def test_without_its_list_a_folder_is_searched(content, saved, folder):
    (folder / "checkpoint").unlink()
    if content:
        (folder / "checkpoint").write_bytes(content)
    goes_on_from(6, saved, folder, "the list of saves", "ckpt-6")
    cut(DATA, 0.5)(folder)
    goes_on_from(4, saved, folder, str(folder / "ckpt-6"))


@pytest.mark.parametrize("content", [b"", bytes(range(256))], ids=["empty", "bytes"])
def test_a_list_that_tensorflow_refuses_costs_nothing_but_the_list(content, saved, folder):
    (folder / "checkpoint").write_bytes(content)
    before = frozen(saved.run)
    with pytest.raises(ValueError, match="Invalid checkpoint state|decode byte"):
        checkpoints.resume(saved.run, folder)
    assert frozen(saved.run) == before
    (folder / "checkpoint").unlink()
    goes_on_from(6, saved, folder, "the list of saves")


@pytest.mark.parametrize("every", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_the_list_leads_to_a_whole_save_or_to_an_error(every, saved, folder):
    refusals, size = 0, (folder / "checkpoint").stat().st_size
    for position in flipped(folder / "checkpoint", range(0, size, every)):
        fill(saved.run, 99)
        before = frozen(saved.run)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step = checkpoints.resume(saved.run, folder)
        except ValueError:  # TensorFlow's
            refusals += 1
            assert frozen(saved.run) == before, position
        else:
            assert frozen(saved.run) == saved.states[step], position
    assert refusals < size / every / 2  # most of them do reach resume


def test_a_folder_whose_list_has_only_what_is_gone_is_searched(saved, folder):
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n'
        "all_model_checkpoint_timestamps: 1e9\nlast_preserved_timestamp: 1e8\n"
    )
    goes_on_from(6, saved, folder, str(folder / "ckpt-9"))


def test_leftovers_of_a_killed_save_do_no_harm(saved, folder):
    (folder / "ckpt-8_temp").mkdir()
    part = folder / "ckpt-8_temp" / "part-00000-of-00001.data-00000-of-00001"
    part.write_bytes((folder / DATA).read_bytes()[:5000])
    (folder / "ckpt-9.data-00000-of-00001").write_bytes(b"")
    (folder / "checkpoint.tmp0123456789").write_bytes(b"model")
    goes_on_from(6, saved, folder)
    fill(saved.run, 8)
    eight = frozen(saved.run)
    save(saved.run, folder)
    fill(saved.run, 99)
    assert checkpoints.resume(saved.run, folder) == 8 and frozen(saved.run) == eight


def test_a_first_save_that_was_cut_off_is_no_obstacle(saved, tmp_path):
    shutil.copy(saved.folder / INDEX, tmp_path)
    fill(saved.run, 99)
    before = frozen(saved.run)
    with pytest.warns(UserWarning, match="ckpt-6"):
        assert checkpoints.resume(saved.run, tmp_path) == 99
    assert frozen(saved.run) == before


# Nothing can be used.


@pytest.mark.parametrize("listed", [True, False])
def test_where_all_are_damaged_the_error_lists_each_with_its_reason(listed, saved, folder):
    cut(DATA, 0.5)(folder)
    lose("ckpt-4.index")(folder)
    next(flipped(folder / "ckpt-2.data-00000-of-00001", [77]))
    if not listed:
        (folder / "checkpoint").unlink()
    fill(saved.run, 99)
    before = frozen(saved.run)
    with pytest.raises(OSError) as caught:
        checkpoints.resume(saved.run, folder)
    assert frozen(saved.run) == before
    reasons = {2: ("hecksum", "DATA_LOSS", "DataLoss"), 6: ("OUT_OF_RANGE", "Read", "read")}
    if listed:  # else nothing tells that there ever was a ckpt-4
        reasons[4] = ("Failed to find", "NOT_FOUND", "NotFound")
    for step, words in reasons.items():
        lines = [x for x in str(caught.value).splitlines() if f"{folder / f'ckpt-{step}'}:" in x]
        assert len(lines) == 1 and any(word in lines[0] for word in words), lines
