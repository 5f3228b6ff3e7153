"""What all scripts here share: the command line, finished rows that are kept, dated results.

It imports no script, and says nothing about what is measured; so no row depends on it.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import modulefinder
import os
import platform
import shlex
import sys
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ganutils import runtime  # noqa: F401  first: it imports TensorFlow without its messages

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ganutils import _atomic, figures

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "notebooks" / "assets" / "results"
NOT_SCORED = ("__init__.py", "record.py", "figures.py", "_atomic.py", "checkpoints.py")


# The command line.


def make_parser(doc):
    """A parser whose --help shows a script's docstring as it is."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=form)


def add_places(parser, name):
    """--out and --work of a script that keeps finished rows."""
    default = RESULTS / f"{name}.json"
    parser.add_argument("--out", type=file_of(".json"), default=default, help="the result")
    work = ROOT / "notebooks" / "runs" / name
    parser.add_argument("--work", type=Path, default=work, help="folder of finished rows")


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


def names_of(known):
    """Names separated by commas, each one of those known."""

    def names(text):
        chosen = text.split(",")
        unknown = ", ".join(name for name in chosen if name not in known)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {unknown}; there are {', '.join(known)}")
        return list(dict.fromkeys(chosen))

    return names


def seed_list(text):
    seeds = [int(part) for part in text.split(",")]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} is not a list of different seeds such as 0,1,2")
    return seeds


def file_of(suffix):
    """A path of that suffix; its folder is made at once, before hours are spent."""

    def path(text):
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        return Path(text)

    return path


def command(script, arguments):
    """The command line of a script: its arguments, or where they are None the process's."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", f"tests/benchmarks/{Path(script).name}", *given])


# What a result says of itself.


def about():
    """What a measurement depends on: dict with the machine's processor and the versions."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    details = tf.config.experimental.get_device_details
    gpus = [
        details(gpu).get("device_name", "GPU") for gpu in tf.config.list_physical_devices("GPU")
    ]
    machine = ", ".join([processor, "1 core" if cores == 1 else f"{cores} cores", *gpus])
    versions = {name: version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn")}
    return {"machine": machine, "versions": {"python": platform.python_version(), **versions}}


def code_hash(*scripts):
    """Hash of the code of scripts and of whatever of ours they import, directly or not.

    Comments, docstrings, layout and files without effect on a row are left out.
    """
    paths = set()
    for script in scripts:
        finder = modulefinder.ModuleFinder([str(HERE), str(ROOT)])
        finder.run_script(str(script))
        paths |= {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    hashed = hashlib.sha256()
    for path in sorted(path for path in paths if path.name not in NOT_SCORED):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                if ast.get_docstring(node, clean=False) is not None:
                    del node.body[0]
        hashed.update(ast.dump(tree).encode())
    return hashed.hexdigest()[:16]


# Files, each written whole or not at all.


def write_json(path, value):
    with _atomic.whole_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def write_arrays(path, arrays):
    with _atomic.whole_file(path) as file:
        np.savez_compressed(file, **arrays)


def save(path, **fields):
    """Write a dated result; return it."""
    result = {"date": date.today().isoformat(), **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print(f"written: {path.name}")
    return result


def as_bytes(images):
    """Images (count, height, width, 1), cut to [-1, 1], as uint8 (count, height, width)."""
    return figures.to_uint8(np.clip(images[..., 0], -1, 1))


# Rows, made once.


def kept(work, name, settings, make):
    """Load a finished row, or make it where there is none of these settings.

    Args:
        work: folder of finished rows.
        name: of the row's two files.
        settings: dict for JSON, all that the row depends on.
        make: function () -> dict for JSON, dict of arrays.

    Returns:
        The dict, with "settings" and `about`; the arrays.
    """
    path = work / f"{name}.json"
    try:
        record = json.loads(path.read_text())
        known = record["settings"] == settings
    except (FileNotFoundError, ValueError, KeyError):
        known = False
    if not known:
        made, arrays = make()
        work.mkdir(parents=True, exist_ok=True)
        write_arrays(path.with_suffix(".npz"), arrays)
        record = {"settings": settings, "about": about(), **made}
        write_json(path, record)  # last: it says that the row is whole
    with np.load(path.with_suffix(".npz")) as file:
        return record, dict(file)


def same(records, key, work):
    """What all records of a comparison must have in common, such as the machine in "about"."""
    first = records[0][key]
    if any(record[key] != first for record in records):
        raise ValueError(f"Rows in {work} differ in {key}; empty the folder.")
    return first


def over_seeds(measure, variants, *, script, doc, steps, arguments=None):
    """Run a measurement of several variants and seeds from the command line; write its result.

        python tests/benchmarks/SCRIPT.py --seeds 0,1,2 --steps 3000

    makes the rows that are missing, one after the other in this process, then writes all of them
    as dated JSON, and their pictures as `.npz` of the same name. A finished row is kept in --work.
    Called again, an interrupted measurement goes on after it; rows of other settings or code are
    made anew. Several processes may share --work, each with seeds of its own: whoever is called
    for all of them afterwards gathers what they made.

    Args:
        measure: function (variant, *, seed, steps, source) -> row, pictures. row: dict for JSON;
            pictures: dict from name to array, such as `as_bytes` makes. Keras' seed is set before.
        variants: names of what is compared.
        script, doc: the caller's `__file__` and `__doc__`.
        steps: default of --steps.
        arguments: list of strings, or None for the command line.

    Returns:
        The result: date, command, steps, data, code, machine, versions, and rows.
    """
    parser = make_parser(doc)
    add = parser.add_argument
    add("--seeds", type=seed_list, default=[0, 1, 2], help="such as 0,1,2")
    add("--variants", nargs="+", choices=variants, default=list(variants))
    add("--steps", type=whole_number(1, 10**7), default=steps, help="of training")
    add("--data", default="mnist", help="as for ganutils.data.load_images")
    add_places(parser, Path(script).stem)
    options = parser.parse_args(arguments)

    def make(variant, seed):
        keras.utils.set_random_seed(seed)
        row, drawn = measure(variant, seed=seed, steps=options.steps, source=options.data)
        return {"row": {"variant": variant, "seed": seed, **row}}, drawn

    settings = {"steps": options.steps, "data": options.data, "code": code_hash(script)}
    records, pictures = [], {}
    for seed in options.seeds:
        for variant in options.variants:
            name = f"{variant}-{seed}"
            record, drawn = kept(options.work, name, settings, partial(make, variant, seed))
            records.append(record)
            pictures |= {f"{name}-{key}": array for key, array in drawn.items()}
            row = record["row"]
            numbers = {k: round(v, 4) for k, v in row.items() if isinstance(v, int | float)}
            print(variant, numbers, flush=True)
    if pictures:
        write_arrays(options.out.with_suffix(".npz"), pictures)
    rows = [record["row"] for record in records]
    fields = settings | same(records, "about", options.work) | {"rows": rows}
    return save(options.out, command=command(script, arguments), **fields)
