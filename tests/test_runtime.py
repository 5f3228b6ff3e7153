"""Profiles, and a start-up that is quiet where all is well and loud where it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganutils import runtime

REPOSITORY = Path(__file__).parents[1]


def test_budget_chooses_by_profile(monkeypatch):
    full, smoke = object(), object()
    monkeypatch.setenv("GANUTILS_PROFILE", "smoke")
    assert runtime.budget(full, smoke) is smoke
    assert runtime.budget(full=full, smoke=smoke) is smoke
    monkeypatch.setenv("GANUTILS_PROFILE", "full")
    assert runtime.budget(full, smoke) is full
    monkeypatch.delenv("GANUTILS_PROFILE")
    assert runtime.budget(full, smoke) is full


@pytest.mark.parametrize("profile", ["Smoke", "fast", ""])
def test_an_unknown_profile_is_refused(monkeypatch, profile):
    monkeypatch.setenv("GANUTILS_PROFILE", profile)
    with pytest.raises(ValueError, match=f'{profile!r}.*"full" or "smoke"'):
        runtime.budget(1, 2)


def fresh_python(code, **environment):
    """Run code in a new interpreter that knows nothing of the settings of this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_tensorflow_and_computing_with_it_writes_nothing_and_loses_nothing():
    code = """
import os, sys
os.write(2, b"before\\n")
from ganutils import runtime
assert "tensorflow" in sys.modules
import tensorflow as tf
print(float(tf.reduce_sum(tf.ones((2, 3)) @ tf.ones((3, 2)))))
os.write(2, b"after\\n")
print("from Python", file=sys.stderr)
"""
    done = fresh_python(code)
    # What is written before and after still arrives, so the silence between them is TensorFlow's.
    assert (done.stdout, done.stderr) == ("12.0\n", "before\nafter\nfrom Python\n")
    assert done.returncode == 0


def test_what_a_failing_import_wrote_is_printed(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\nos.write(2, b'the library libexample.so is missing\\n')\n"
        "raise ImportError('no TensorFlow today')\n"
    )
    done = fresh_python("from ganutils import runtime", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    told, _, traceback = done.stderr.partition("Traceback")
    assert told == "the library libexample.so is missing\n"
    assert traceback.endswith("ImportError: no TensorFlow today\n")


def test_what_a_succeeding_import_wrote_is_held_back(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\nfrom types import SimpleNamespace\nos.write(2, b'oneDNN is on\\n')\n"
        "def probe():\n    os.write(2, b'no GPU\\n')\n"
        "config = SimpleNamespace(list_logical_devices=probe)\n"
    )
    code = "from ganutils import runtime; print(runtime.budget(1, 2))"
    done = fresh_python(code, PYTHONPATH=str(tmp_path), GANUTILS_PROFILE="full")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_tensorflow_that_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "tensorflow.py").write_text("")  # it has no devices to probe
    code = """
import os, tensorflow
from ganutils import runtime
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""
    done = fresh_python(code, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
