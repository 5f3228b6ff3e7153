"""Every notebook keeps the rules of the house, and every rule can be broken.

Nothing is executed here (pytest --nbval does that). A rule is a function of a notebook and its path
that lists what breaks it; the last tests break each rule on a made-up notebook.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Room: the rooms of ganutils that it may import.
ROOMS = {
    "data": {"checks", "published", "readers"},
    "published": {"readers"},
    "readers": set(),
    "latents": set(),
    "networks": {"layers"},
    "layers": set(),
    "stabilizers": set(),
    "losses": set(),
    "penalties": set(),
    "updates": {"latents"},
    "conditional": {"latents", "metrics", "networks"},
    "codes": {"checks", "latents", "networks"},
    "encoders": {"latents", "losses", "networks"},
    "autoencoders": {"latents", "layers", "networks"},
    "pyramids": {"checks", "latents", "networks"},
    "strokes": {"checks"},
    "directions": {"checks", "strokes"},
    "training": {"checks", "runtime"},
    "checkpoints": {"training", "updates"},
    "checks": set(),
    "classifier": {"checks", "data", "files"},
    "metrics": {"checks"},
    "figures": {"checks", "files"},
    "files": set(),
    "runtime": set(),
}
# Imported, never taught, except:
PLUMBING = {"data", "published", "readers", "figures", "files", "runtime", "checks", "classifier"}
TAUGHT_PLUMBING = {"write_gif"}

SECTIONS = [
    "The result first",
    "Set-up",
    "The mathematics",
    "Train",
    "Look",
    "What goes wrong",
    "Summary",
    "Exercises",
    "References",
]
FIRST_LINE = (
    "from ganutils import runtime  # first: it imports TensorFlow without its start-up messages"
)
ABOUT = ["You will be able to", "You need", "Time", "Data"]
TAGS = {"taught", "nbval-ignore-output"}
# What names the machine it was written on, or was left to be filled in.
STRAY_WORDS = re.compile(r"/(?:work|tmp|root|home|Users)/|site-packages|MINUTES|TODO|FIXME")


# Reading code.


def bare(node):
    """A node's syntax tree as text, without docstrings and positions."""
    node = copy.deepcopy(node)
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = inner.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    del inner.body[0]
    return ast.dump(node)


def bound_names(node):
    """Names that a statement binds where it stands; what happens inside a function stays there."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Lambda):
        return set()
    if isinstance(node, ast.Import | ast.ImportFrom):
        if getattr(node, "module", None) and node.module.split(".")[0] == "ganutils":
            return set()  # that is the name itself, not another thing of its name
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.comprehension):  # its target is its own; what it runs over is not
        return set().union(*map(bound_names, [node.iter, *node.ifs]))
    names = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        names.add(node.name)
    return names.union(*map(bound_names, ast.iter_child_nodes(node)))


DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def package_definitions():
    """Each public name of the package: the room and the statement that define it."""
    found = {}
    for room in sorted((ROOT / "ganutils").glob("*.py")):
        for node in ast.parse(room.read_text()).body:
            if isinstance(node, DEFINITIONS):
                for name in bound_names(node):
                    if not name.startswith("_"):
                        found.setdefault(name, []).append((room.stem, node))
    return found


PACKAGE = package_definitions()


def is_taught(name):
    """Whether a public name of the package has a birthplace: not plumbing, not a constant."""
    rooms = {room for room, _ in PACKAGE[name]}
    return name in TAUGHT_PLUMBING or not (name.isupper() or rooms <= PLUMBING)


TEACHABLE = {name for name in PACKAGE if is_taught(name)}


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def statements(cell):
    return ast.parse(cell.source).body


def taught_names(notebook):
    """Names that the cells tagged `taught` define, as often as they do."""
    return [
        name
        for cell in code(notebook)
        if "taught" in tags(cell)
        for node in statements(cell)
        if isinstance(node, DEFINITIONS)
        for name in sorted(bound_names(node))
    ]


# The rules: functions of (notebook, path) that list what is wrong.


def parity(notebook, path):
    """What is taught is the package's own code, docstrings aside."""
    problems = []
    for cell in code(notebook):
        if "taught" not in tags(cell):
            continue
        if not any(isinstance(node, DEFINITIONS) for node in statements(cell)):
            problems.append(f"teaches nothing: {cell.source[:50]!r}")
        for node in statements(cell):
            for name in bound_names(node):
                twins = [bare(twin) for _, twin in PACKAGE.get(name, ())]
                if not twins:
                    problems.append(f"{name} is taught and not in the package")
                elif bare(node) not in twins:
                    problems.append(f"{name} differs from its twin in the package")
                elif name not in TEACHABLE:
                    problems.append(f"{name} is plumbing, to be imported")
    return problems


