"""How good are the samples after so many seconds of training? One system, from nothing, on MNIST.

    python tests/benchmarks/time_to_quality.py --seconds 300 --samples samples.npy

trains the course's DCGAN (another one with --system) and writes 10,000 samples, float32 of shape
(10000, 28, 28, 1) in [-1, 1], from the generator that a reader ends up with: the averaged one where
the system averages, in inference mode, computed in float32. On the way it measures the Fréchet
distance to the test images by a classifier, with the distance of real images that it did not learn
from (the floor) beside it, and how evenly the classes are drawn.

Training time is wall time from the call of `training.train` until the step that ends after
--seconds: compiling the first step counts, since a reader waits for it; loading data and scoring
do not. Let nothing else run meanwhile. With --steps instead, and --saves, the run is saved along
the way, and the same command goes on where it was stopped.
"""

import json
from datetime import date
from functools import partial
from pathlib import Path

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np
import systems

from ganutils import _atomic, checkpoints, data

RECENT = 50  # a loss in the curve is the mean over this many steps
EVERY = 50  # steps between two saves, where steps are counted
TOLD = ("d_loss", "g_loss", "d_real", "d_fake")


class Curve:
    """Points of a run, printed as they come; a callback of `train` at given steps.

    Args:
        score: function () -> `course.Judge.scores` of the run's samples now, or None for no judge.
        floor: that of real images, or None.
        marks: steps at which there is a point.
        path: JSON file that keeps the points, and may have some from before; None for none.
    """

    def __init__(self, score, floor, *, marks=(), path=None):
        self.score, self.floor, self.marks, self.path = score, floor, marks, path
        self.points = json.loads(path.read_text()) if path and path.exists() else []

    def add(self, seconds, progress):
        point = {"seconds": seconds, "step": progress.step}
        point |= self.score() if self.score else {}
        for name in TOLD:
            point[name] = float(np.mean(progress.history[name][-RECENT:]))
        self.points.append(point)
        numbers = seconds, progress.step, point.get("frechet"), self.floor
        words = [f"{'-' if x is None else round(x, 1):>9}" for x in numbers]
        told = ("class_divergence", "d_loss", "g_loss")
        words += [f"{point[name]:9.3f}" for name in told if name in point]
        print("".join(words), flush=True)

    def __call__(self, progress):
        if progress.step in self.marks:
            # A kill may have come between this file and the save; what is told again is not new.
            self.points = [point for point in self.points if point["step"] < progress.step]
            self.add(None, progress)
            record.write_json(self.path, self.points)


def measure(
    system,
    *,
    seconds=None,
    end_step=None,
    saves=None,
    seed=0,
    source="mnist",
    count=course.COUNT,
    points=12,
    **settings,
):
    """Train one system for so many seconds, or steps; print the curve as it comes.

    Args:
        system: key of `systems.ALL`.
        seconds: training time, > 0.
        end_step, saves: where seconds is None, the number of steps, and the folder of the saves.
        seed: of everything random.
        source: as for `data.load_images`; 28x28 images of one channel.
        count: samples.
        points: of the curve, at roughly geometric times; 0 for no scoring at all.
        settings: of `classifier.digit_classifier`.

    Returns:
        Samples, float32 (count, 28, 28, 1) in [-1, 1]; a dict for JSON.

    Raises:
        SystemExit: Ctrl-C in a run of steps; all is saved.
    """
    images, _, name = data.load_images(source)
    if images.shape[1:] != systems.MNIST:
        raise ValueError(f"{name} has images of {images.shape[1:]}; the systems make 28x28x1.")
    judge = course.make_judge(source, count=count, **settings) if points else None
    floors = judge.floors() if judge else [None]
    design = systems.ALL[system]
    run, train_step = systems.start(design, seed=seed)
    batches = partial(data.batches, images, design.batch_size, seed=seed)
    found = {
        "system": system,
        "title": design.title,
        "seed": seed,
        "data": name,
        "budget_seconds": seconds,
        "parameters": {
            "discriminator": run.discriminator.count_params(),
            "generator": run.generator.count_params(),
        },
        "precision": run.generator.layers[1].compute_dtype,
        "floor": floors[0],
        "floors": floors,
        "date": date.today().isoformat(),
        **record.about(),
    }
    length = f"{seconds:g} s" if seconds else f"{end_step:,} steps"
    print(f"{system}, {design.title}, seed {seed}, on {name}: {length} of training")
    print(f"{found['machine']}; {', '.join(map(' '.join, found['versions'].items()))}")
    names = ["seconds", "steps", "Fréchet", "floor", *["classes"] * bool(judge), "d_loss", "g_loss"]
    print("".join(f"{name:>9}" for name in names), flush=True)

    def draw():
        return systems.sample(run, design, count, seed=seed)

    score = (lambda: judge.scores(draw())) if judge else None
    end = seconds or end_step
    marks = np.geomspace(end, end / 60, max(points, 1))[::-1]
    if seconds:
        curve = Curve(score, floors[0])
        found["seconds"] = course.train_for(
            run, train_step, batches, marks.tolist(), curve.add, per_call=design.per_call
        )
    else:
        marks = {min(max(round(mark / EVERY), 1) * EVERY, end) for mark in marks} | {end}
        saves.mkdir(parents=True, exist_ok=True)
        curve = Curve(score, floors[0], marks=marks, path=saves / "curve.json")
        pace = {"steps": end, "every": EVERY, "per_call": design.per_call, "keep": 2}
        try:
            checkpoints.resume_and_train(run, saves, train_step, batches, callbacks=[curve], **pace)
        except KeyboardInterrupt:
            raise SystemExit(
                f"At step {int(run.step)} of {end}; the same command goes on from there."
            ) from None
        found["seconds"] = None
    found["steps"], found["curve"] = int(run.step), curve.points
    return draw(), found


def main(arguments=None, **settings):
    parser = record.make_parser(__doc__)
    add, number = parser.add_argument, record.whole_number
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=record.positive, help="training time")
    length.add_argument("--steps", type=number(1, course.NO_END), help="instead of --seconds")
    add("--saves", type=Path, help="folder where a run of --steps is saved and goes on from")
    add("--samples", type=record.file_of(".npy"), required=True, help="file for the samples")
    add("--curve", type=record.file_of(".json"), help="file for the curve and what belongs to it")
    add("--system", choices=systems.ALL, default="course")
    add("--seed", type=number(0, 2**32 - 1), default=0)
    add("--data", default="mnist", help="as for ganutils.data.load_images; 28x28, one channel")
    add("--count", type=number(1, 10**6), default=course.COUNT, help="samples")
    add("--points", type=number(0, 100), default=12, help="of the curve; 0: do not score")
    options = parser.parse_args(arguments)
    if (options.steps is None) != (options.saves is None):
        parser.error("--steps and --saves belong together")
    samples, found = measure(
        options.system,
        seconds=options.seconds,
        end_step=options.steps,
        saves=options.saves,
        seed=options.seed,
        source=options.data,
        count=options.count,
        points=options.points,
        **settings,
    )
    found["command"] = record.command(__file__, arguments)
    with _atomic.whole_file(options.samples) as file:
        np.save(file, samples)
    if options.curve:
        record.write_json(options.curve, found)
    print(f"{len(samples):,} samples in {options.samples}")


if __name__ == "__main__":
    main()
