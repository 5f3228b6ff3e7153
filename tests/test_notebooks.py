"""Every notebook keeps the rules of the house, and every rule can be broken.

Nothing is executed here (pytest --nbval does that). A rule is a function of a notebook and its path
that lists what breaks it; the last tests break each rule on a made-up notebook.
"""

import ast
import copy
import functools
import importlib.util
import re
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
HUNTS = sorted((ROOT / "notebooks" / "bug_hunts").glob("*.ipynb"))
TEACHING = sorted((ROOT / "notebooks" / "teaching").glob("*.ipynb"))

# Public rooms that are imported and never taught.
PLUMBING = {"data", "figures", "runtime", "validation", "classifier", "training", "checkpoints"}
PLUMBING |= {"exercises", "export"}

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
    "from ganutils import runtime"
    "  # first: quiet TensorFlow; missing? pip install -r requirements.txt"
)
ABOUT = ["You will be able to", "You need", "Time", "Data"]
TAGS = {"taught", "nbval-ignore-output", "exercise", "stub", "solution", "check"}
PROSE_TAGS = {"exercise", "stub", "solution"}
# An exercise's heading: its number, title, grade and minutes.
EXERCISE = re.compile(r"### (\d+)\.(\d+) \S.* \((try|build|think), \d+ minutes\)\n")
HINT = "<details><summary>Hint</summary>"
HUNT = [
    "The program",
    "The run",
    "What do you see?",
    "The cause",
    "The mend",
    "The test that would have caught it",
    "What people report",
]
LONGEST_CELL = 25
SLIDE_TYPES = {"slide", "subslide", "fragment", "-", "skip", "notes"}
LONGEST_DECK = 50
# What names the machine it was written on, or was left to be filled in.
STRAY_WORDS = re.compile(r"/(?:work|tmp|root|home|Users)/|site-packages|MINUTES|TODO|FIXME")


# Reading code.


def is_docstring(node):
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_guard(node):
    """Whether a statement is `if ...: raise ...`, or a call of validation, value kept or not."""
    if isinstance(node, ast.If):
        return [type(inner) for inner in node.body] == [ast.Raise] and not node.orelse
    if not isinstance(node, ast.Expr | ast.Assign) or not isinstance(node.value, ast.Call):
        return False
    return re.fullmatch(r"validation\.\w+", ast.unparse(node.value.func)) is not None


def is_left_out(decorator):
    """Whether it registers a layer, or is what notebook 15 puts around the code of earlier ones."""
    text = ast.unparse(decorator)
    registers = text.startswith("keras.saving.register_keras_serializable(")
    return registers or text in ("_alike_in_xla", "by_replica", "synchronized")


def bare(node):
    """A node's syntax tree as text, without what a taught cell may leave out.

    That is: docstrings, guards at the top of a function, methods get_config, registration, and the
    decorators for several devices.
    """
    node = copy.deepcopy(node)
    for inner in ast.walk(node):
        if not isinstance(inner, ast.FunctionDef | ast.ClassDef):
            continue
        if is_docstring(inner.body[0]):
            del inner.body[0]
        if isinstance(inner, ast.FunctionDef):
            while inner.body and is_guard(inner.body[0]):
                del inner.body[0]
        else:
            inner.body = [n for n in inner.body if getattr(n, "name", None) != "get_config"]
        inner.decorator_list = [d for d in inner.decorator_list if not is_left_out(d)]
    return ast.dump(node)


def bound_names(node):
    """Names that a statement binds where it stands; what happens inside a function stays there."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
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


def definitions(rooms):
    """From a dict (room: source): its public names, each with pairs (room, definition)."""
    found = {}
    for room, source in rooms.items():
        for node in ast.parse(source).body:
            if isinstance(node, DEFINITIONS):
                for name in bound_names(node):
                    if not name.startswith("_"):
                        found.setdefault(name, []).append((room, node))
    return found


def package_definitions():
    """Public names in the public rooms of the package, those of families included."""
    rooms = sorted((ROOT / "ganutils").rglob("[!_]*.py"))
    assert len({room.stem for room in rooms}) == len(rooms)
    return definitions({room.stem: room.read_text() for room in rooms})


PACKAGE = package_definitions()


def is_taught(name):
    """Whether a public name of the package has a birthplace: not plumbing, not a constant."""
    rooms = {room for room, _ in PACKAGE[name]}
    return not (name.isupper() or rooms <= PLUMBING)


# Reading notebooks.


@functools.cache
def read(path):
    """A notebook, read once for all rules; none of them changes it."""
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))


@functools.cache
def parse(source):
    return ast.parse(source)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def statements(cell):
    return parse(cell.source).body


def nodes(notebook):
    """All of the syntax trees of a notebook's code."""
    return [node for cell in code(notebook) for node in ast.walk(parse(cell.source))]


