"""The classic programs and the course's DCGAN at equal training time, over several seeds.

    python tests/benchmarks/compare_systems.py --seconds 100 --seeds 3

trains every system with every seed for that long on MNIST, one after the other, each in a process
of its own (`time_to_quality.py`), scores 10,000 samples of each, and stores the rows as JSON with
the floor (the scores of real training images) beside them, and the first samples of one seed,
unselected, as `.npz` of the same name (uint8, 24 x 28 x 28 a system). Let nothing else run
meanwhile. --systems compares others of `systems.ALL`, such as the plain DCGAN under two losses:

    python tests/benchmarks/compare_systems.py --systems loss-nonsat,loss-hinge --seconds 45 \\
        --out notebooks/assets/results/compare_losses.json

With --steps instead of --seconds all get so many steps, whatever they take; several processes may
then share the machine and --work, each with --systems of its own.

A finished row is kept in --work. Called again, an interrupted comparison goes on after it; rows
of other settings or code are made anew.
"""

import json
import shutil
import subprocess
import sys
from functools import cache, partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np
import systems

from ganutils import classifier, data, metrics

TRAINER = record.HERE / "time_to_quality.py"
SHOWN = 24  # samples kept of seed 0
NEIGHBORS_OF = 1_000  # samples whose nearest training images are looked for
SUPPORT_BATCH = 100
OF_TRAINER = ("system", "title", "seed", "steps", "seconds", "parameters", "precision")


def nearest_pairs(features):
    """Distance of the nearest pair in each batch of `SUPPORT_BATCH` samples."""
    count = len(features) // SUPPORT_BATCH
    batches = np.split(features[: count * SUPPORT_BATCH].astype(np.float64), count)
    triangle = np.triu_indices(SUPPORT_BATCH, 1)
    return [np.linalg.norm(x[triangle[0]] - x[triangle[1]], axis=1).min() for x in batches]


class Scorer:
    """All scores of a set of samples, each as the pair (score, floor).

    To `metrics.score_samples` it adds two scores whose scale is set by real images:

    - memorization: median distance, in pixels, of a sample to its nearest training image, over
      that of a test image; far below 1 says that training images are repeated.
    - support: the birthday-paradox estimate of the number of different samples, where two count as
      one if they are nearer, in features, than the nearest pair in half the batches of test
      images. It depends on that threshold: compare it with its floor only.

    source, count, settings: as for `course.make_judge`.
    """

    def __init__(self, source, *, count, **settings):
        self.judge = course.make_judge(source, count=count, **settings)
        self.training, _, _ = data.load_images(source)
        test_images, _, _ = data.load_images(source, split="test")
        self.test_distance = self.median_distance(test_images)
        self.threshold = float(np.median(nearest_pairs(self.judge.real[0])))
        self.support_floor = self.support(self.judge.held_out[0][0])

    def median_distance(self, images):
        distances, _ = metrics.nearest_neighbors(images[:NEIGHBORS_OF], self.training)
        return float(np.median(distances))

    def support(self, features):
        size, _, _ = metrics.support_size(
            features, threshold=self.threshold, batch_size=SUPPORT_BATCH
        )
        return size if np.isfinite(size) else None  # JSON has no infinity

    def __call__(self, samples):
        shown = classifier.classify(self.judge.model, samples)
        scores = metrics.score_samples(self.judge.real, shown, held_out=self.judge.held_out[0])
        scores["memorization"] = self.median_distance(samples) / self.test_distance, 1.0
        scores["support"] = self.support(shown[0]), self.support_floor
        return scores


def run_child(command):
    """Run a command in a process of its own; what it prints is seen."""
    subprocess.run(command, check=True)


