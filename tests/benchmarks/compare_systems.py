"""The classic programs and the course's DCGAN at equal training time, over several seeds.

    python tests/benchmarks/compare_systems.py --seconds 100 --seeds 3

trains every system with every seed for that long on MNIST, one after the other, each in a process
of its own (`time_to_quality.py`), scores 10,000 samples of each, and stores the rows as JSON with
the floor (the scores of real training images) beside them, and the first 24 samples of seed 0,
unselected, as `.npz` of the same name (uint8, 24 x 28 x 28 a system). Let nothing else run
meanwhile. --systems compares others of `systems.ALL`, such as the course's DCGAN under two losses:

    python tests/benchmarks/compare_systems.py --systems loss-nonsat,loss-hinge --seconds 45 \\
        --out notebooks/assets/results/compare_losses.json

A finished row is kept in --work. Called again, an interrupted comparison goes on after it; rows
of other settings, code, machine or versions are made anew.
"""

import argparse
import ast
import hashlib
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import time_to_quality  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
import systems

from ganutils import classifier, data, files, metrics

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 24  # samples kept of seed 0
NEIGHBORS_OF = 1_000  # samples whose nearest training images are looked for
SUPPORT_BATCH = 100
NOT_SCORED = ("figures.py", "files.py", "checkpoints.py")  # rooms that no row depends on


def row_files():
    """The files whose code a row here depends on."""
    here = [Path(module.__file__) for module in (systems, time_to_quality, sys.modules[__name__])]
    return here + sorted((ROOT / "ganutils").glob("*.py"))


def code_hash(paths):
    """Hash of the code in files: comments, docstrings, layout and rooms without effect aside."""
    hashed = hashlib.sha256()
    for file in paths:
        if file.name in NOT_SCORED:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                if ast.get_docstring(node, clean=False) is not None:
                    del node.body[0]
        hashed.update(ast.dump(tree).encode())
    return hashed.hexdigest()[:16]


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

    Args:
        source: as for `data.load_images`.
        count: samples of each system.
        settings: of `classifier.digit_classifier`.
    """

    def __init__(self, source, *, count, **settings):
        self.judge = time_to_quality.make_judge(source, count=count, **settings)
        self.training, _, _ = data.load_images(source)
        test_images, _, _ = data.load_images(source, split="test")
        self.test_distance = self.median_distance(test_images)
        self.threshold = float(np.median(nearest_pairs(self.judge.real[0])))
        self.support_floor = self.support(self.judge.held_out[0])

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
        scores = metrics.score_samples(self.judge.real, shown, held_out=self.judge.held_out)
        scores["memorization"] = self.median_distance(samples) / self.test_distance, 1.0
        scores["support"] = self.support(shown[0]), self.support_floor
        return scores


def run_child(command):
    """Run a command in a process of its own; what it prints is seen."""
    subprocess.run(command, check=True)


def train(system, seed, settings, work):
    """Train one system in a process of its own; its samples and its record."""
    outputs = work / "samples.npy", work / "record.json"
    command = [sys.executable, str(Path(__file__).with_name("time_to_quality.py"))]
    command += [f"--system={system}", f"--seed={seed}", "--points=0"]
    command += [f"--{name}={settings[name]}" for name in ("seconds", "data", "count")]
    command += [f"--samples={outputs[0]}", f"--curve={outputs[1]}"]
    run_child(command)
    samples, record = np.load(outputs[0]), json.loads(outputs[1].read_text())
    for file in outputs:
        file.unlink()
    return samples, record


def make_row(system, seed, settings, work, scorer):
    """Train and score one system, and keep the row, with the first samples, in the work folder."""
    samples, record = train(system, seed, settings, work)
    row = {name: record[name] for name in ("system", "title", "seed", "steps", "seconds")}
    row["last_values"] = {
        name: record["curve"][-1][name] for name in ("d_loss", "g_loss", "d_real", "d_fake")
    }
    scores = scorer(samples)
    row |= {
        "parameters": record["parameters"],
        "precision": record["precision"],
        "scores": {name: score for name, (score, _) in scores.items()},
    }
    with files.whole_file(work / f"{system}-{seed}.npy") as file:
        np.save(file, np.round((samples[:SHOWN, ..., 0] + 1) * 127.5).astype(np.uint8))
    floor = {name: floor for name, (_, floor) in scores.items()}
    kept = {"settings": settings, "row": row, "floor": floor}
    time_to_quality.write_json(work / f"{system}-{seed}.json", kept)
    return kept


def kept_row(system, seed, settings, work):
    """The row of an earlier call, or None where there is none of these settings."""
    try:
        kept = json.loads((work / f"{system}-{seed}.json").read_text())
        return kept if kept["settings"] == settings else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def compare(names, seeds, settings, work, **classifier_settings):
    """Make the rows that are missing, seed by seed.

    Args:
        names: keys of `systems.ALL`.
        seeds: number of seeds, from 0.
        settings: dict with seconds, data and count, and whatever else a row depends on.
        work: folder for finished rows.
        classifier_settings: of `classifier.digit_classifier`.

    Returns:
        List of rows; dict of floors, the same for all of them.
    """
    work.mkdir(parents=True, exist_ok=True)
    scorer, rows, floors = None, [], []
    for seed in range(seeds):
        for name in names:
            if (kept := kept_row(name, seed, settings, work)) is None:
                scorer = scorer or Scorer(
                    settings["data"], count=settings["count"], **classifier_settings
                )
                kept = make_row(name, seed, settings, work, scorer)
            rows.append(kept["row"])
            floors.append(kept["floor"])
            frechet, floor = (x["frechet_distance"] for x in (kept["row"]["scores"], kept["floor"]))
            print(f"{name}, seed {seed}: Frechet distance {frechet:.1f}, floor {floor:.1f}\n")
    if any(floor != floors[0] for floor in floors):
        raise ValueError(f"Rows in {work} were scored by different classifiers; empty the folder.")
    return rows, floors[0]


def table(rows, floor):
    """Text: for each system the lowest and the highest of each score over the seeds; the floor."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    lines = [f"{'':18}" + "".join(f"{name:>18}" for name in names) + f"{'real':>12}"]
    for score, real in floor.items():
        cells = []
        for name in names:
            values = [row["scores"][score] for row in rows if row["system"] == name]
            values = [np.inf if value is None else value for value in values]
            cells.append(f"{min(values):.4g} .. {max(values):.4g}")
        real = np.inf if real is None else real
        lines.append(f"{score:18}" + "".join(f"{cell:>18}" for cell in cells) + f"{real:12.4g}")
    return "\n".join(lines)


