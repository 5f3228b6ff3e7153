"""A disk that fills up, or may not be written, costs a run nothing: it goes on once there is room.

Oracle: the run that never met the trouble, bit for bit, at every save.
"""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import errno
import functools
import shutil
from types import SimpleNamespace

import disks
import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import checkpoints, data, losses, networks, updates

assert runtime  # used by being imported

SHAPE = (2, 2, 1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (20, *SHAPE)).astype(np.float32)
MAKE_BATCHES = functools.partial(data.batches, IMAGES, 4, seed=0)
EVERY, BEFORE, FAILS, END = 2, 4, 6, 9  # saved at 2 and 4, then no room at 6
REASONS = {
    errno.ENOSPC: "No space left on device",
    errno.EFBIG: "File too large",
    errno.EACCES: "Permission denied",
    errno.EROFS: "Read-only file system",
}


def new_run(folder):
    """Everything that a process loses when it ends, over a folder."""
    keras.utils.set_random_seed(1)
    run = SimpleNamespace(step=tf.Variable(0, dtype=tf.int64), history={}, starts=[])
    run.discriminator = networks.mlp_discriminator(SHAPE, widths=(3,))
    run.generator = networks.mlp_generator(2, SHAPE, widths=(3,))
    run.optimizers = [keras.optimizers.SGD(1e-2, momentum=0.9) for _ in range(2)]
    optimizers = dict(zip(("d_optimizer", "g_optimizer"), run.optimizers, strict=True))
    players = run.discriminator, run.generator
    run.train_step = updates.make_train_step(
        *players, **optimizers, objective=losses.non_saturating, latent_dim=2, seed=3
    )
    checkpoint = checkpoints.make_checkpoint(
        *players, **optimizers, step=run.step, history=run.history
    )
    run.manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    return run


def train(run, steps, **options):
    """The line that a reader runs again and again; `starts` notes where it went on from."""

    def make_batches(start):
        run.starts.append(start)
        return MAKE_BATCHES(start=start)

    return checkpoints.resume_and_train(
        run.train_step, make_batches, manager=run.manager, steps=steps, every=EVERY, **options
    )


def frozen(run):
    """Every number of a run, and its history."""
    owners = run.discriminator, run.generator, *run.optimizers
    numbers = [v.numpy().tobytes() for owner in owners for v in owner.variables]
    return int(run.step), numbers, {name: list(values) for name, values in run.history.items()}


def listing(folder):
    """Every file below a folder, and its bytes."""
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def failure(call):
    """The OSError that a call raises."""
    try:
        call()
    except OSError as error:
        return error
    raise AssertionError("No error although there was trouble.")


def check_message(error, folder, number, step):
    message = str(error)
    assert f"Step {step} could not be saved in {folder}" in message, message
    assert REASONS[number] in message, message
    assert "make room, or the folder writable, and run the same once more" in message, message


def uninterrupted(folder):
    """What a run that meets no trouble stands at, from step to step."""
    folder.mkdir()
    run, stands = new_run(folder), {}
    train(run, END, callbacks=[lambda progress: stands.update({progress.step: frozen(run)})])
    assert list(stands) == [2, 4, 6, 8, 9]
    assert len({str(stand[1]) for stand in stands.values()}) == 5  # the oracle tells them apart
    return stands


def check_run(folder, trouble, number, stands):
    """A run meets trouble, twice, goes on when it is over, and nobody can tell."""
    run = new_run(folder)
    train(run, BEFORE)
    before = listing(folder)
    assert {"checkpoint", "ckpt-2.index", "ckpt-4.index"} <= before.keys()
    with trouble():
        for _ in range(2):  # the same line once more, with no room made
            check_message(failure(lambda: train(run, END)), folder, number, FAILS)
            assert listing(folder) == before
            assert frozen(run) == stands[FAILS]
    other = new_run(folder)  # as a process that starts now
    assert checkpoints.resume(other.manager) == BEFORE
    assert frozen(other) == stands[BEFORE]
    train(run, END)
    assert frozen(run) == stands[END]
    assert run.starts == [0, BEFORE, FAILS]  # from memory: no step was taken twice
    other = new_run(folder)
    assert checkpoints.resume(other.manager) == END
    assert frozen(other) == stands[END]
    assert not [name for name in listing(folder) if "tmp" in name or "temp" in name]
    assert len(listing(folder)) == 5  # two checkpoints of two files, and their list


def check_first_save(folder, trouble, number, stands):
    """No checkpoint yet, and none can be written."""
    run = new_run(folder)
    with trouble():
        check_message(failure(lambda: train(run, END)), folder, number, EVERY)
        assert listing(folder) == {}
        assert frozen(run) == stands[EVERY]
    assert checkpoints.resume(new_run(folder).manager) == 0
    train(run, END)
    assert frozen(run) == stands[END]


def check_rooms(folder, trouble, number, stands):
    """A save breaks off wherever it can."""
    run = new_run(folder)
    run.history["d_loss"] = list(range(5000))  # some pages
    save = checkpoints.saver(run.manager)
    progress = SimpleNamespace(step=1)
    save(progress)
    before, failures = listing(folder), 0
    progress.step = 2
    size = sum(map(len, before.values()))
    for room in range(0, 2 * size, 4096 if number == errno.ENOSPC else 500):
        with trouble(room=room):
            try:
                save(progress)
                break
            except OSError as error:
                check_message(error, folder, number, 2)
                failures += 1
                assert listing(folder) == before, room
                assert run.manager.checkpoints == [str(folder / "ckpt-1")], room
        reader = tf.train.CheckpointManager(run.manager.checkpoint, str(folder), max_to_keep=2)
        assert reader.latest_checkpoint == str(folder / "ckpt-1")
    assert failures > 3 and run.manager.latest_checkpoint == str(folder / "ckpt-2")
    other = new_run(folder)
    checkpoints.resume(other.manager)
    assert frozen(other) == frozen(run)


def check(folder, trouble, number):
    """In the child, with an empty folder for each."""
    stands = uninterrupted(folder.parent / "reference")
    checks = [check_run, check_first_save, check_rooms]
    for part in checks if number in (errno.ENOSPC, errno.EFBIG) else checks[:1]:
        part(folder, trouble, number, stands)
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize("kind", disks.TROUBLES)
def test_trouble_with_the_disk_costs_a_run_nothing(kind):
    errors = disks.run(__file__, kind, "check")
    assert "Exception ignored" not in errors and "Warning" not in errors, errors


if __name__ == "__main__":
    disks.main(globals())