def train(system, seed, settings, work):
    """Train one system in a process of its own; its samples and its record."""
    saves = work / f"{system}-{seed}-run"
    saves.mkdir(parents=True, exist_ok=True)
    outputs = saves / "samples.npy", saves / "record.json"
    command = [sys.executable, str(TRAINER), f"--system={system}", f"--seed={seed}", "--points=0"]
    given = [name for name in ("seconds", "steps", "data", "count") if name in settings]
    command += [f"--{name}={settings[name]}" for name in given]
    command += [f"--saves={saves}"] if "steps" in settings else []
    command += [f"--samples={outputs[0]}", f"--curve={outputs[1]}"]
    run_child(command)
    samples, found = np.load(outputs[0]), json.loads(outputs[1].read_text())
    shutil.rmtree(saves)
    return samples, found


def make_row(system, seed, settings, work, scorer):
    """Train and score one system: its row and its floor, and the first samples."""
    samples, found = train(system, seed, settings, work)
    last = found["curve"][-1]
    row = {name: found[name] for name in OF_TRAINER}
    row["last_values"] = {name: last[name] for name in ("d_loss", "g_loss", "d_real", "d_fake")}
    scores = scorer()(samples)
    row["scores"] = {name: score for name, (score, _) in scores.items()}
    floor = {name: floor for name, (_, floor) in scores.items()}
    return {"row": row, "floor": floor}, {"samples": record.as_bytes(samples[:SHOWN])}


def table(rows, floor):
    """Text: for each system the lowest and the highest of each score over the seeds; the floor."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    lines = [f"{'':18}" + "".join(f"{name:>18}" for name in names) + f"{'real':>12}"]
    for score, real in floor.items():
        line = f"{score:18}"
        for name in names:
            values = [row["scores"][score] for row in rows if row["system"] == name]
            values = [np.inf if value is None else value for value in values]
            line += f"{f'{min(values):.4g} .. {max(values):.4g}':>18}"
        lines.append(line + f"{np.inf if real is None else real:12.4g}")
    return "\n".join(lines)


def main(arguments=None, **classifier_settings):
    parser = record.make_parser(__doc__)
    add, number = parser.add_argument, record.whole_number
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=record.positive, default=100, help="of training of each")
    length.add_argument("--steps", type=number(1, course.NO_END), help="instead of --seconds")
    add("--seeds", type=number(1, 1000), default=3, help="how many: --first, and those after it")
    add("--first", type=number(0, 10**6), default=0, help="the first seed")
    names = record.names_of(systems.ALL)
    add("--systems", type=names, default=list(systems.SYSTEMS), help="S1,S5,...")
    add("--data", default="mnist", help="as for ganutils.data.load_images; 28x28, one channel")
    add("--count", type=number(1000, 10**6), default=course.COUNT, help="samples of each")
    record.add_places(parser, "compare_systems")
    options = parser.parse_args(arguments)

    settings = {"steps": options.steps} if options.steps else {"seconds": options.seconds}
    settings |= {"data": options.data, "count": options.count}
    settings["code"] = record.code_hash(__file__, TRAINER)

    @cache
    def scorer():  # made where a row is missing
        return Scorer(options.data, count=options.count, **classifier_settings)

    records, first = [], {}
    for seed in range(options.first, options.first + options.seeds):
        for system in options.systems:
            make = partial(make_row, system, seed, settings, options.work, scorer)
            kept, arrays = record.kept(options.work, f"{system}-{seed}", settings, make)
            records.append(kept)
            first.setdefault(system, arrays["samples"])
            scores = kept["row"]["scores"], kept["floor"]
            frechet, floor = (x["frechet_distance"] for x in scores)
            print(f"{system}, seed {seed}: Fréchet distance {frechet:.1f}, floor {floor:.1f}\n")
    about = record.same(records, "about", options.work)
    floor = record.same(records, "floor", options.work)  # or their classifiers were different
    rows = [kept["row"] for kept in records]
    record.write_arrays(options.out.with_suffix(".npz"), first)
    fields = {**settings, **about, "floor": floor, "rows": rows}
    record.save(options.out, command=record.command(__file__, arguments), **fields)
    print(table(rows, floor))


if __name__ == "__main__":
    main()
