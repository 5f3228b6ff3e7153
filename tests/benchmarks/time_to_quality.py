"""How good are the samples after so many seconds of training? One system, from nothing, on MNIST.

    python tests/benchmarks/time_to_quality.py --seconds 300 --samples samples.npy

trains the course's DCGAN (another one with --system) and writes 10,000 samples, float32 of shape
(10000, 28, 28, 1) in [-1, 1], from the generator that a reader ends up with: the averaged one where
the system averages, in inference mode, computed in float32. On the way it measures the Frechet
distance to the test images by the course's own classifier, with the distance of real training
images (the floor) beside it.

Training time is wall time from the call of `training.train` until the step that ends after
--seconds: compiling the first step counts, since a reader waits for it; loading data and scoring
do not. Let nothing else run meanwhile.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
import time
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import systems  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ganutils import checkpoints, classifier, data, files, metrics, training

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "assets" / "results"
COUNT = 10_000  # samples, as many as MNIST has test images
RECENT = 50  # a loss in the curve is the mean over this many steps
EVERY = 50  # steps between two saves, where steps are counted
NO_END = 10**9  # steps; the time ends a run before


class TimeIsUp(Exception):
    """Ends `training.train` from within a callback."""


class Watch:
    """A callback of `train` that reports at given seconds of training, and stops it at the last.

    What the report takes is not counted. `seconds` is the training time so far.

    Args:
        marks: ascending seconds; the last one ends the training.
        report: function (seconds, `training.Progress`), called once the step at hand has passed
            one mark or several.
    """

    def __init__(self, marks, report):
        self.marks, self.report = list(marks), report
        self.began = time.perf_counter()
        self.seconds = 0.0

    def __call__(self, progress):
        arrived = time.perf_counter()
        self.seconds = arrived - self.began
        if self.seconds < self.marks[0]:
            return
        self.marks = [mark for mark in self.marks if mark > self.seconds]
        self.report(self.seconds, progress)
        if not self.marks:
            raise TimeIsUp
        self.began += time.perf_counter() - arrived


def batches_of(run, images):
    """The function of a start that `training.train` asks for a run's batches."""
    return partial(data.batches, images, run.system.batch_size, seed=run.seed)


def train_for(run, images, marks, report):
    """Train from step 0 until the last mark.

    Args:
        run: `systems.Run`.
        images: real images (N, height, width, channels) in [-1, 1].
        marks, report: as for `Watch`.

    Returns:
        Training time in seconds; history, as `training.train` keeps it.
    """
    step, history = tf.Variable(0, dtype=tf.int64), {}
    watch = Watch(marks, report)
    with contextlib.suppress(TimeIsUp):
        training.train(
            run.train_step,
            batches_of(run, images),
            steps=NO_END,
            step=step,
            history=history,
            callbacks=[watch],
            every=run.system.per_call,
            per_call=run.system.per_call,
        )
    return watch.seconds, history


def train_to(run, images, marks, report, *, folder, told):
    """Train until the last mark, from the last save in a folder on.

    Args:
        run: `systems.Run`, as it was started.
        images: as for `train_for`.
        marks: ascending numbers of steps; multiples of EVERY, bar the last one.
        report: as for `train_for`; called with None for the seconds.
        folder: of the saves.
        told: dict with the list "curve", which `report` extends by dicts with a "step"; saved, too.

    Returns:
        None for the seconds; history, as `training.train` keeps it.

    Raises:
        SystemExit: Ctrl-C; all is saved.
    """
    step, history = tf.Variable(0, dtype=tf.int64), {}
    run_and_curve = systems.make_checkpoint(
        run, step=step, history=history, told=checkpoints.History(told)
    )
    manager = tf.train.CheckpointManager(run_and_curve, str(folder), max_to_keep=2)
    checkpoints.resume(manager)

    def tell(progress):
        if progress.step in marks and progress.step not in [p["step"] for p in told["curve"]]:
            report(None, progress)

    training.train(
        run.train_step,
        batches_of(run, images),
        steps=marks[-1],
        step=step,
        history=history,
        callbacks=[tell, checkpoints.saver(manager)],  # what was told is saved with the step
        every=EVERY,
        per_call=run.system.per_call,
    )
    if int(step) < marks[-1]:
        raise SystemExit(
            f"At step {int(step)} of {marks[-1]}; the same command goes on from there."
        )
    return None, history


class Judge(NamedTuple):
    """A classifier with its (features, probabilities) of the test and of as many other images."""

    model: keras.Model
    real: tuple
    held_out: tuple

    def frechet(self, images):
        features, _ = classifier.classify(self.model, images)
        return metrics.frechet_distance(self.real[0], features)


def make_judge(source, *, count=COUNT, **settings):
    """Train or load the classifier, and show it the real images.

    Args:
        source: as for `data.load_images`.
        count: samples that will be scored; the floor is taken from the first `count` training
            images.
        settings: of `classifier.digit_classifier`.

    Returns:
        `Judge`.
    """
    images, labels, _ = data.load_images(source)
    model = classifier.digit_classifier(images, labels, **settings)
    test_images, _, _ = data.load_images(source, split="test")
    shown = (classifier.classify(model, x) for x in (test_images, images[:count]))
    return Judge(model, *shown)