def output_data(notebook):
    """Pairs (data, metadata) of what the cells put out, text apart."""
    found = [output for cell in code(notebook) for output in cell.outputs]
    return [(output.data, output.metadata) for output in found if "data" in output]


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


def headings(notebook):
    """Pairs (level, text), fenced code left out."""
    text = "\n\n".join(cell.source for cell in prose(notebook))
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) +(.*)$", text, re.M)]


def pictures_in(text):
    """Pairs (description, target) of pictures in Markdown or HTML."""
    found = re.findall(r"!\[(.*?)\]\(([^)\s]*).*?\)", text, re.S)
    for tag in re.findall(r"<img\b.*?>", text, re.S):
        given = {key: value for key, _, value in re.findall(r"""(\w+)=(["'])(.*?)\2""", tag, re.S)}
        found.append((given.get("alt", ""), given.get("src", "")))
    return found


# The rules: functions of (notebook, path) that list what is wrong.


def parity(notebook, path):
    """What is taught is the package's own code, but for what `bare` leaves out."""
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
                elif not is_taught(name):
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
    """No star imports, and nothing private of the package."""
    problems = []
    for node in nodes(notebook):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
            problems += [name for name in names if re.search(r"\*$|^ganutils.*\._(?!_)", name)]
    return problems


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
        if len(cell.source.splitlines()) > LONGEST_CELL
    ]
    if len(prose(notebook)) < len(code(notebook)):
        problems.append(f"{len(code(notebook))} code cells, {len(prose(notebook))} of prose")
    return problems


def outputs(notebook, path):
    """Executed from top to bottom, without an error, a warning or a widget."""
    problems, kinds = [], {kind for data, _ in output_data(notebook) for kind in data}
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"execution counts are {counts}")
    for output in [output for cell in code(notebook) for output in cell.outputs]:
        if output.output_type == "error":
            problems.append(f"error: {output.ename}")
        if output.get("name") == "stderr":
            problems.append(f"stderr: {output.text[:50]!r}")
    if "widgets" in notebook.metadata or any("widget" in kind for kind in kinds):
        problems.append("a widget")
    return problems


def draws(notebook, path):
    """Something is seen."""
    return [] if any("image/png" in data for data, _ in output_data(notebook)) else ["no PNG"]


def descriptions(notebook, path):
    """Pictures in the outputs are described in words, and shown by nothing but figures."""
    calls = [node.func for node in nodes(notebook) if isinstance(node, ast.Call)]
    shows = [ast.unparse(f) for f in calls if isinstance(f, ast.Attribute) and f.attr == "show"]
    problems = [f"{show}() describes nothing" for show in shows if show != "figures.show"]
    for data, metadata in output_data(notebook):
        alts = [alt for alt, _ in pictures_in(data.get("text/html", ""))]
        if "image/png" in data:
            alts.append(metadata.get("image/png", {}).get("alt", ""))
        problems += [f"an output is described by {a!r}" for a in alts if len(a.split()) < 4]
    return problems


def assets(notebook, path):
    """Stored results are read; where pictures go is asked of runtime.picture_folder."""
    texts = [node.value for node in nodes(notebook) if isinstance(node, ast.Constant)]
    return [
        f"{text!r} is for runtime.picture_folder to name"
        for text in texts
        if re.match(r"(\./)?assets\b(?!/results\b)", str(text))
    ]


def known_tags(notebook, path):
    """Only tags that mean something here, and text that varies in two cells at most."""
    used = [tag for cell in notebook.cells for tag in tags(cell)]
    problems = [f"unknown tag {tag}" for tag in sorted(set(used) - TAGS)]
    if used.count("nbval-ignore-output") > 2:
        problems.append("more than two cells are not compared")
    misplaced = [cell for cell in prose(notebook) if set(tags(cell)) - PROSE_TAGS]
    return problems + [f"a tag on prose: {cell.source[:50]!r}" for cell in misplaced]


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
    texts += [output.get("text", "") for cell in code(notebook) for output in cell.outputs]
    for data, _ in output_data(notebook):
        texts += [text for kind, text in data.items() if kind.startswith("text/")]
    # An embedded picture is letters at random.
    texts = [re.sub(r"base64,[A-Za-z0-9+/=]*", "", str(text)) for text in texts]
    return [match for text in texts for match in STRAY_WORDS.findall(text)]