def no_second_definition(notebook, path):
    """A public name of the package is bound by its birthplace or an import, and by nothing else."""
    problems = [
        f"{name} is a name of the package, defined in an untagged cell"
        for cell in code(notebook)
        if "taught" not in tags(cell)
        for node in statements(cell)
        for name in sorted(bound_names(node) & set(PACKAGE))
    ]
    names = taught_names(notebook)
    return problems + [
        f"{name} is taught twice" for name in sorted(set(names)) if names.count(name) > 1
    ]


def imports(notebook, path):
    """No star imports."""
    return [
        f"from {node.module} import *"
        for cell in code(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]


def headings(notebook):
    """Pairs (level, text), fenced code left out."""
    text = "\n\n".join(cell.source for cell in prose(notebook))
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) +(.*)$", text, re.M)]


def skeleton(notebook, path):
    """The sections of every notebook, in order; the header table; the set-up cell."""
    problems = []
    first = notebook.cells[0]
    title = rf"# {int(path.name[:2])}\. \S.*\n"
    if first.cell_type != "markdown" or not re.match(title, first.source):
        problems.append(f"the first cell does not start with '# {int(path.name[:2])}. Title'")
    rows = [line.split("|")[1].strip(" *") for line in first.source.splitlines() if line[:1] == "|"]
    if [row for row in rows if row in ABOUT] != ABOUT:
        problems.append(f"the header table has the rows {rows}")
    if [level for level, _ in headings(notebook)].count(1) != 1:
        problems.append("there must be one title")
    sections = [text for level, text in headings(notebook) if level == 2]
    if [text for text in sections if text in SECTIONS] != SECTIONS:
        problems.append(f"sections are missing, twice there or out of order: {sections}")
    if not code(notebook) or not code(notebook)[0].source.startswith(FIRST_LINE + "\n"):
        problems.append("the first code cell does not start with the import of runtime")
    elif "keras.utils.set_random_seed(SEED)" not in code(notebook)[0].source:
        problems.append("the set-up cell sets no seed")
    return problems


def sizes(notebook, path):
    """Short cells, and a word of prose for each of them."""
    problems = [
        f"{len(cell.source.splitlines())} lines: {cell.source[:50]!r}"
        for cell in code(notebook)
        if len(cell.source.splitlines()) > 25
    ]
    if len(prose(notebook)) < len(code(notebook)):
        problems.append(f"{len(code(notebook))} code cells, {len(prose(notebook))} of prose")
    return problems


def outputs(notebook, path):
    """Executed from top to bottom, without an error, a warning or a widget, and with a picture."""
    problems, kinds = [], set()
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"execution counts are {counts}")
    for cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"error: {output.ename}")
            if output.get("name") == "stderr":
                problems.append(f"stderr: {output.text[:50]!r}")
            kinds |= set(output.get("data", ()))
    if "image/png" not in kinds:
        problems.append("no PNG")
    if "widgets" in notebook.metadata or any("widget" in kind for kind in kinds):
        problems.append("a widget")
    return problems


def known_tags(notebook, path):
    """Only tags that mean something here, and text that varies in two cells at most."""
    used = [tag for cell in notebook.cells for tag in tags(cell)]
    problems = [f"unknown tag {tag}" for tag in sorted(set(used) - TAGS)]
    if used.count("nbval-ignore-output") > 2:
        problems.append("more than two cells are not compared")
    misplaced = [cell for cell in prose(notebook) if tags(cell)]
    return problems + [f"a tag on prose: {cell.source[:50]!r}" for cell in misplaced]


