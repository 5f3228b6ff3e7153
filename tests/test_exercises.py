"""Checks speak, are tried on planted answers, and a student's copy holds no solution.

The quick questions of every lesson can be read and marked.
"""

import re
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


# The quick questions.


@pytest.mark.parametrize("number", NUMBERS)
def test_the_quick_questions_of_a_lesson_are_marked(number, capsys):
    asked = exercises.questions(number)
    right = "".join(question.right for question in asked)
    assert len(right) == 5 and len(set(right)) >= 2, right
    (path,) = SOLUTIONS[0].parents[1].glob(f"{number:02d}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    (section,) = [source for source in cells if source.startswith("## Five quick questions")]
    for pattern in (r"^\*\*(\d)\.\*\*", r"^\*\*(\d) \(\w\)\.\*\*"):
        assert re.findall(pattern, section, re.M) == list("12345")
    exercises.mark_answers(number, right)
    said = [*(f"{i}: right." for i in range(1, 6)), "5 of 5"]
    assert capsys.readouterr().out.splitlines() == said
    for i, question in enumerate(asked):
        choices = re.findall(r"^- \((.)\) \S", question.text, re.M)
        assert choices == sorted([question.right, *question.feedback])
        assert choices == list("abcd")[: len(choices)]
        for letter, mistake in question.feedback.items():
            assert len(mistake.split()) > 3, f"{number}, question {i + 1}: {mistake!r}"
            exercises.mark_answers(number, f"{' ' * i}{letter.upper()}{'-' * (4 - i)}")
            lines = capsys.readouterr().out.splitlines()
            assert lines.pop(i) == f"{i + 1}: ({letter}) {mistake}"
            assert [line[3:] for line in lines[:4]] == ["not answered."] * 4
            assert lines[4:] == ["0 of 5"]


SECTION = "## Five quick questions\n\n" + "".join(
    f"**{i}.** Is it\n{i}?\n\n- (a) No,\n  never.\n- (b) Yes.\n\n" for i in range(1, 6)
)
SECTION += "<details><summary>Answers</summary>\n\n" + "".join(
    f"**{i} (b).** Because.\n\n- (a) takes {i} for\n  none.\n\n" for i in range(1, 6)
)
SECTION += "</details>"


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """Function that writes a section into notebook 7 of a course of its own."""
    monkeypatch.setattr(runtime, "results_folder", lambda: tmp_path / "assets" / "results")

    def write(section):
        cells = [nbformat.v4.new_markdown_cell(section)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "07_made_up.ipynb")

    return write


def test_quick_questions_are_read_and_asked_without_their_answers(lesson, monkeypatch):
    lesson(SECTION)
    text = "Is it\n3?\n\n- (a) No,\n  never.\n- (b) Yes."
    assert exercises.questions(7)[2] == (text, "b", "Because.", {"a": "takes 3 for none."})
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    exercises.ask(7)
    assert f"**3.** {text}\n\n**4.**" in shown[0].data and "Because" not in shown[0].data


@pytest.mark.parametrize("answers, said", [("abab", "5 questions"), ("aaaca", "4 has no choice")])
def test_answers_that_cannot_be_marked_are_refused(lesson, answers, said, capsys):
    lesson(SECTION)
    with pytest.raises(ValueError, match=said):
        exercises.mark_answers(7, answers)
    with pytest.raises(ValueError, match="Notebook 8 has no section"):
        exercises.mark_answers(8, "aaaaa")
    assert capsys.readouterr().out == ""


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