def slides(notebook, path):
    """Every cell has its place in the deck, which starts with a slide and is not too long."""
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in notebook.cells]
    problems = [
        f"slide type {kind}: {cell.source[:50]!r}"
        for cell, kind in zip(notebook.cells, kinds, strict=True)
        if kind not in SLIDE_TYPES
    ]
    if kinds[0] != "slide":
        problems.append("the deck does not start with a slide")
    pages = kinds.count("slide") + kinds.count("subslide")
    return problems + ([] if pages <= LONGEST_DECK else [f"{pages} pages"])


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
    draws,
    descriptions,
    assets,
    known_tags,
    pictures,
    no_stray_words,
    slides,
    form,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    assert rule(read(path), path) == []


# The solutions: each exercise of a lesson, worked.


def exercises_of(notebook):
    """The texts of the exercises."""
    return [cell.source for cell in prose(notebook) if "exercise" in tags(cell)]


def checks_in(notebook, call):
    """The checks that are handed to `exercises.report`, or to `exercises.try_check`."""
    calls = [node for node in nodes(notebook) if isinstance(node, ast.Call) and node.args]
    found = [node.args[0] for node in calls if ast.unparse(node.func) == f"exercises.{call}"]
    return {ast.unparse(check) for check in found}


def worked(notebook, path):
    """The lesson's exercises, to the letter, each with a stub and a solution; checks are tried."""
    lesson = path.parents[1] / path.name.replace("_solutions", "")
    problems = [] if exercises_of(notebook) == exercises_of(read(lesson)) else ["not the lesson's"]
    number, parts = int(path.name[:2]), []
    for cell in notebook.cells:
        if "exercise" in tags(cell):
            parts.append([])
        if parts:
            parts[-1].append(cell)
    if not 4 <= len(parts) <= 7:
        problems.append(f"{len(parts)} exercises")
    for index, (text, *cells) in enumerate(parts, start=1):
        name, heading = f"{number}.{index}", EXERCISE.match(text.source)
        if not heading or f"{heading[1]}.{heading[2]}" != name or HINT not in text.source:
            problems.append(f"{name} has no number, grade, minutes or hint")
            continue
        used = {tag for cell in cells for tag in tags(cell)}
        missing = {"stub", "solution"} - used
        if heading[3] == "build":
            missing |= {"check"} - used
            calls = [cell.source for cell in cells if cell.cell_type == "code"]
            for call in ("exercises.report(", "exercises.try_check("):
                missing |= set() if call in "".join(calls) else {call}
        problems += [f"{name} has no {what}" for what in sorted(missing)]
    untried = checks_in(notebook, "report") - checks_in(notebook, "try_check")
    return problems + [f"{check} is never tried" for check in sorted(untried)]


def hunted(notebook, path):
    """Symptom, three hints and the cause, folded, in this order; a mend, and a test that fails."""
    text = "\n\n".join(cell.source for cell in prose(notebook))
    problems = [] if [t for level, t in headings(notebook) if level == 2] == HUNT else ["sections"]
    folded = re.findall(r"<summary>(.*?)</summary>", text)
    if folded[:3] != ["Hint 1", "Hint 2", "Hint 3"] or len(folded) != 4:
        problems.append(f"{folded} is folded")
    asserts = sum(isinstance(node, ast.Assert) for node in nodes(notebook))
    return problems + ([f"{asserts} assertions"] if asserts < 3 else [])


COMMON_RULES = [
    *(no_second_definition, imports, outputs, descriptions, assets, known_tags),
    *(no_stray_words, form),
]
PAGES = [(path, rule) for path in SOLUTIONS for rule in [*COMMON_RULES, draws, worked]]
PAGES += [(path, rule) for path in HUNTS for rule in [*COMMON_RULES, draws, hunted]]
PAGES += [(path, rule) for path in TEACHING for rule in COMMON_RULES]


@pytest.mark.parametrize("path, rule", PAGES, ids=lambda x: getattr(x, "stem", None) or x.__name__)
def test_solutions_bug_hunts_and_teaching(path, rule):
    assert rule(read(path), path) == []


# The collection.


def birthplaces(taught):
    """From a dict (notebook: names it teaches): what is never taught, and what more than once."""
    every = [name for names in taught.values() for name in set(names)]
    never = {name for name in PACKAGE if is_taught(name)} - set(every)
    return sorted(never), sorted({name for name in every if every.count(name) > 1})


def test_the_course_is_there_and_teaches_each_name_once():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{i + 1:02d}_" for i in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) >= 17
    never, twice = birthplaces({path.stem: taught_names(read(path)) for path in NOTEBOOKS})
    assert (never, twice) == ([], [])


