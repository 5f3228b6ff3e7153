"""Killed, restarted, compared: a short run of the benchmark, and whether it would see a loss."""

import os
import shutil
import signal
from pathlib import Path

import kill_resume
import numpy as np
import pytest
import tensorflow as tf


@pytest.mark.slow
def test_killed_runs_end_as_the_run_that_was_never_killed():
    row = kill_resume.torture("tiny", kills=4, seed=0, steps=12)
    assert row["kills"] == row["restarts"] == 4 and row["runs"] >= 1
    assert 0 <= row["saves_hit"] <= 4
    assert kill_resume.bad([row]) == []
    assert row["compared"].startswith(
        "8 averaged weights, 1 dropout seeds, 2 batch-norm statistics, 24 optimizer slots, "
        "6 history, 1 step, "
    )


def new_manager(folder, values=(1.0, 2.0)):
    checkpoint = tf.train.Checkpoint(v=tf.Variable(values))
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=kill_resume.KEEP)


def sloppy(folder, end, trial, seed):
    """A child that loses everything: it damages its save, is killed, and begins anew."""
    with (end.parent / "starts.txt").open("a") as file:
        file.write("0\n")
    manager = new_manager(folder)
    if not manager.latest_checkpoint:
        manager.save(checkpoint_number=3)
        os.truncate(f"{manager.latest_checkpoint}.index", 9)
        Path(folder, "ckpt-4_temp").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    np.savez(end, step=3)


def failing(folder, end, trial, seed):
    raise ArithmeticError("by itself")


@pytest.mark.slow
def test_a_child_that_loses_everything_or_fails_is_found_out(tmp_path):
    found = kill_resume.run_to_the_end(tmp_path, None, seed=0, kills=0, chance=None, work=sloppy)
    assert found.pop("unreadable")[0].startswith(str(tmp_path / "saves" / "ckpt-3"))
    assert found.pop("left_over") == ["ckpt-4_temp"]
    assert found == {"kills": 1, "saves_hit": 1, "restarts": 1, "astray": ["3 -> 0"]}
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RuntimeError, match="ArithmeticError: by itself"):
        kill_resume.run_to_the_end(other, None, seed=0, kills=0, chance=None, work=failing)


def test_what_a_save_leaves_behind_and_what_cannot_be_read_is_seen(tmp_path):
    manager = new_manager(tmp_path)
    for step in range(1, 6):
        manager.save(checkpoint_number=step)
    assert [kill_resume.number(path) for path in kill_resume.listed(tmp_path)] == [3, 4, 5]
    for suffix in (".index", ".data-00000-of-00001"):  # the last act of a save was missing
        assert kill_resume.unreadable(tmp_path) == []
        shutil.copy(tmp_path / f"ckpt-5{suffix}", tmp_path / f"ckpt-6{suffix}")
    (tmp_path / "ckpt-7_temp").mkdir()
    left = {"ckpt-6.index", "ckpt-6.data-00000-of-00001", "ckpt-7_temp"}
    assert {name for name, _ in kill_resume.loose(tmp_path)} == left

    cut, flipped, gone = (tmp_path / f"ckpt-{n}.data-00000-of-00001" for n in (3, 4, 5))
    os.truncate(cut, cut.stat().st_size - 1)
    content = bytearray(flipped.read_bytes())
    content[3] ^= 1
    flipped.write_bytes(content)
    gone.unlink()
    lines = kill_resume.unreadable(tmp_path)
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / f"ckpt-{n}") for n in (3, 4, 5)
    ]


def test_differences_are_those_of_bits(tmp_path):
    first = {
        "step": np.int64(3),
        "generator/0/kernel": np.float32([1, 0, np.nan]),
        "average/0/kernel": np.float32([1, 2]),
        "history/d_loss": np.float64([0.1, 0.2]),
    }
    second = first | {
        "generator/0/kernel": np.float32([1, -0.0, np.nan]),
        "average/0/kernel": np.float64([1, 2]),
    }
    del second["history/d_loss"]
    for name, arrays in (("first", first), ("again", first), ("second", second)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    paths = [tmp_path / f"{name}.npz" for name in ("first", "again", "second")]
    assert kill_resume.differences(*paths[:2]) == []
    assert kill_resume.differences(*paths[1:]) == sorted(set(first) - {"step"})
    assert kill_resume.contents(paths[0]) == "1 averaged weights, 1 history, 1 step, 1 weights"


@pytest.mark.parametrize("key", [None, "astray", "differences", "unreadable"])
def test_the_exit_code_is_1_where_anything_was_lost(key, monkeypatch, capsys):
    row = {"title": "made up", "compared": "1 step", "seconds": 1.5, "kills": 2, "saves_hit": 1}
    row |= {"restarts": 2, "runs": 1, "left_over": ["checkpoint.tmp1"]}
    row |= {"astray": [], "differences": [], "unreadable": []}
    if key:
        row[key] = ["this one"]
    monkeypatch.setattr(kill_resume, "torture", lambda name, **_: {"system": name} | row)
    assert kill_resume.main(["--kills", "5"]) == bool(key)
    assert capsys.readouterr().out.count("this one") == 2 * bool(key)