def chosen_systems(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in systems.ALL]:
        known = ", ".join(systems.ALL)
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {known}")
    return list(dict.fromkeys(names))


def main(arguments=None, **classifier_settings):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, number = parser.add_argument, time_to_quality.whole_number
    add("--seconds", type=time_to_quality.positive, default=100, help="training time of each")
    add("--seeds", type=number(1, 1000), default=3, help="seeds 0, 1, ...")
    add("--systems", type=chosen_systems, default=list(systems.SYSTEMS), help="S1,S5,...")
    add("--data", default="mnist", help="as for ganutils.data.load_images; 28x28, one channel")
    add("--count", type=number(1000, 10**6), default=time_to_quality.COUNT, help="samples of each")
    add("--out", type=Path, default=time_to_quality.RESULTS / "compare_systems.json")
    add("--work", type=Path, default=ROOT / "notebooks" / "runs" / "compare_systems")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".json":
        parser.error(f"--out {options.out} does not end in .json")
    options.out.parent.mkdir(parents=True, exist_ok=True)

    settings = {"seconds": options.seconds, "data": options.data, "count": options.count}
    settings |= {"code": code_hash(row_files()), **time_to_quality.about()}
    rows, floor = compare(
        options.systems, options.seeds, settings, options.work, **classifier_settings
    )
    result = {
        "date": date.today().isoformat(),
        "command": time_to_quality.command(__file__, arguments),
        **settings,
        "floor": floor,
        "rows": rows,
    }
    first = {name: np.load(options.work / f"{name}-0.npy") for name in options.systems}
    with files.whole_file(options.out.with_suffix(".npz")) as file:
        np.savez_compressed(file, **first)
    time_to_quality.write_json(options.out, result)
    print(table(rows, floor))
    print(f"{len(rows)} rows in {options.out}")


if __name__ == "__main__":
    main()