def test_slides_hold_everything_and_no_code_that_draws():
    place = ROOT / "notebooks" / "teaching" / "slides.py"
    spec = importlib.util.spec_from_file_location("slides", place)
    slides = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slides)
    picture = new_output(
        "display_data", {"image/png": "iVBO"}, metadata={"image/png": {"alt": ALT}}
    )
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("kept_code()"),
        new_markdown_cell("skipped"),
    ]
    cells.append(new_code_cell("unseen_code()", outputs=[picture]))
    for cell, kind in zip(cells, ["slide", "-", "skip", "subslide"], strict=True):
        cell.metadata["slideshow"] = {"slide_type": kind}
    resources = {"reveal_js": "reveal()", "reveal_css": "a {}"}
    page, _ = slides.LessonSlides().from_notebook_node(
        new_notebook(cells=cells), resources=resources
    )
    assert page.count("<section") == 3 and "reveal()" in page and "kept_code" in page
    assert "skipped" not in page and "unseen_code" not in page and "iVBO" in page
    assert not re.search(r"""(?:src|href)=["']?http|url\(["']?http|@import""", page)


def homeless(package):
    """Names that more than one statement defines, in one room or in several."""
    return {name: [room for room, _ in found] for name, found in package.items() if found[1:]}


def test_a_public_name_has_one_room():
    assert homeless(PACKAGE) == {}
    rooms = {"losses": "def halve():\n    pass\n\n\nREAL = 1", "aae": "halve = FAKE = 2"}
    assert homeless(definitions(rooms)) == {"halve": ["losses", "aae"]}


def test_what_is_taught_and_what_is_plumbing():
    assert all(map(is_taught, ["discriminator_loss", "slerp", "normal_init", "gaussian_prior"]))
    assert not any(map(is_taught, ["tile", "REAL", "load_images", "budget", "train", "resume"]))
    assert {"tile", "REAL", "load_images", "budget", "train", "resume"} <= set(PACKAGE)
    assert not {"_said", "whole_file"} & set(PACKAGE)


def test_files_are_small():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 3_000_000, path.name
    for path in (ROOT / "notebooks" / "assets").rglob("*.gif"):
        assert path.stat().st_size < 2_000_000, path.name