def about():
    """What a measurement depends on: dict with the machine's processor and the versions."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((x.split(": ")[1] for x in lines if x.startswith("model name")), processor)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = "1 core" if cores == 1 else f"{cores} cores"
    devices = [
        tf.config.experimental.get_device_details(d) for d in tf.config.list_physical_devices("GPU")
    ]
    gpus = "".join(f", {details.get('device_name', 'GPU')}" for details in devices)
    versions = {name: version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn")}
    return {
        "machine": f"{processor or platform.machine()}, {cores}{gpus}",
        "versions": {"python": platform.python_version(), **versions},
    }


def write_json(path, value):
    """Write JSON, whole or not at all."""
    with files.whole_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def recent(history):
    """Mean of every value of a history over the last steps."""
    return {name: float(np.mean(values[-RECENT:])) for name, values in history.items()}


def measure(
    system,
    *,
    seconds=None,
    end_step=None,
    saves=None,
    seed=0,
    source="mnist",
    count=COUNT,
    points=12,
    **settings,
):
    """Train one system for so many seconds, or steps; print the curve as it comes.

    Args:
        system: key of `systems.ALL`.
        seconds: training time, > 0.
        end_step: where seconds is None, the number of steps, > 0.
        saves: the folder that belongs to it.
        seed: of everything random.
        source: as for `data.load_images`; 28x28 images of one channel.
        count: samples.
        points: of the curve, at roughly geometric times; 0 for no scoring at all.
        settings: of `classifier.digit_classifier`.

    Returns:
        Samples, float32 (count, 28, 28, 1) in [-1, 1]; record, a dict for JSON.
    """
    images, _, name = data.load_images(source)
    if images.shape[1:] != systems.MNIST:
        raise ValueError(f"{name} has images of {images.shape[1:]}; the systems make 28x28x1.")
    judge = make_judge(source, count=count, **settings) if points else None
    run = systems.start(systems.ALL[system], seed=seed)
    floor = metrics.frechet_distance(judge.real[0], judge.held_out[0]) if judge else None
    record = {
        "system": system,
        "title": run.system.title,
        "seed": seed,
        "data": name,
        "budget_seconds": seconds,
        "parameters": {
            "discriminator": run.discriminator.count_params(),
            "generator": run.generator.count_params(),
        },
        "precision": run.generator.layers[1].compute_dtype,
        "floor": floor,
        "date": date.today().isoformat(),
        **about(),
    }
    length = f"{seconds:g} s" if seconds else f"{end_step:,} steps"
    print(f"{system}, {run.system.title}, seed {seed}, on {name}: {length} of training")
    print(f"{record['machine']}; {', '.join(map(' '.join, record['versions'].items()))}")
    print(
        f"{'seconds':>8}{'steps':>8}{'Frechet':>9}{'floor':>7}{'d_loss':>8}{'g_loss':>8}",
        flush=True,
    )

    told = {"curve": []}

    def report(now, progress):
        values = recent(progress.history)
        score = judge.frechet(systems.sample(run, count)) if judge else None
        told["curve"].append({"seconds": now, "step": progress.step, "frechet": score} | values)
        scores = f"{score:9.1f}{floor:7.1f}" if judge else f"{'-':>9}{'-':>7}"
        losses = "".join(f"{values[name]:8.3f}" for name in ("d_loss", "g_loss"))
        time_told = f"{'-':>8}" if now is None else f"{now:8.1f}"
        print(f"{time_told}{progress.step:8}{scores}{losses}", flush=True)

    marks = np.geomspace(seconds or end_step, (seconds or end_step) / 60, max(points, 1))[::-1]
    if seconds:
        record["seconds"], history = train_for(run, images, marks.tolist(), report)
    else:
        rounded = {min(max(round(m / EVERY), 1) * EVERY, end_step) for m in marks} | {end_step}
        record["seconds"], history = train_to(
            run, images, sorted(rounded), report, folder=saves, told=told
        )
    record["steps"], record["curve"] = len(history["d_loss"]), told["curve"]
    return systems.sample(run, count), record


def command(script, arguments):
    """The command line of a script, for its record: its arguments, or None for the process's."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", f"tests/benchmarks/{Path(script).name}", *given])


def positive(text):
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and finite")
    return number


def whole_number(low, high):
    def integer(text):
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in {low}..{high}")
        return number

    return integer


def writable(suffix):
    def path(text):
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        if not Path(text).resolve().parent.is_dir():
            raise argparse.ArgumentTypeError(
                f"the folder of {text!r} does not exist; make it first"
            )
        return Path(text)

    return path


def main(arguments=None, **classifier_settings):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=positive, help="training time")
    length.add_argument("--steps", type=whole_number(1, NO_END), help="instead of --seconds")
    add("--saves", type=Path, help="folder where a run of --steps is saved and goes on from")
    add("--samples", type=writable(".npy"), required=True, help="file for the samples")
    add("--curve", type=writable(".json"), help="file for the curve and all that belongs to it")
    add("--system", choices=systems.ALL, default="course")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0)
    add("--data", default="mnist", help="as for ganutils.data.load_images; 28x28, one channel")
    add("--count", type=whole_number(1, 10**6), default=COUNT, help="samples")
    add("--points", type=whole_number(0, 100), default=12, help="of the curve; 0: do not score")
    options = parser.parse_args(arguments)
    if (options.steps is None) != (options.saves is None):
        parser.error("--steps and --saves belong together")
    samples, record = measure(
        options.system,
        seconds=options.seconds,
        end_step=options.steps,
        saves=options.saves,
        seed=options.seed,
        source=options.data,
        count=options.count,
        points=options.points,
        **classifier_settings,
    )
    record["command"] = command(__file__, arguments)
    with files.whole_file(options.samples) as file:
        np.save(file, samples)
    if options.curve:
        write_json(options.curve, record)
    print(f"{len(samples):,} samples in {options.samples}")


if __name__ == "__main__":
    main()
