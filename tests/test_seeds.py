"""Rows per variant and seed: made once, kept, made anew where something changed, gathered."""

import json

import numpy as np
import pytest
import seeds


@pytest.fixture
def measurement(tmp_path):
    """A measure function that notes its calls, and a function that runs the script."""
    calls = []

    def measure(variant, *, seed, steps, source):
        calls.append((variant, seed))
        drawn = np.random.rand(2, 4, 4, 1) * 2 - 1  # from the global seed
        return {"score": 10 * seed + len(variant)}, {"first": seeds.as_bytes(drawn)}

    def run(*more):
        arguments = [f"--out={tmp_path / 'x.json'}", f"--work={tmp_path / 'w'}", *more]
        return seeds.main(measure, ["a", "bb"], script="x.py", doc="", steps=7, arguments=arguments)

    return run, calls, tmp_path


def test_rows_are_made_once_and_gathered(measurement):
    run, calls, folder = measurement
    run("--seeds=1")
    assert calls == [("a", 1), ("bb", 1)]
    result = run("--seeds=0,1")
    assert calls[2:] == [("a", 0), ("bb", 0)]
    assert [(r["variant"], r["seed"], r["score"]) for r in result["rows"]] == [
        ("a", 0, 1),
        ("bb", 0, 2),
        ("a", 1, 11),
        ("bb", 1, 12),
    ]
    assert result == json.loads((folder / "x.json").read_text())
    assert result["steps"] == 7 and result["data"] == "mnist" and result["machine"]
    with np.load(folder / "x.npz") as pictures:
        assert sorted(pictures) == ["a-0-first", "a-1-first", "bb-0-first", "bb-1-first"]
        np.testing.assert_array_equal(pictures["a-0-first"], pictures["bb-0-first"])
        assert (pictures["a-0-first"] != pictures["a-1-first"]).any()


@pytest.mark.parametrize("change", ["--steps=8", "--data=digits", "code", "damage"])
def test_rows_of_something_else_are_made_anew(measurement, monkeypatch, change):
    run, calls, folder = measurement
    run("--seeds=0", "--variants", "a")
    if change == "code":
        monkeypatch.setattr(seeds, "loaded_code", lambda: "another")
    if change == "damage":
        (folder / "w" / "a-0.json").write_text('{"settings": ')
    run("--seeds=0", "--variants", "a", *([change] if change[:2] == "--" else []))
    assert calls == [("a", 0), ("a", 0)]


def test_rows_of_another_machine_are_refused(measurement, monkeypatch):
    run, _, folder = measurement
    run("--seeds=0", "--variants", "a")
    monkeypatch.setattr(seeds.time_to_quality, "about", lambda: {"machine": "another"})
    with pytest.raises(ValueError, match="different machines"):
        run("--seeds=0")


@pytest.mark.parametrize("wrong", ["--seeds=0,0", "--seeds=-1", "--variants=c", "--out=x.txt"])
def test_wrong_arguments_are_refused(measurement, wrong, capsys):
    run, calls, _ = measurement
    with pytest.raises(SystemExit):
        run(wrong)
    assert wrong[2:5] in capsys.readouterr().err and calls == []


def test_bytes_are_those_of_the_range():
    values = np.array([-1.5, -1, 0, 1, 2], np.float32)
    np.testing.assert_array_equal(
        seeds.as_bytes(values.reshape(1, 1, 5, 1)).ravel(), [0, 0, 128, 255, 255]
    )
