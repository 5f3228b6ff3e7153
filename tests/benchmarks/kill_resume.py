"""What is lost when training is killed? Nothing, if the same line is run again: this tries it.

    python tests/benchmarks/kill_resume.py --kills 100

trains in a child process with `checkpoints.resume_and_train`, kills it with SIGKILL at a random
moment, starts it again, and so on until it has ended; then compares its end bit for bit with that
of a run in yet another process that was never interrupted and never saved: weights, optimizer
slots, batch-norm statistics, averaged weights, dropout's seeds, step and history. If kills are
left, the next run begins in a fresh folder.

Some kills fall at any time, from the start of the process on. The others wait for a file to
appear or to vanish in the folder of checkpoints, which only a save does, and strike a random
instant later. After each kill every checkpoint on the folder's list is read whole. A kill counts
as one during a save where it left behind something that is on no list. Of the columns, "astray"
counts starts from an older step than that of the newest checkpoint, and "left over" the files of
cut-off saves that are still there at the end of a run; they do no harm.
"""

import functools
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
import systems
import tensorflow as tf

from ganutils import _atomic, checkpoints, data, networks, training

SAVED = record.RESULTS / "kill_resume.json"
KEEP = 3  # checkpoints in a folder
AIMED = 0.6  # share of kills that wait for a save
AT_ONCE = 0.5  # share of the others that do not wait for the first save of the process
PATIENCE = 300  # seconds without any new file, after which something must be wrong
KINDS = (  # of state, by what its name contains; the last one is what remains
    ("averaged weights", "average/"),
    ("dropout seeds", "seed_generator"),
    ("batch-norm statistics", "/moving_"),
    ("optimizer slots", "_optimizer/"),
    ("history", "history/"),
    ("step", "step"),
    ("weights", ""),
)


class Trial(NamedTuple):
    """What is trained. system: `systems.System`. images: float32. steps: length of a run. every:
    steps between two saves."""

    system: systems.System
    images: np.ndarray
    steps: int
    every: int


S5, DROPOUT = systems.SYSTEMS["S5"], systems.TRIED["dropout in D"]
SMALL = (8, 8, 1)
SYSTEMS = {
    "tiny": S5._replace(
        title="tiny MLP GAN",
        make_discriminator=functools.partial(
            networks.mlp_discriminator, SMALL, widths=(6,), after_dense=systems.leaky_dropout
        ),
        make_generator=functools.partial(
            networks.mlp_generator, 3, SMALL, widths=(6,), after_dense=systems.bn_leaky
        ),
        batch_size=8,
        latent_dim=3,
        averaged=True,
        per_call=1,
    ),
    "mlp": systems.dcgan(
        "MLP GAN of notebook 2, narrow",
        S5,
        g={"widths": (64, 128, 256)},
        d={"widths": (128, 64)},
        averaged=True,
        per_call=2,
    ),
    "dcgan": systems.dcgan(
        "the course's DCGAN, narrow, dropout in D",
        DROPOUT,
        g={"widths": (16, 16, 4)},
        d={"widths": (8, 16)},
        batch_size=16,
        fast=False,
        per_call=1,
    ),
}
EVERY = {"tiny": 1, "mlp": 2, "dcgan": 1}  # every step, or every compiled call


def make_trial(name, steps):
    """A `Trial` of `SYSTEMS[name]`, its images those of a loader that needs no network."""
    if name == "tiny":
        images = np.random.default_rng(0).uniform(-1, 1, (40, *SMALL)).astype(np.float32)
    else:
        images = data.load_images("digits")[0][:200]
    return Trial(SYSTEMS[name], images, steps, EVERY[name])


def make_batches(trial, seed):
    return functools.partial(data.batches, trial.images, trial.system.batch_size, seed=seed)


# What runs in the child processes.


def parts(run):
    """What a `training.Run` changes, by name."""
    names = ("discriminator", "generator", "average", "d_optimizer", "g_optimizer")
    return {name: getattr(run, name) for name in names}


def state(run):
    """All numbers of a run: dict from name to array."""
    arrays = {"step": run.step.numpy()}
    for name, part in parts(run).items():
        for number, variable in enumerate(part.variables):
            arrays[f"{name}/{number}/{variable.path}"] = variable.numpy()
    for name, values in run.history.items():
        arrays[f"history/{name}"] = np.array(values, np.float64)
    return arrays


def write_end(path, run):
    """Write the state of a run as an `.npz`, whole or not at all."""
    with _atomic.whole_file(path) as file:
        np.savez(file, **state(run))


def train_once(end, trial, seed):
    """Train without a save, without an interruption, and write the end."""
    run, train_step = systems.start(trial.system, seed=seed)
    training.train(
        run,
        train_step,
        make_batches(trial, seed),
        steps=trial.steps,
        per_call=trial.system.per_call,
        watch_weights=True,
    )
    write_end(end, run)


