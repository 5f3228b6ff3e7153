"""Checks speak, are tried on planted answers, and a student's copy holds no solution."""

import subprocess
import sys

import nbformat
import pytest

from ganutils import exercises, runtime

SOLUTIONS = sorted((runtime.results_folder().parents[1] / "solutions").glob("*.ipynb"))
NUMBERS = [int(path.name[:2]) for path in SOLUTIONS]


def double(answer):
    """A check: an answer doubles its argument."""
    assert answer(3) != 9, "that is the square"
    assert answer(3) == 6, f"twice 3 is 6, yours is {answer(3)}"


def unwritten(x):
    raise NotImplementedError("your lines")


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda x: 2 * x, None),
        (lambda x: x + x, None),
        (lambda x: x**2, "that is the square"),
        (lambda x: x + 2, "twice 3 is 6, yours is 5"),
        (lambda: 6, "it raises TypeError"),
        (unwritten, "nothing is written here yet"),
    ],
)
def test_a_verdict_names_what_is_wrong(answer, said, capsys):
    verdict = exercises.verdict(double, answer)
    assert verdict is None if said is None else said in verdict
    exercises.report(double, answer)
    printed = capsys.readouterr().out
    assert printed == ("Right.\n" if said is None else f"Not yet: {verdict}\n")


def test_a_check_is_tried(capsys):
    right = [lambda x: 2 * x, lambda x: x + x]
    wrong = {"squared": lambda x: x**2, "no factor": lambda x: x, "empty": unwritten}
    exercises.try_check(double, right=right, wrong=wrong)
    said = ["squared: that is the square", "no factor: twice 3 is 6, yours is 3"]
    said += ["empty: nothing is written here yet", "2 right answers accepted, 3 wrong ones refused"]
    assert capsys.readouterr().out.splitlines() == said
    with pytest.raises(AssertionError, match="double refuses right answer 2"):
        exercises.try_check(double, right=[*right, wrong["squared"]], wrong=wrong)
    with pytest.raises(AssertionError, match="double accepts a wrong answer: doubled"):
        exercises.try_check(double, right=right, wrong=wrong | {"doubled": right[0]})
    for few in ({"right": right[:1], "wrong": wrong}, {"right": right, "wrong": {}}):
        with pytest.raises(AssertionError, match="tried on too little"):
            exercises.try_check(double, **few)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_students_copy_has_no_solution_and_no_output(number, tmp_path):
    path = exercises.student_copy(number, tmp_path / "new" / "folder")
    assert path.name.startswith(f"{number:02d}_") and path.name.endswith("_exercises.ipynb")
    whole = nbformat.read(SOLUTIONS[NUMBERS.index(number)], as_version=4)
    copy = nbformat.read(path, as_version=4)
    nbformat.validate(copy)
    kept = [cell for cell in whole.cells if "solution" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in copy.cells] == [cell.source for cell in kept]
    assert 0 < len(kept) < len(whole.cells)
    assert not any(cell.get("outputs") for cell in copy.cells)


def test_a_students_work_is_never_overwritten(tmp_path, capsys):
    number = str(NUMBERS[0])
    assert exercises.main([number, str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    path.write_text("my work")
    assert exercises.main([number, str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "my work"


def test_a_number_without_exercises_is_named(tmp_path, capsys):
    assert exercises.main(["99", str(tmp_path)]) == 1
    assert f"No exercises of notebook 99; there are those of {NUMBERS[0]}" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_the_students_copy_runs_and_no_check_is_content(number, tmp_path):
    path = exercises.student_copy(number, tmp_path)
    convert = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    subprocess.run([*convert, "--inplace", str(path)], check=True, capture_output=True)
    cells = nbformat.read(path, as_version=4).cells
    printed = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in cells
        if cell.cell_type == "code" and "exercises.report(" in cell.source
    ]
    assert printed and all(said.startswith("Not yet: ") for said in printed), printed
