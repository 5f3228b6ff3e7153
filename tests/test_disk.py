"""A disk that fills up, or may not be written, costs a run nothing: it goes on once there is room.

Oracle: the run that never met the trouble, bit for bit, at every save.
"""

import errno
import os
import shutil

import disks
import helpers
import pytest
from helpers import frozen, saved_steps

from ganutils import checkpoints

EVERY, BEFORE, FAILS, END = 2, 4, 6, 9  # saved at 2 and 4, then no room at 6


def go(run, folder, train_step, steps, starts=None, **options):
    """The line that a reader runs again and again; `starts` notes where it went on from."""

    def noted(start):
        if starts is not None:
            starts.append(start)
        return helpers.make_batches(start)

    options |= {"steps": steps, "every": EVERY, "keep": 2}
    return checkpoints.resume_and_train(run, folder, train_step, noted, **options)


def listing(folder):
    """Every file below a folder, and its bytes."""
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def check_failure(call, folder, number, step):
    try:
        call()
    except OSError as error:
        message = str(error)
    else:
        raise AssertionError("No error although there was trouble.")
    for words in (f"Step {step} could not be saved in {folder}", os.strerror(number), "make room"):
        assert words in message, message


def uninterrupted(folder):
    """What a run that meets no trouble stands at, from save to save."""
    (run, train_step), stands = helpers.tiny_run(), {}
    go(run, folder, train_step, END, callbacks=[lambda p: stands.update({p.step: frozen(run)})])
    assert list(stands) == [2, 4, 6, 8, 9] and len({str(stand) for stand in stands.values()}) == 5
    return stands


def check_run(folder, trouble, number, stands):
    """A run meets trouble, twice, goes on when it is over, and nobody can tell."""
    (run, train_step), starts = helpers.tiny_run(), []
    go(run, folder, train_step, BEFORE, starts)
    before = listing(folder)
    assert {"checkpoint", "ckpt-2.index", "ckpt-4.index"} <= before.keys()
    with trouble():
        for _ in range(2):  # the same line once more, with no room made
            check_failure(lambda: go(run, folder, train_step, END, starts), folder, number, FAILS)
            assert listing(folder) == before
            assert frozen(run) == stands[FAILS]
    other, _ = helpers.tiny_run(99)  # as a process that starts now
    assert checkpoints.resume(other, folder) == BEFORE and frozen(other) == stands[BEFORE]
    go(run, folder, train_step, END, starts)
    assert frozen(run) == stands[END]
    assert starts == [0, BEFORE, FAILS]  # from memory: no step was taken twice
    assert checkpoints.resume(other, folder) == END and frozen(other) == stands[END]
    assert not [name for name in listing(folder) if "tmp" in name or "temp" in name]
    assert len(listing(folder)) == 5  # two saves of two files, and their list


def check_first_save(folder, trouble, number, stands):
    """Nothing is saved yet, and nothing can be."""
    run, train_step = helpers.tiny_run()
    with trouble():
        check_failure(lambda: go(run, folder, train_step, END), folder, number, EVERY)
        assert listing(folder) == {} and frozen(run) == stands[EVERY]
    assert checkpoints.resume(helpers.tiny_run()[0], folder) == 0
    go(run, folder, train_step, END)
    assert frozen(run) == stands[END]


def check_rooms(folder, trouble, number, stands):
    """A save breaks off wherever it can."""
    run, _ = helpers.tiny_run()
    run.step.assign(1)
    run.history["d_loss"] = list(range(5000))  # some pages
    helpers.save(run, folder)
    before, failures = listing(folder), 0
    run.step.assign(2)
    size = sum(map(len, before.values()))
    for room in range(0, 2 * size, 4096 if number == errno.ENOSPC else 500):
        with trouble(room=room):
            try:
                helpers.save(run, folder)
                break
            except OSError:
                failures += 1
                assert listing(folder) == before, room
                assert saved_steps(folder) == [1]
    assert failures > 3 and saved_steps(folder) == [1, 2]
    other, _ = helpers.tiny_run(99)
    checkpoints.resume(other, folder)
    assert frozen(other) == frozen(run)


def check(folder, trouble, number):
    """In the child, with an empty folder for each."""
    stands = uninterrupted(folder.parent / "reference")
    checks = [check_run, check_first_save, check_rooms]
    for part in checks if number in (errno.ENOSPC, errno.EFBIG) else checks[:1]:
        part(folder, trouble, number, stands)
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("kind", disks.TROUBLES)
def test_trouble_with_the_disk_costs_a_run_nothing(kind):
    errors = disks.run(__file__, kind, "check")
    assert "Exception ignored" not in errors and "Warning" not in errors, errors


if __name__ == "__main__":
    disks.main(globals())