def pictures_in(text):
    """Pairs (description, target) of pictures in Markdown or HTML."""
    found = re.findall(r"!\[(.*?)\]\(([^)\s]*).*?\)", text, re.S)
    for tag in re.findall(r"<img\b.*?>", text, re.S):
        given = dict(re.findall(r"""(alt|src)\s*=\s*["'](.*?)["']""", tag, re.S))
        found.append((given.get("alt", ""), given.get("src", "")))
    return found


def pictures(notebook, path):
    """Pictures in the prose exist beside the notebook and are described in words."""
    problems, count = [], 0
    for cell in prose(notebook):
        for description, target in pictures_in(cell.source):
            count += 1
            if len(description.split()) < 3:
                problems.append(f"{target} is described by {description!r}")
            if not target.startswith("assets/") or not (path.parent / target).is_file():
                problems.append(f"{target} is not a file in assets/")
    return problems if count else ["no picture shows the result first"]


def no_stray_words(notebook, path):
    """Nothing names the machine, and nothing is left to be filled in."""
    texts = [str(notebook.metadata), *(cell.source for cell in notebook.cells)]
    for cell in code(notebook):
        for output in cell.outputs:
            texts.append(output.get("text", ""))
            texts += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    # An embedded picture is letters at random.
    texts = [re.sub(r"base64,[A-Za-z0-9+/=]*", "", str(text)) for text in texts]
    return [match for text in texts for match in STRAY_WORDS.findall(text)]


def form(notebook, path):
    """A valid notebook for any Python 3 kernel, whose cells have names of their own."""
    problems = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernel is not python3")
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        return [*problems, "cell ids are missing or repeated"]  # validate would repair them
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        problems.append(str(error).splitlines()[0])
    return problems