def train_on(folder, end, trial, seed):
    """Go on with a run from its last save; write the end. Note each start in starts.txt."""
    run, train_step = systems.start(trial.system, seed=seed)

    def noted(start):
        with (end.parent / "starts.txt").open("a") as file:
            file.write(f"{start}\n")
        return make_batches(trial, seed)(start=start)

    checkpoints.resume_and_train(
        run,
        folder,
        train_step,
        noted,
        steps=trial.steps,
        every=trial.every,
        per_call=trial.system.per_call,
        keep=KEEP,
    )
    write_end(end, run)


def child(work, log, *arguments):
    """Call a function; what it prints, or how it failed, goes to the end of a file."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@functools.cache
def forks():
    """Where children come from: a process that has imported TensorFlow, and done nothing yet.

    It must not have used a device: the threads that TensorFlow then starts do not survive a fork.
    `ganutils.runtime` uses one while it imports TensorFlow, so TensorFlow comes first.
    """
    context = multiprocessing.get_context("forkserver")
    ours = [f"ganutils.{room}" for room in ("checkpoints", "classifier", "data", "networks")]
    context.set_forkserver_preload(["tensorflow", *ours])
    # TensorFlow's start-up messages, in that process and those forked from it, go nowhere.
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return context


def start(context, *arguments):
    process = context.Process(target=child, args=arguments, daemon=True)
    process.start()
    return process


# What the parent sees.


def listed(folder):
    """Paths of the newest checkpoints on a folder's list, oldest first; none if there is no list.

    A longer list is that of a save which was about to delete what exceeds the manager's number.
    """
    state = tf.train.get_checkpoint_state(folder)
    return list(state.all_model_checkpoint_paths)[-KEEP:] if state else []


def number(path):
    return int(path.rpartition("-")[2])


def loose(folder):
    """Whatever lies in a folder and is on no list, with the time of its last change."""
    known = {Path(path).name for path in listed(folder)}
    entries = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}
    return {
        (name, changed)
        for name, changed in entries.items()
        if name != "checkpoint" and name.rpartition(".")[0] not in known
    }


def unreadable(folder):
    """Why checkpoints on a folder's list cannot be read to the end; a line each."""
    found = []
    for path in listed(folder):
        try:
            checkpoints.contents_of_file(path)
        except Exception as error:  # TensorFlow's reader complains in many ways
            found.append(f"{path}: {error}")
    return found


def wait_for_changes(folder, process, count):
    """Wait until names in a folder have changed so many times, or the process has ended."""
    names, last = os.listdir(folder), time.monotonic()
    while count and process.is_alive():
        time.sleep(1e-4)
        now = os.listdir(folder)
        if now != names:
            names, last, count = now, time.monotonic(), count - 1
        if time.monotonic() - last > PATIENCE:
            raise RuntimeError(f"Nothing new in {folder} for {PATIENCE} seconds.")


def strike(folder, process, chance):
    """Kill a process at a random moment, unless it ends before."""
    if chance.random() < AIMED:
        wait_for_changes(folder, process, chance.randrange(1, 40))
        time.sleep(chance.uniform(0, 3e-3))
    else:
        if chance.random() > AT_ONCE:
            wait_for_changes(folder, process, 1)
        process.join(chance.uniform(0, 3))
    process.kill()
    process.join()


def differences(end, reference):
    """Names of the arrays in which two ends differ, in value, type, shape or existence."""
    with np.load(end) as first, np.load(reference) as second:
        names = set(first) | set(second)
        for name in set(first) & set(second):
            a, b = first[name], second[name]
            if (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()):
                names.remove(name)
    return sorted(names)


def kind(name):
    return next(title for title, word in KINDS if word in name)


def contents(path):
    """How many arrays of each kind an end holds, in words."""
    with np.load(path) as arrays:
        kinds = [kind(name) for name in arrays]
    return ", ".join(f"{kinds.count(title)} {title}" for title, _ in KINDS if title in kinds)