def test_every_committed_picture_is_shown_somewhere():
    pages = {path: "\n".join(cell.source for cell in read(path).cells) for path in NOTEBOOKS}
    pages[ROOT / "README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {(path.parent / t).resolve() for path in pages for _, t in pictures_in(pages[path])}
    kept = (ROOT / "notebooks" / "assets").rglob("*.*")
    kept = {path for path in kept if path.suffix in (".png", ".gif", ".jpg", ".svg")}
    assert sorted(path.name for path in kept - shown) == []


def test_links_lead_somewhere():
    texts = [ROOT / "README.md", *(ROOT / "notebooks").rglob("*.md")]
    pages = {path: path.read_text(encoding="utf-8") for path in texts}
    for path in [*NOTEBOOKS, *SOLUTIONS, *HUNTS, *TEACHING]:
        pages[path] = "\n".join(cell.source for cell in prose(read(path)))
    links = [(path, link) for path in pages for link in re.findall(r"\]\(([^)#\s]+)", pages[path])]
    local = [(path.parent / link, link) for path, link in links if "://" not in link]
    assert len(local) > 100
    assert sorted({link for target, link in local if not target.exists()}) == []


def test_a_section_that_is_named_beside_a_link_is_there():
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").rglob("*.md")}
    for path in [*NOTEBOOKS, *SOLUTIONS, *HUNTS, *TEACHING]:
        texts[path] = "\n".join(cell.source for cell in prose(read(path)))
    link = re.compile(r"\]\(([^)#\s]+\.ipynb)(?:#(\S+))?\),\s+\*([^*]+)\*")
    named = [
        (path.stem, (path.parent / target).resolve(), anchor, " ".join(name.split()))
        for path, text in texts.items()
        for target, anchor, name in link.findall(text)
    ]
    assert len(named) > 60
    there = {target: [text for _, text in headings(read(target))] for _, target, *_ in named}
    for page, target, anchor, name in named:
        found = [text for text in there[target] if text.startswith(name)]
        assert found, (page, target.name, name)
        if anchor or page == "symptoms":  # as JupyterLab names a heading
            assert anchor in [text.replace(" ", "-") for text in found], (page, anchor)


# The teacher's page.

GUIDE = (ROOT / "notebooks" / "teaching" / "guide.md").read_text(encoding="utf-8")


def table_rows(text):
    """The rows of a page's tables, each a list of cells, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def study_minutes(notebook):
    """The guide's formula: 130 words of prose, 12 lines of code or a picture a minute."""
    section, minutes = "", 0.0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            minutes += sum(bool(line.strip()) for line in cell.source.splitlines()) / 12
            kinds = [set(output.get("data", {})) for output in cell.outputs]
            minutes += sum(bool({"image/png", "text/html"} & kind) for kind in kinds)
            continue
        for part in re.split(r"^(?=## )", cell.source, flags=re.M):
            section = part.splitlines()[0][3:] if part.startswith("## ") else section
            if section not in ("Exercises", "References"):
                minutes += len(re.sub(r"!\[.*?\]\(.*?\)", "", part, flags=re.S).split()) / 130
    return minutes


def test_the_teachers_table_counts_what_is_there():
    rows = [row for row in table_rows(GUIDE) if re.match(r"\[\d+\. ", row[0])]
    readme = [row for row in table_rows((ROOT / "README.md").read_text()) if row[0][:4] == "<img"]
    assert len(rows) == len(readme) == len(NOTEBOOKS) == len(SOLUTIONS)
    for row, shown, lesson, solved in zip(rows, readme, NOTEBOOKS, SOLUTIONS, strict=True):
        study, run, *counts = map(int, row[1:])
        grades = [EXERCISE.match(text)[3] for text in exercises_of(read(solved))]
        assert (run, counts) == (int(shown[-1]), [len(grades), grades.count("build")]), row[0]
        assert abs(study - study_minutes(read(lesson))) <= 10, (row[0], study_minutes(read(lesson)))


def test_the_teachers_tracks_name_sections_that_are_there():
    named = []
    for cell in [cell for row in table_rows(GUIDE) for cell in row if "*" in cell]:
        number = None
        for found in re.finditer(r"(?<![\d.])(\d+)(?=[,;])|\*([^*]+)\*", cell):
            number = int(found[1]) if found[1] else number
            if found[2]:
                named.append((number, found[2]))
    assert len(named) > 20
    there = {number: headings(read(NOTEBOOKS[number - 1])) for number, _ in named}
    lost = [(n, name) for n, name in named if name not in [text for _, text in there[n]]]
    assert lost == []


def test_the_teachers_tracks_add_up_the_minutes_of_exercises():
    texts = [text for path in SOLUTIONS for text in exercises_of(read(path))]
    minutes = {}
    for text in texts:
        number, index, _ = EXERCISE.match(text).groups()
        minutes[int(number), int(index)] = int(re.search(r", (\d+) minutes\)", text)[1])
    checked = 0
    for row in table_rows(GUIDE):
        given = re.findall(r"\b(\d+)\.(\d)(?: to \d+\.(\d))?", row[-2]) if len(row) > 5 else []
        if given:
            spans = [(int(n), range(int(a), int(b or a) + 1)) for n, a, b in given]
            total = sum(minutes[number, index] for number, span in spans for index in span)
            assert total == int(row[-1]), row
            checked += 1
    assert checked >= 17


# What parity leaves out, and what it does not.

HALVE = "def halve(x):\n    return x / 2"


@pytest.mark.parametrize(
    "line",
    [
        '"""Half of x."""',
        'if x < 0:\n        raise ValueError(f"x is {x}.")',
        "validation.check_learner(x, None, name)",
        "x = validation.as_integer(x, low=0)",
        "x, y = validation.as_pair(x, x)",
        '"""Half of x."""\n    x = validation.as_array(x)\n    if x < 0:\n        raise ValueError',
    ],
)
def test_docstrings_and_guards_at_the_top_of_a_function_are_left_out(line):
    twin = HALVE.replace("    ", f"    {line}\n    ")
    assert bare(parse(twin)) == bare(parse(HALVE))
    twin, plain = [textwrap.indent(text, "    ") for text in (twin, HALVE)]
    assert bare(parse(f"class A:\n{twin}")) == bare(parse(f"class A:\n{plain}"))


@pytest.mark.parametrize(
    "line",
    [
        "x = 2 * x",
        "print(x)",
        "assert x > 0",
        "raise ValueError",
        "if x < 0:\n        x = 0",
        "if x < 0:\n        x = 0\n        raise ValueError",
        "if x < 0:\n        raise ValueError\n    else:\n        x = 0",
        "if x < 0:\n        raise ValueError\n    elif x > 9:\n        raise ValueError",
        "try:\n        x + 1\n    except TypeError:\n        raise ValueError",
        "x = other.as_integer(x)",
        "x = validation(x)",
        "x = validation.as_integer(x) + 1",
        "x = validation.checks.as_integer(x)",
        "x += validation.as_integer(x)",
        "return validation.as_integer(x)",
        '"""Half of x."""\n    """And more."""',
        'y = x\n    if x < 0:\n        raise ValueError("Not at the top.")',
    ],
)
def test_other_lines_count(line):
    twin = HALVE.replace("    ", f"    {line}\n    ")
    assert bare(parse(twin)) != bare(parse(HALVE))


REGISTERED = '@keras.saving.register_keras_serializable(package="ganutils")'
LAYER = "class Half(Layer):\n    def call(self, x):\n        return x / 2"


@pytest.mark.parametrize(
    "same, source",
    [
        (True, f"{REGISTERED}\n{LAYER}"),
        (True, f"{LAYER}\n\n    def get_config(self):\n        return {{}}"),
        (False, f"{LAYER}\n\n    def from_config(self):\n        return {{}}"),
        (False, f"{LAYER}\n\n    get_config = None"),
        (False, f"{LAYER}\n\n\ndef get_config(self):\n    return {{}}"),
        (True, f"@by_replica\n{LAYER}"),
        (True, LAYER.replace("    def", "    @synchronized\n    def")),
        (False, f"@by_replica(2)\n{LAYER}"),
        (False, f"@tf.function\n{LAYER}"),
        (False, f"@keras.saving.register_keras_serializable\n{LAYER}"),
        (False, LAYER.replace("Layer", "Module")),
        (False, LAYER.replace("    def", "    if True:\n        raise ValueError\n\n    def")),
    ],
)
def test_registration_get_config_and_several_devices_are_left_out_of_a_class(same, source):
    assert (bare(parse(source)) == bare(parse(LAYER))) is same


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
    assert not bound_names(parse(source)) & {"tile", "train", "slerp", "minimax"}


# Can each rule fail? A notebook that keeps all of them, and one change for each.

ROOMS = {
    "losses": HALVE.replace("    ", "    validation.refuse(x)\n    ") + "\n\n\npair = (1, 2)",
    "figures": "REAL = 1\n\n\ndef tile(images):\n    return images",
}
SET_UP = f"""{FIRST_LINE}

import keras

from ganutils import figures

SEED = 1
keras.utils.set_random_seed(SEED)
stored = open("assets/results/a.json")"""
HEADER = """# 7. Made up

| | |
|---|---|
| You will be able to | break rules |
| You need | nothing |
| **Time** | none |
| Data | none |"""
PICTURE = "![Two words and\nmore of them](assets/07_result.png)"
ALT = "a picture of nothing"


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A notebook that keeps every rule, and its path. Cell 3 is the set-up, cell 5 is taught."""
    monkeypatch.setitem(globals(), "PACKAGE", definitions(ROOMS))
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
            cells.append(new_code_cell(HALVE, metadata={"tags": ["taught"]}))
        if name == "Look":
            cells.append(new_code_cell("figures.show([tile for tile in range(3)])"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    for index, cell in enumerate(cells):
        cell.id = f"c{index}"
        cell.metadata["slideshow"] = {"slide_type": "-" if index else "slide"}
    for number, cell in enumerate(code(notebook), start=1):
        cell.execution_count = number
    png = {"image/png": "iVBO/tmp/", "text/plain": "<Figure>"}
    gif = {"text/html": f"<img src='data:image/gif;base64,/tmp/=' alt='{ALT}'>"}
    code(notebook)[-1].outputs = [
        new_output("display_data", png, metadata={"image/png": {"alt": ALT}}),
        new_output("display_data", gif),
        new_output("stream", name="stdout", text="True\n"),
    ]
    return notebook, tmp_path / "07_made_up.ipynb"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_notebook_that_keeps_the_rules_is_left_alone(made_up, rule):
    assert rule(*made_up) == []


def edit(index, old, new):
    """A change that replaces a piece of text in a cell."""

    def change(notebook):
        assert notebook.cells[index].source.count(old) == 1
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)

    return change


def teach(source):
    """A change of the taught cell."""
    return lambda notebook: code(notebook)[1].update(source=source)


def add(source):
    """A change that adds code to the last code cell, which has no tag."""
    return lambda notebook: code(notebook)[-1].update(
        source=f"{code(notebook)[-1].source}\n{source}"
    )


def put(kind, data):
    """A change that adds an output of a kind."""
    return lambda notebook: code(notebook)[0].outputs.append(
        new_output("display_data", {kind: data})
    )


def say(name, text):
    """A change that adds text to a stream."""
    return lambda notebook: code(notebook)[0].outputs.append(
        new_output("stream", name=name, text=text)
    )


def taught(**changes):
    """A change of the taught cell's fields."""
    return lambda notebook: code(notebook)[1].update(nbformat.from_dict(changes))


def swap(notebook):
    cells = notebook.cells
    cells[-1].source, cells[-2].source = cells[-2].source, cells[-1].source


ERROR = new_output("error", ename="E", evalue="", traceback=[])
IGNORED = {"tags": ["nbval-ignore-output"]}
BREAKS = [
    (parity, edit(5, "2", "3"), "halve differs"),
    (parity, edit(5, "(x):", "(x=1):"), "halve differs"),
    (parity, edit(5, "def", "@tf.function\ndef"), "halve differs"),
    (parity, edit(5, "halve", "half"), "half is taught and not in"),
    (parity, edit(5, "def", "_x = 1\ndef"), "_x is taught and not in"),
    (parity, edit(5, "def", "for pair in ():\n    pass\ndef"), "pair differs"),
    (parity, teach("pair = (2, 1)"), "pair differs"),
    (parity, teach("print(1)"), "teaches nothing"),
    (parity, teach("REAL = 1"), "REAL is plumbing"),
    (parity, teach(ROOMS["figures"]), "tile is plumbing"),
    (no_second_definition, taught(metadata={}), "halve is a name of the package"),
    (no_second_definition, add("pair = 1"), "pair is a name"),
    (no_second_definition, add("a, (pair, *b) = 1, (2, 3)"), "pair is a name"),
    (no_second_definition, add("pair: int = 1"), "pair is a name"),
    (no_second_definition, add("if True:\n    class pair:\n        pass"), "pair is a name"),
    (no_second_definition, add("with open('x') as pair:\n    pass"), "pair is a name"),
    (no_second_definition, add("print([(pair := x) for x in ()])"), "pair is a name"),
    (no_second_definition, add("from numpy import tile"), "tile is a name"),
    (no_second_definition, teach(f"{HALVE}\n\n\n{HALVE}"), "halve is taught twice"),
    (imports, add("from ganutils.losses import *"), "ganutils.losses.*"),
    (imports, add("from ganutils import _atomic"), "ganutils._atomic"),
    (imports, add("from ganutils.figures import _as_curve"), "ganutils.figures._as_curve"),
    (imports, add("import ganutils._mnist as m"), "ganutils._mnist"),
    (skeleton, edit(0, "# 7.", "# 8."), "'# 7. Title'"),
    (skeleton, edit(0, "| You need | nothing |\n", ""), "header table"),
    (skeleton, edit(7, "## Look", "# Look\n\n## Look"), "one title"),
    (skeleton, edit(7, "## Look", "### Look"), "sections are missing"),
    (skeleton, edit(9, "Words.", "## Look"), "sections are missing"),
    (skeleton, swap, "out of order"),
    (skeleton, edit(3, FIRST_LINE, f"import os\n{FIRST_LINE}"), "import of runtime"),
    (skeleton, edit(3, "keras.utils.set_random_seed(SEED)", ""), "no seed"),
    (sizes, teach("\n".join(["x = 1"] * 26)), "26 lines"),
    (sizes, lambda n: n.cells.extend([new_code_cell("1")] * 8), "11 code cells, 10"),
    (outputs, taught(execution_count=None), "[1, None, 3]"),
    (outputs, taught(execution_count=4), "[1, 4, 3]"),
    (outputs, taught(outputs=[ERROR]), "error: E"),
    (outputs, say("stderr", "Careful"), "stderr: 'Careful'"),
    (draws, lambda n: code(n)[-1].update(outputs=[]), "no PNG"),
    (outputs, put("application/vnd.jupyter.widget-view+json", {}), "a widget"),
    (outputs, lambda n: n.metadata.update(widgets={}), "a widget"),
    (descriptions, add("plt.show()"), "plt.show() describes nothing"),
    (descriptions, put("image/png", "iVBO"), "described by ''"),
    (descriptions, lambda n: code(n)[-1].outputs[0].update(metadata={}), "described by ''"),
    (descriptions, put("text/html", "<img src='x' alt='three\nlittle words'>"), "little words'"),
    (assets, add("f('assets/07_result.png')"), "'assets/07_result.png'"),
    (assets, add("f('./assets')"), "'./assets'"),
    (known_tags, taught(metadata={"tags": ["nbval-skip"]}), "unknown tag nbval-skip"),
    (known_tags, lambda n: [c.update(metadata=IGNORED) for c in code(n)], "more than two"),
    (known_tags, lambda n: n.cells[0].update(metadata=IGNORED), "on prose"),
    (pictures, edit(1, "07_result", "08_result"), "not a file"),
    (pictures, edit(1, "Two words and\nmore of them", ""), "described by ''"),
    (pictures, edit(1, "Words.", "<img\nsrc='assets/07_result.png'>"), "described by ''"),
    (pictures, edit(1, PICTURE, ""), "no picture"),
    (no_stray_words, add("x = '/tmp/x'"), "/tmp/"),
    (no_stray_words, say("stdout", "/home/me/x"), "/home/"),
    (no_stray_words, put("text/plain", "'/root/x'"), "/root/"),
    (no_stray_words, edit(0, "| none |\n", "| MINUTES |\n"), "MINUTES"),
    (slides, taught(metadata={}), "slide type None"),
    (slides, lambda n: n.cells.insert(0, n.cells[1]), "does not start"),
    (slides, lambda n: n.cells.extend([n.cells[0]] * 50), "51 pages"),
    (form, lambda n: n.metadata.kernelspec.update(name="venv"), "not python3"),
    (form, lambda n: n.cells[1].update(id="c0"), "cell ids"),
    (form, lambda n: n.cells[1].update(outputs=[]), "outputs"),
]


@pytest.mark.parametrize("rule, change, expected", BREAKS)
def test_each_rule_can_be_broken(made_up, rule, change, expected):
    notebook, path = made_up
    change(notebook)
    problems = rule(notebook, path)
    assert any(expected in problem for problem in problems), problems


def test_every_rule_is_broken_above():
    assert {rule for rule, *_ in BREAKS} == set(RULES)


def test_names_without_a_birthplace_and_with_two_are_found(made_up):
    assert birthplaces({"01": ["pair"], "02": ["halve"]}) == ([], [])
    assert birthplaces({"01": ["pair"], "02": ["pair"]}) == (["halve"], ["pair"])


def exercise(number):
    grade, check = ("build", ["check"]) if number == 1 else ("think", [])
    text = f"### 7.{number} Title ({grade}, 5 minutes)\n\nWords.\n\n{HINT}\n\nWords.\n\n</details>"
    calls = "exercises.report(c, a)\nexercises.try_check(c)" if check else "1"
    return [
        new_markdown_cell(text, metadata={"tags": ["exercise"]}),
        *(new_code_cell("1", metadata={"tags": [tag]}) for tag in ["stub", "solution", *check]),
        new_code_cell(calls),
    ]


@pytest.fixture
def made_up_solutions(made_up, tmp_path):
    """Four exercises, the first one to build, in a lesson and in its solutions."""
    lesson, path = made_up
    cells = [cell for number in (1, 2, 3, 4) for cell in exercise(number)]
    lesson.cells += [copy.deepcopy(cell) for cell in cells if "exercise" in tags(cell)]
    nbformat.write(lesson, path)
    return new_notebook(cells=cells), tmp_path / "solutions" / "07_made_up_solutions.ipynb"


def test_solutions_that_keep_the_rule_are_left_alone(made_up_solutions):
    assert worked(*made_up_solutions) == []


@pytest.mark.parametrize(
    "change, expected",
    [
        (edit(0, "Title", "Other title"), "not the lesson's"),
        (lambda n: n.update(cells=n.cells[:-4]), "3 exercises"),
        (edit(0, "7.1", "7.2"), "7.1 has no number"),
        (edit(0, "5 minutes", "long"), "7.1 has no number, grade"),
        (edit(5, "Hint", "Answer"), "7.2 has no number, grade, minutes or hint"),
        (lambda n: n.cells.pop(1), "7.1 has no stub"),
        (lambda n: n.cells.pop(7), "7.2 has no solution"),
        (lambda n: n.cells.pop(3), "7.1 has no check"),
        (edit(4, "report", "print"), "7.1 has no exercises.report("),
        (edit(4, "try_check", "print"), "7.1 has no exercises.try_check("),
        (edit(4, "try_check(c)", "try_check(other)"), "c is never tried"),
        (edit(8, "1", "exercises.report(d, 1)"), "d is never tried"),
    ],
)
def test_the_rule_of_solutions_can_be_broken(made_up_solutions, change, expected):
    notebook, path = made_up_solutions
    change(notebook)
    problems = worked(notebook, path)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    "change, expected",
    [
        (None, None),
        (edit(0, "## The cause", "## Why"), "sections"),
        (edit(0, "Hint 3", "Hint 4"), "is folded"),
        (edit(0, "<details><summary>Cause</summary>", ""), "is folded"),
        (edit(1, "assert 3", "3"), "2 assertions"),
    ],
)
def test_the_rule_of_bug_hunts_can_be_broken(change, expected):
    folds = [f"<details><summary>{words}</summary>" for words in ("Hint 1", "Hint 2", "Hint 3")]
    text = "\n\n".join([*folds, *(f"## {name}" for name in HUNT)])
    text += "\n\n<details><summary>Cause</summary>"
    cells = [new_markdown_cell(text), new_code_cell("assert 1\nassert 2\nassert 3")]
    notebook = new_notebook(cells=cells)
    if change:
        change(notebook)
    problems = hunted(notebook, None)
    assert problems == [] if expected is None else expected in " ".join(problems)
