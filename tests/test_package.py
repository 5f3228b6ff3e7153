"""Which room of the package may import which, exactly: a permission that nothing uses fails too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ganutils"

NOTEBOOK_ONLY = ("IPython", "ipywidgets")  # imported where a notebook runs, and only there

# Room: the rooms of ganutils that it imports. Families import the wing, never each other.
ROOMS = {
    "checkpoints": {"training"},
    "classifier": {"_atomic", "validation"},
    "data": {"_image_files", "_mnist", "_morph", "latents", "stroke_attributes", "validation"},
    "exercises": {"runtime"},
    "figures": {"_atomic", "validation"},
    "latents": {"runtime"},
    "layers": set(),
    "losses": {"latents"},
    "metrics": {"validation"},
    "networks": {"layers", "validation"},
    "runtime": set(),
    "steps": {"latents", "validation"},
    "stroke_attributes": {"validation"},
    "training": {"runtime", "validation"},
    "validation": set(),
    "__main__": {"_mnist", "classifier", "latents", "losses", "networks", "runtime", "steps"},
    "_atomic": set(),
    "_image_files": {"validation"},
    "_mnist": {"_image_files", "validation"},
    "_morph": set(),
    "_page": set(),
    "families.aae": {"latents", "layers", "networks"},
    "families.bigan": {"latents", "losses", "networks"},
    "families.biggan": {"layers", "networks", "runtime", "validation"},
    "families.conditional": {"latents", "networks"},
    "families.cyclegan": {"data", "latents"},
    "families.export": {"_atomic", "layers", "validation"},
    "families.infogan": {"latents"},
    "families.invariance": {"latents"},
    "families.lapgan": {"latents", "networks", "validation"},
    "families.latent_directions": {"latents", "stroke_attributes"},
    "families.mode_collapse": {"validation"},
    "families.stargan": {"latents", "networks", "validation"},
    "families.stylegan": {"latents", "layers", "networks", "validation"},
    "families.pix2pix": {"latents", "networks", "validation"},
}


def name_of(path):
    """A room's name as an import writes it: "data", "families.aae"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def names_imported(node):
    """Dotted names that an import statement imports; none for another statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names]
    return []


def imported_rooms(source, rooms):
    """Those of the rooms that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        for name in names_imported(node):
            found |= {room for room in rooms if f"{name}.".startswith(f"ganutils.{room}.")}
    return found


def forbidden_imports(source):
    """Star and relative imports anywhere, and IPython and ipywidgets outside of functions."""
    problems, outside = [], [ast.parse(source)]
    for node in ast.walk(ast.parse(source)):
        problems += [n for n in names_imported(node) if n.startswith(".") or n.endswith("*")]
    while outside:
        node = outside.pop()
        names = [name for name in names_imported(node) if name.split(".")[0] in NOTEBOOK_ONLY]
        problems += names
        if not isinstance(node, ast.FunctionDef):
            outside += ast.iter_child_nodes(node)
    return problems


SOURCES = {
    name_of(path): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__init__"
}


def test_the_table_of_imports_is_exact():
    assert {room: imported_rooms(source, SOURCES) for room, source in SOURCES.items()} == ROOMS


def test_the_table_keeps_families_apart():
    allowed = set().union(*ROOMS.values())
    assert [room for room in allowed if room.startswith("families")] == []


@pytest.mark.parametrize("room", SOURCES)
def test_no_room_imports_what_it_must_not(room):
    assert forbidden_imports(SOURCES[room]) == []


def test_the_package_itself_is_a_map_and_imports_no_library():
    docstring, *rest = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert isinstance(docstring.value.value, str)
    assert {name for node in rest for name in names_imported(node)} == {"os", "sys"}
    assigned = [node.targets[0].id for node in rest if isinstance(node, ast.Assign)]
    assert assigned == ["__version__"]
    (docstring,) = ast.parse((PACKAGE / "families" / "__init__.py").read_text()).body
    assert isinstance(docstring.value.value, str)


@pytest.mark.parametrize(
    "source, rooms",
    [
        ("import tensorflow as tf\nfrom datasets import data", set()),
        ("from ganutils import data, losses", {"data", "losses"}),
        ("import ganutils.data as d", {"data"}),
        ("def f():\n    from ganutils.data import load_images", {"data"}),
        ("from ganutils.families import aae", {"families.aae"}),
        ("from ganutils.families.aae import gaussian_prior", {"families.aae"}),
        ("from ganutils.data_sets import x", set()),
    ],
)
def test_imports_of_rooms_are_found(source, rooms):
    assert imported_rooms(source, ["data", "losses", "families.aae"]) == rooms


@pytest.mark.parametrize(
    "source, problems",
    [
        ("import IPythonic\ndef f():\n    from IPython.display import HTML", []),
        ("from IPython.display import HTML", ["IPython.display.HTML"]),
        ("import ipywidgets", ["ipywidgets"]),
        ("def f():\n    import ipywidgets", []),
        ("try:\n    import IPython\nexcept ImportError:\n    pass", ["IPython"]),
        ("class A:\n    import IPython", ["IPython"]),
        ("from numpy import *", ["numpy.*"]),
        ("from . import data", ["..data"]),
        ("from .data import load_images", [".data.load_images"]),
    ],
)
def test_forbidden_imports_are_found(source, problems):
    assert forbidden_imports(source) == problems
