"""Exercises: what a check says of an answer, how a check is tried, and the student's copy.

    python -m ganutils.exercises 2 my_work

writes my_work/02_mlp_gan_exercises.ipynb: the exercises of notebook 2 and their checks, without
the solutions in notebooks/solutions.

A check is a function of an answer. It asserts what holds for right ones, with a message for the
student; `answer` is whatever an exercise asks for, mostly a function.

The five quick questions of a lesson are read from the lesson itself, asked, and marked.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

from ganutils import runtime


def verdict(check, answer):
    """What a check finds wrong with an answer, in words; None where it accepts it."""
    try:
        check(answer)
    except NotImplementedError:
        return "nothing is written here yet"
    except Exception as error:  # a student's line may raise anything
        kind, (said, *_) = type(error).__name__, str(error).splitlines() or ["without words"]
        return said if kind == "AssertionError" else f"it raises {kind}: {said[:200]}"
    return None


def report(check, answer):
    """Print what a check says of an answer: "Right.", or what is wrong."""
    wrong = verdict(check, answer)
    print("Right." if wrong is None else f"Not yet: {wrong}")


def try_check(check, *, right, wrong):
    """Try a check on planted answers; print what it says to the wrong ones.

    Args:
        check: function of an answer.
        right: list of answers, at least two, that are not written alike.
        wrong: dict from the mistake in words to an answer, at least three.

    AssertionError where it refuses a right answer or accepts a wrong one.
    """
    assert len(right) >= 2 and len(wrong) >= 3, f"{check.__name__} is tried on too little"
    for number, answer in enumerate(right):
        said = verdict(check, answer)
        assert said is None, f"{check.__name__} refuses right answer {number}: {said}"
    for mistake, answer in wrong.items():
        said = verdict(check, answer)
        assert said is not None, f"{check.__name__} accepts a wrong answer: {mistake}"
        print(f"{mistake}: {said}")
    print(f"{len(right)} right answers accepted, {len(wrong)} wrong ones refused")


def student_copy(number, folder):
    """Write the exercises of a notebook without solutions and outputs.

    Args:
        number: of the notebook.
        folder: where to; made where it is missing.

    Returns:
        The new file's path. FileNotFoundError without solutions of that number; FileExistsError
        where the file is there already, since it may hold a student's work.
    """
    from nbconvert import NotebookExporter
    from traitlets.config import Config

    solutions = runtime.results_folder().parents[1] / "solutions"
    found = sorted(solutions.glob(f"{number:02d}_*_solutions.ipynb"))
    if not found:
        known = ", ".join(str(int(path.name[:2])) for path in sorted(solutions.glob("*.ipynb")))
        raise FileNotFoundError(f"No exercises of notebook {number}; there are those of {known}.")
    path = Path(folder) / found[0].name.replace("_solutions", "_exercises")
    removed = {"enabled": True, "remove_cell_tags": ["solution"]}
    config = Config(TagRemovePreprocessor=removed, ClearOutputPreprocessor={"enabled": True})
    text, _ = NotebookExporter(config=config).from_filename(found[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(f"{path} is there already; name another folder.") from error
    return path


class Question(NamedTuple):
    """A quick question: its text with the choices, the right letter, and what is said of each."""

    text: str
    right: str
    reason: str
    feedback: dict  # from a wrong letter to what it mistakes


def questions(number):
    """The five quick questions of a lesson, as a list of `Question`, read from the lesson.

    ValueError where the lesson has none. That all are written alike is a rule of the tests.
    """
    import nbformat

    found = sorted(runtime.results_folder().parents[1].glob(f"{number:02d}_*.ipynb"))
    cells = [cell.source for path in found for cell in nbformat.read(path, as_version=4).cells]
    sections = [source for source in cells if source.startswith("## Five quick questions\n")]
    if len(sections) != 1:
        raise ValueError(f"Notebook {number} has no section of five quick questions.")
    asked, _, answered = sections[0].removesuffix("</details>").partition("<details>")
    _, *texts = re.split(r"^\*\*\d\.\*\*", asked, flags=re.M)
    _, *answers = re.split(r"^\*\*\d \((\w)\)\.\*\*", answered, flags=re.M)
    read = []
    for text, right, said in zip(texts, answers[::2], answers[1::2], strict=True):
        reason, *rest = [" ".join(part.split()) for part in re.split(r"(?m)^- \((\w)\)", said)]
        feedback = dict(zip(rest[::2], rest[1::2], strict=True))
        read.append(Question(text.strip(), right, reason, feedback))
    return read


def ask(number):
    """Show the quick questions of a lesson, with their choices and without their answers."""
    from IPython.display import Markdown, display

    texts = [f"**{i}.** {question.text}" for i, question in enumerate(questions(number), start=1)]
    display(Markdown("\n\n".join(texts)))


def mark_answers(number, answers):
    """Print what is right among the answers to a lesson's quick questions, and what is mistaken.

    Args:
        number: of the lesson.
        answers: string of five letters such as "cbaab"; a space or "-" for no answer.

    ValueError for another number of letters, and for a letter that is no choice. The right letter
    is not told: the lesson has it, folded.
    """
    asked = questions(number)
    if len(answers) != len(asked):
        raise ValueError(
            f"There are {len(asked)} questions, and {answers!r} answers {len(answers)}."
        )
    said = []
    for i, (question, letter) in enumerate(zip(asked, answers.lower(), strict=True), start=1):
        words = {question.right: "right.", " ": "not answered.", "-": "not answered."}
        words |= {wrong: f"({wrong}) {mistake}" for wrong, mistake in question.feedback.items()}
        if letter not in words:
            raise ValueError(f"Question {i} has no choice {letter!r}.")
        said.append(words[letter])
    for i, words in enumerate(said, start=1):
        print(f"{i}: {words}")
    print(f"{said.count('right.')} of {len(said)}")


def main(arguments=None):
    """Write a student's copy from the command line; returns the exit code, 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m ganutils.exercises")
    parser.add_argument("number", type=int, help="of the notebook, such as 2")
    parser.add_argument("folder", nargs="?", default=".", help="where to; default: here")
    options = parser.parse_args(arguments)
    try:
        print(f"written: {student_copy(options.number, options.folder)}")
    except (FileNotFoundError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
