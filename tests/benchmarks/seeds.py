"""Measure something for several variants and seeds, and keep each row as soon as it is finished.

A script gives a function that makes one row; `main` gives it a command line:

    python tests/benchmarks/SCRIPT.py --seeds 0,1,2 --steps 3000

makes the rows that are missing, one after the other in this process, then writes all of them as
dated JSON, and their pictures as `.npz` of the same name. A finished row is kept in --work. Called
again, an interrupted measurement goes on after it; rows of other settings, code or versions are
made anew. Several processes may share --work, each with seeds of its own: whoever is called for
all of them afterwards gathers what they made.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

import compare_systems  # first: it imports TensorFlow without its start-up messages
import time_to_quality

# isort: split
import keras
import numpy as np

from ganutils import figures, files


def loaded_code():
    """Hash of what is imported now of `ganutils` and of the scripts here, as `code_hash` does."""
    here = Path(__file__).parent, compare_systems.ROOT / "ganutils"
    paths = {Path(getattr(m, "__file__", None) or "") for m in list(sys.modules.values())}
    return compare_systems.code_hash(
        sorted(path for path in paths if path.parent in here and path.name != Path(__file__).name)
    )


def as_bytes(images):
    """Images (count, height, width, 1) in [-1, 1] as uint8 (count, height, width), for `pictures`.

    Values out of range are clipped.
    """
    return figures.to_uint8(np.clip(images[..., 0], -1, 1))


def make(measure, variant, seed, settings, work):
    """Make one row, or load it; its record and its pictures (a dict of arrays)."""
    path = work / f"{variant}-{seed}.json"
    pictures = path.with_suffix(".npz")
    if (record := compare_systems.kept_row(variant, seed, settings, work)) is None:
        keras.utils.set_random_seed(seed)
        row, drawn = measure(variant, seed=seed, steps=settings["steps"], source=settings["data"])
        work.mkdir(parents=True, exist_ok=True)
        with files.whole_file(pictures) as file:
            np.savez_compressed(file, **drawn)
        row = {"variant": variant, "seed": seed, **row}
        record = {"settings": settings, "about": time_to_quality.about(), "row": row}
        time_to_quality.write_json(path, record)  # last: it says that the row is whole
    with np.load(pictures) as file:
        return record, dict(file)


def seed_list(text):
    seeds = [int(part) for part in text.split(",")]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} is not a list of different seeds such as 0,1,2")
    return seeds


def main(measure, variants, *, script, doc, steps, arguments=None):
    """Run a measurement from the command line, and write its result.

    Args:
        measure: function (variant, *, seed, steps, source) -> row, pictures. row: dict that JSON
            can hold; pictures: dict from name to array, such as `as_bytes` makes, or {}. Keras'
            seed is set before. source: as for `data.load_images`.
        variants: names of what is compared.
        script: the caller's `__file__`; the result gets its name.
        doc: the caller's `__doc__`, for --help.
        steps: default of --steps.
        arguments: list of strings, or None for the command line.

    Returns:
        The result as a dict: date, command, steps, data, code, machine, versions, and rows.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, name = parser.add_argument, Path(script).stem
    add("--seeds", type=seed_list, default=[0, 1, 2], help="such as 0,1,2")
    add("--variants", nargs="+", choices=variants, default=list(variants))
    add("--steps", type=time_to_quality.whole_number(1, 10**7), default=steps, help="of training")
    add("--data", default="mnist", help="as for ganutils.data.load_images")
    add("--out", type=Path, default=time_to_quality.RESULTS / f"{name}.json")
    add("--work", type=Path, default=compare_systems.ROOT / "notebooks" / "runs" / name)
    options = parser.parse_args(arguments)
    if options.out.suffix != ".json":
        parser.error(f"--out {options.out} does not end in .json")

    settings = {"steps": options.steps, "data": options.data, "code": loaded_code()}
    rows, pictures, about = [], {}, None
    for seed in options.seeds:
        for variant in options.variants:
            record, drawn = make(measure, variant, seed, settings, options.work)
            if (about := about or record["about"]) != record["about"]:
                raise ValueError(f"Rows in {options.work} are from different machines; empty it.")
            rows.append(record["row"])
            pictures |= {f"{variant}-{seed}-{key}": value for key, value in drawn.items()}
            numbers = {k: v for k, v in record["row"].items() if isinstance(v, int | float)}
            print(variant, {k: round(v, 4) for k, v in numbers.items()}, flush=True)
    result = {
        "date": date.today().isoformat(),
        "command": time_to_quality.command(script, arguments),
        **settings,
        **about,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if pictures:
        with files.whole_file(options.out.with_suffix(".npz")) as file:
            np.savez_compressed(file, **pictures)
    time_to_quality.write_json(options.out, result)
    print(f"{len(rows)} rows in {options.out}")
    return result