def run_to_the_end(folder, trial, *, seed, kills, chance, work=train_on):
    """Run one training, restarted after each kill, in a folder.

    Args:
        folder: empty folder; holds the end of the run, end.npz, afterwards.
        trial: `Trial`.
        seed: of the training.
        kills: at most so many.
        chance: `random.Random`, which draws the moments.
        work: what a child does, a function with the arguments of `train_on`.

    Returns:
        Dict: "kills", "saves_hit" (of the kills), "restarts", "astray" (starts from an older step
        than that of the newest checkpoint listed), "unreadable" (lines of text), "left_over" (names
        of files that are on no list at the end).
    """
    saves, end, starts = folder / "saves", folder / "end.npz", folder / "starts.txt"
    saves.mkdir()
    starts.touch()
    found = {"kills": 0, "saves_hit": 0, "restarts": -1, "astray": [], "unreadable": []}
    exitcode = None
    while exitcode != 0:
        before, newest = loose(saves), max(map(number, listed(saves)), default=0)
        noted = len(starts.read_text().split())
        process = start(forks(), work, folder / "log.txt", saves, end, trial, seed)
        found["restarts"] += 1
        if found["kills"] < kills:
            strike(saves, process, chance)
        process.join()
        exitcode = process.exitcode
        if exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"A child failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
        if exitcode:
            found["kills"] += 1
            found["saves_hit"] += bool(loose(saves) - before)
            found["unreadable"] += unreadable(saves)
        began = [int(word) for word in starts.read_text().split()[noted:]]
        found["astray"] += [f"{newest} -> {x}" for x in began if x < newest]
    found["left_over"] = sorted(name for name, _ in loose(saves))
    return found


def torture(name, *, kills, seed, steps):
    """Kill trainings of one system until so many kills were dealt; compare each with the straight.

    name: key of `SYSTEMS`. seed: of the training, and of the moments. Returns a dict for JSON: that
    of `run_to_the_end`, summed over the runs, and "runs", "differences" (names of arrays),
    "compared" (text), "seconds".
    """
    began, trial, chance = time.perf_counter(), make_trial(name, steps), random.Random(seed)
    total = {"system": name, "title": trial.system.title, "steps": steps, "every": trial.every}
    total |= {"runs": 0, "differences": []}
    with tempfile.TemporaryDirectory() as scratch:
        forks()  # first: TensorFlow's messages on the way are not for the page
        reference = Path(scratch, "straight.npz")
        log = Path(scratch, "straight.txt")
        # A process of its own kind: a fresh interpreter.
        straight = start(
            multiprocessing.get_context("spawn"), train_once, log, reference, trial, seed
        )
        while not total["runs"] or total["kills"] < kills:
            left = kills - total.get("kills", 0)
            folder = Path(scratch, f"run{total['runs']}")
            folder.mkdir()
            found = run_to_the_end(folder, trial, seed=seed, kills=left, chance=chance)
            total |= {key: total.get(key, type(x)()) + x for key, x in found.items()}
            total["runs"] += 1
            straight.join()
            if straight.exitcode:
                raise RuntimeError(f"The straight run failed:\n{log.read_text()[-3000:]}")
            total["differences"] += differences(folder / "end.npz", reference)
        total["compared"] = contents(reference)
    return total | {"seconds": time.perf_counter() - began}


COLUMNS = ("kills", "saves_hit", "restarts", "runs", "left_over")
LOSSES = ("astray", "differences", "unreadable")  # none of these may be


def table(rows):
    """Text: a line a system, and one for the sum of several."""
    keys = (*COLUMNS, *LOSSES, "seconds")
    titles = {"saves_hit": "in a save", "left_over": "left over"}
    lines = ["system  " + "".join(f"{titles.get(key, key):>13}" for key in keys)]
    counted = []
    for row in rows:
        values = [row[key] for key in keys]
        counts = [len(value) if isinstance(value, list) else value for value in values]
        counted.append((row["system"], counts))
    if len(rows) > 1:
        counted.append(("all", np.sum([counts for _, counts in counted], axis=0)))
    for name, counts in counted:
        lines.append(f"{name:8}" + "".join(f"{count:13.0f}" for count in counts))
    return "\n".join(lines)


def bad(rows):
    """What must not happen, as lines of text."""
    return [f"{row['system']}, {key}: {x}" for row in rows for key in LOSSES for x in row[key]]


def main(arguments=None):
    parser = record.make_parser(__doc__)
    add, whole = parser.add_argument, record.whole_number
    add("--kills", type=whole(1, 10**6), default=100, help="in all")
    add("--system", choices=SYSTEMS, help="one of them; else mlp and dcgan, half the kills each")
    add("--seed", type=whole(0, 2**32 - 1), default=0, help="of trainings and moments")
    add("--steps", type=whole(4, 10**6), default=60, help="of a run")
    add("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    names = [options.system] if options.system else ["mlp", "dcgan"]
    rows = []
    for i, name in enumerate(names):
        kills = options.kills // len(names) + (i < options.kills % len(names))
        rows.append(torture(name, kills=kills, seed=options.seed, steps=options.steps))
        print(f"{name}, {rows[-1]['title']}: {rows[-1]['compared']}", flush=True)
    print(table(rows))
    for line in bad(rows):
        print(line)
    if options.save:
        command = record.command(__file__, arguments)
        record.save(SAVED, command=command, **record.about(), rows=rows)
    return int(bool(bad(rows)))


if __name__ == "__main__":
    sys.exit(main())