RULES = [
    parity,
    no_second_definition,
    imports,
    skeleton,
    sizes,
    outputs,
    known_tags,
    pictures,
    no_stray_words,
    form,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    assert rule(nbformat.read(path, as_version=nbformat.NO_CONVERT), path) == []


# The collection.


def birthplaces(taught):
    """From a dict (notebook: names it teaches): what is never taught, and what more than once."""
    every = [name for names in taught.values() for name in set(names)]
    twice = {name for name in every if every.count(name) > 1}
    return sorted(TEACHABLE - set(every)), sorted(twice)


def test_the_course_is_there_and_teaches_each_name_once():
    numbers = [path.name[:3] for path in NOTEBOOKS]
    assert numbers == [f"{number:02d}_" for number in range(1, max(5, len(NOTEBOOKS)) + 1)]
    taught = {path.stem: taught_names(nbformat.read(path, as_version=4)) for path in NOTEBOOKS}
    never, twice = birthplaces(taught)
    assert (never, twice) == ([], [])


def test_names_without_a_birthplace_and_with_two_are_found():
    names = sorted(TEACHABLE)
    assert birthplaces({"01": names[:3], "02": names[3:]}) == ([], [])
    assert birthplaces({"01": names[:3], "02": names[4:]}) == ([names[3]], [])
    assert birthplaces({"01": names[:3], "02": names[2:]}) == ([], [names[2]])


def test_what_is_taught_and_what_is_plumbing():
    assert {"discriminator_loss", "non_saturating", "Progress", "slerp", "History"} <= TEACHABLE
    assert {"normal_init", "write_gif"} <= TEACHABLE
    assert not {"tile", "LiveView", "REAL", "load_images", "budget"} & TEACHABLE
    assert {"tile", "LiveView", "REAL", "load_images", "budget"} <= set(PACKAGE)


def test_files_are_small():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 3_000_000, path.name
    for path in (ROOT / "notebooks" / "assets").rglob("*.gif"):
        assert path.stat().st_size < 2_000_000, path.name


def test_every_committed_picture_is_shown_somewhere():
    pages = [
        (path, "\n".join(c.source for c in nbformat.read(path, 4).cells)) for path in NOTEBOOKS
    ]
    readme = ROOT / "README.md"
    pages += [(readme, readme.read_text())] if readme.exists() else []
    shown = {(path.parent / target).resolve() for path, t in pages for _, target in pictures_in(t)}
    assets = (ROOT / "notebooks" / "assets").rglob("*")
    kept = {path for path in assets if path.suffix in (".png", ".gif", ".jpg", ".svg")}
    assert sorted(path.name for path in kept - shown) == []


# The package.


def imported_rooms(source):
    """Rooms of ganutils that a module imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("ganutils.")}
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: from .data import x, from . import data
                module = f"ganutils.{module}".rstrip(".")
            if module == "ganutils":
                rooms |= {alias.name for alias in node.names}
            elif module.startswith("ganutils."):
                rooms.add(module.split(".")[1])
    return rooms


def forbidden_imports(source):
    """Star imports anywhere, and IPython outside of functions."""
    problems, outside = [], [ast.parse(source)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            problems.append(f"from {node.module} import *")
    while outside:
        node = outside.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            problems += ["IPython" for name in names if name.split(".")[0] == "IPython"]
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            outside += ast.iter_child_nodes(node)
    return problems


def test_each_room_imports_only_the_rooms_it_may():
    modules = [path for path in (ROOT / "ganutils").rglob("*.py") if path.stem != "__init__"]
    assert {path.stem for path in modules} <= set(ROOMS)
    for path in modules:
        assert imported_rooms(path.read_text()) <= ROOMS[path.stem], path.name
        assert forbidden_imports(path.read_text()) == [], path.name


def test_the_package_itself_holds_a_docstring_and_a_version():
    docstring, version = ast.parse((ROOT / "ganutils" / "__init__.py").read_text()).body
    assert isinstance(docstring.value, ast.Constant) and isinstance(docstring.value.value, str)
    assert [target.id for target in version.targets] == ["__version__"]


@pytest.mark.parametrize(
    "source, rooms",
    [
        ("import tensorflow as tf\nfrom datasets import data", set()),
        ("from ganutils import data, losses", {"data", "losses"}),
        ("import ganutils.data as d", {"data"}),
        ("from ganutils.data import load_images", {"data"}),
        ("def f():\n    from . import data", {"data"}),
        ("from .data import load_images", {"data"}),
    ],
)
def test_imports_of_rooms_are_found(source, rooms):
    assert imported_rooms(source) == rooms


@pytest.mark.parametrize(
    "source, problems",
    [
        ("def f():\n    from IPython.display import display", []),
        ("import IPythonic", []),
        ("from IPython.display import display", ["IPython"]),
        ("try:\n    import IPython.display as d\nexcept ImportError:\n    pass", ["IPython"]),
        ("class A:\n    import IPython", ["IPython"]),
        ("from numpy import *", ["from numpy import *"]),
    ],
)
def test_forbidden_imports_are_found(source, problems):
    assert forbidden_imports(source) == problems


# Can each rule fail? A notebook that keeps all of them, and one change for each.

SET_UP = f"""{FIRST_LINE}

import keras

from ganutils import figures

SEED = 1
keras.utils.set_random_seed(SEED)"""
HEADER = """# 7. Made up

| | |
|---|---|
| You will be able to | break rules |
| You need | nothing |
| **Time** | none |
| Data | none |"""
PICTURE = "![Two words and\nmore of them](assets/07_result.png)"
# A function of the package, with another docstring than there.
TAUGHT = '''def leaky_relu(x):
    """Another docstring."""
    return layers.LeakyReLU(negative_slope=0.2)(x)'''


@pytest.fixture
def made_up(tmp_path):
    """A notebook that keeps every rule, and its path. Cell 3 is the set-up, cell 5 is taught."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "07_result.png").write_bytes(b"")
    texts = {name: f"## {name}\n\nWords." for name in SECTIONS}
    texts["The result first"] += f"\n\n{PICTURE}"
    texts["Train"] += "\n\n```python\n## not a heading\n```\n\n### A heading of the third level"
    cells = [new_markdown_cell(HEADER)]
    for name in SECTIONS:
        cells.append(new_markdown_cell(texts[name]))
        if name == "Set-up":
            cells.append(new_code_cell(SET_UP))
        if name == "The mathematics":
            cells.append(new_code_cell(TAUGHT, metadata={"tags": ["taught"]}))
        if name == "Look":
            cells.append(new_code_cell("leaky = [tile for tile in range(3)]"))
    for index, cell in enumerate(cells):
        cell.id = f"c{index}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    for number, cell in enumerate(code(notebook), start=1):
        cell.execution_count = number
    code(notebook)[-1].outputs = [
        new_output("display_data", {"image/png": "iVBO/tmp/", "text/plain": "<Figure>"}),
        new_output("display_data", {"text/html": "<img src='data:image/gif;base64,/tmp/='>"}),
        new_output("stream", name="stdout", text="True\n"),
    ]
    return notebook, tmp_path / "07_made_up.ipynb"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_notebook_that_keeps_the_rules_is_left_alone(made_up, rule):
    assert rule(*made_up) == []


def taught(notebook):
    return code(notebook)[1]


def show(notebook, *data, **stream):
    made = new_output("stream", **stream) if stream else new_output("display_data", dict([data]))
    code(notebook)[0].outputs.append(made)


def edit(index, old, new):
    """A change that replaces a piece of text in a cell."""

    def change(notebook):
        assert notebook.cells[index].source.count(old) == 1
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)

    return change


