"""Notebooks under test run in the smoke profile, never download, and may write to stderr."""

import os
import signal
import tempfile

import pytest

os.environ.setdefault("GANUTILS_PROFILE", "smoke")
os.environ.setdefault("GANUTILS_OFFLINE", "1")
# Two ways to compute the same are compared to more digits than GPUs keep in TF32.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def pytest_configure(config):
    # Trained classifiers of the tests stay in the checkout, out of the user's cache; where it is
    # read-only, in a temporary folder.
    try:
        folder = config.cache.mkdir("classifiers")
    except (AttributeError, OSError):
        folder = tempfile.mkdtemp(prefix="ganutils-")
    os.environ.setdefault("GANUTILS_CACHE", str(folder))
    # Tests press Ctrl-C, which a process started in the background may have been told to ignore.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collectstart(collector):
    # Which data set was found is told on stderr; it depends on the machine, the outputs must not.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        heavy = item.path.name == "symptoms.ipynb"
        if heavy or item.path.parent.name in ("solutions", "bug_hunts"):
            item.add_marker(pytest.mark.slow)
