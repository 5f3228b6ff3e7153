"""Do the notebooks end on other images than MNIST, started in a folder of the reader's?

Each is executed from an empty folder in a process of its own, in the full profile unless told
otherwise, with its line SOURCE = "auto" naming another source. Printed, and with --save written as
a dated result: the seconds of each, and the first error where one does not end.

    python tests/benchmarks/run_notebooks.py --source digits --save
    python tests/benchmarks/run_notebooks.py --source photos/ --profile smoke --notebooks 02,03
"""

import os
import tempfile
import time
from unittest import mock

import nbclient
import nbformat
import record

NOTEBOOKS = {path.name[:2]: path for path in sorted((record.ROOT / "notebooks").glob("*.ipynb"))}
SAVED = record.RESULTS / "run_notebooks.json"


def run(path, source, profile, folder):
    """Execute a notebook in a folder: seconds, and None, or the failing cell's number and error."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('SOURCE = "auto"', f"SOURCE = {str(source)!r}")
    start, error = time.perf_counter(), None
    with mock.patch.dict(os.environ, {"GANUTILS_PROFILE": profile, "GANUTILS_OFFLINE": "1"}):
        try:
            nbclient.execute(notebook, cwd=folder, timeout=3000)
        except nbclient.exceptions.CellExecutionError as failure:
            kinds = [[out.output_type for out in c.get("outputs", [])] for c in notebook.cells]
            number = next(i for i, found in enumerate(kinds) if "error" in found)
            error = f"cell {number}: {failure.ename}: {failure.evalue}"
    return time.perf_counter() - start, error


def main(arguments=None):
    parser = record.make_parser(__doc__)
    parser.add_argument("--source", default="digits", help="as for data.load_images")
    parser.add_argument("--profile", choices=("full", "smoke"), default="full")
    parser.add_argument("--notebooks", type=record.names_of(NOTEBOOKS), default=list(NOTEBOOKS))
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    source = options.source
    if os.path.exists(source):
        source = os.path.abspath(source)
    rows = []
    for number in options.notebooks:
        with tempfile.TemporaryDirectory() as folder:
            seconds, error = run(NOTEBOOKS[number], source, options.profile, folder)
        rows.append({"notebook": NOTEBOOKS[number].name, "seconds": round(seconds), "error": error})
        print(f"{number} {seconds:6.0f} s  {error or 'ends'}", flush=True)
    if options.save:
        chosen = {"source": options.source, "profile": options.profile}
        command = record.command(__file__, arguments)
        record.save(SAVED, command=command, **record.about(), **chosen, rows=rows)
    if any(row["error"] for row in rows):
        raise SystemExit("Not every notebook ends.")


if __name__ == "__main__":
    main()