def untagged(source):
    """A change that adds code to the last code cell, which has no tag."""

    def change(notebook):
        code(notebook)[-1].source += f"\n{source}"

    return change


def swap(notebook):
    cells = notebook.cells
    cells[-1].source, cells[-2].source = cells[-2].source, cells[-1].source


BREAKS = {
    "other code": (parity, edit(5, "0.2", "0.3"), "leaky_relu differs"),
    "other argument name": (parity, edit(5, "(x):", "(y):"), "leaky_relu differs"),
    "other default": (parity, edit(5, "(x):", "(x=1):"), "leaky_relu differs"),
    "a decorator": (parity, edit(5, "def leaky", "@tf.function\ndef leaky"), "leaky_relu differs"),
    "no twin": (parity, edit(5, "def leaky_relu", "def leaky"), "leaky is taught and not in"),
    "private": (parity, edit(5, "def ", "_x = 1\ndef "), "_x is taught and not"),
    "loop": (parity, edit(5, "def ", "for train in ():\n    pass\ndef "), "train differs"),
    "nothing taught": (parity, lambda n: taught(n).update(source="print(1)"), "teaches nothing"),
    "other value": (
        parity,
        lambda n: taught(n).update(source="minimax = (generator_loss, discriminator_loss)"),
        "minimax differs",
    ),
    "plumbing": (
        parity,
        lambda n: taught(n).update(source='REAL, FAKE = "tab:blue", "tab:orange"'),
        "REAL is plumbing",
    ),
    "taught untagged": (
        no_second_definition,
        lambda n: taught(n).metadata.pop("tags"),
        "leaky_relu is a name of the package",
    ),
    "assigned": (no_second_definition, untagged("minimax = 1"), "minimax is a name"),
    "unpacked": (no_second_definition, untagged("a, (train, *b) = 1, (2, 3)"), "train is a name"),
    "annotated": (no_second_definition, untagged("slerp: int = 1"), "slerp is a name"),
    "indented": (
        no_second_definition,
        untagged("if True:\n    class History:\n        pass"),
        "History is a name",
    ),
    "with": (no_second_definition, untagged("with open('x') as resume:\n    pass"), "resume is"),
    "walrus": (no_second_definition, untagged("print([(saver := x) for x in ()])"), "saver is a"),
    "imported": (no_second_definition, untagged("from numpy import tile"), "tile is a name of"),
    "taught twice": (
        no_second_definition,
        lambda n: taught(n).update(source=f"{TAUGHT}\n\n\n{TAUGHT}"),
        "leaky_relu is taught twice",
    ),
    "star": (imports, untagged("from ganutils.losses import *"), "from ganutils.losses import *"),
    "number": (skeleton, edit(0, "# 7.", "# 8."), "'# 7. Title'"),
    "table": (skeleton, edit(0, "| You need | nothing |\n", ""), "header table"),
    "two titles": (skeleton, edit(7, "## Look", "# Look\n\n## Look"), "one title"),
    "section missing": (skeleton, edit(7, "## Look", "### Look"), "sections are missing"),
    "section twice": (skeleton, edit(9, "Words.", "## Look"), "sections are missing"),
    "out of order": (skeleton, swap, "out of order"),
    "late import": (skeleton, edit(3, FIRST_LINE, f"import os\n{FIRST_LINE}"), "import of runtime"),
    "no seed": (skeleton, edit(3, "keras.utils.set_random_seed(SEED)", ""), "no seed"),
    "long cell": (sizes, lambda n: taught(n).update(source="\n".join(["x = 1"] * 26)), "26 lines"),
    "little prose": (
        sizes,
        lambda n: n.cells.extend([new_code_cell("1")] * 8),
        "11 code cells, 10",
    ),
    "not executed": (outputs, lambda n: taught(n).update(execution_count=None), "[1, None, 3]"),
    "out of turn": (outputs, lambda n: taught(n).update(execution_count=4), "[1, 4, 3]"),
    "stderr": (outputs, lambda n: show(n, name="stderr", text="Careful"), "stderr: 'Careful'"),
    "error": (
        outputs,
        lambda n: taught(n).outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
        "error: E",
    ),
    "no picture": (outputs, lambda n: code(n)[-1].update(outputs=[]), "no PNG"),
    "widget": (
        outputs,
        lambda n: show(n, "application/vnd.jupyter.widget-view+json", {}),
        "a widget",
    ),
    "widget state": (outputs, lambda n: n.metadata.update(widgets={}), "a widget"),
    "unknown tag": (
        known_tags,
        lambda n: taught(n).metadata.tags.append("nbval-skip"),
        "unknown tag nbval-skip",
    ),
    "three ignored": (
        known_tags,
        lambda n: [cell.metadata.update(tags=["nbval-ignore-output"]) for cell in code(n)],
        "more than two",
    ),
    "tagged prose": (known_tags, lambda n: n.cells[0].metadata.update(tags=["taught"]), "on prose"),
    "no such file": (pictures, edit(1, "07_result", "08_result"), "not a file"),
    "not described": (pictures, edit(1, "Two words and\nmore of them", ""), "described by ''"),
    "HTML, not described": (
        pictures,
        edit(1, "Words.", "<img\nsrc='assets/07_result.png'>"),
        "described by ''",
    ),
    "no picture first": (pictures, edit(1, PICTURE, ""), "no picture"),
    "path in code": (no_stray_words, untagged("x = '/tmp/x'"), "/tmp/"),
    "path in an output": (
        no_stray_words,
        lambda n: show(n, name="stdout", text="/home/me/x"),
        "/home/",
    ),
    "path in a repr": (no_stray_words, lambda n: show(n, "text/plain", "'/root/x'"), "/root/"),
    "placeholder": (no_stray_words, edit(0, "| none |\n", "| MINUTES |\n"), "MINUTES"),
    "kernel": (form, lambda n: n.metadata.kernelspec.update(name="venv"), "not python3"),
    "ids": (form, lambda n: n.cells[1].update(id="c0"), "cell ids"),
    "invalid": (form, lambda n: n.cells[1].update(outputs=[]), "outputs"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_can_be_broken(made_up, name):
    rule, change, expected = BREAKS[name]
    notebook, path = made_up
    change(notebook)
    problems = rule(notebook, path)
    assert any(expected in problem for problem in problems), problems


def test_every_rule_is_broken_above():
    assert {rule for rule, *_ in BREAKS.values()} == set(RULES)


@pytest.mark.parametrize(
    "source",
    [
        "def f(tile):\n    train = 1",
        "class A:\n    slerp = 1",
        "f = lambda tile: (train := 1)",
        "[tile for tile in {train: 1 for train in ()}]",
        "losses.minimax = 1",
        "from ganutils.figures import tile",
        "f(tile=1)",
        "print(tile)",
    ],
)
def test_names_inside_functions_and_imports_from_the_package_are_no_definitions(source):
    assert not set().union(*map(bound_names, ast.parse(source).body)) & set(PACKAGE)
