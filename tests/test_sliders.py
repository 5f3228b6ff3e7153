"""A slider moves the picture: through the kernel, and in a JupyterLab that a browser shows."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import browser
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook

THEORY = Path(__file__).parents[1] / "notebooks" / "01_theory.ipynb"
IMPORTS = """import math
import matplotlib.pyplot as plt
import numpy as np
from ganutils import figures"""
FIGURE = 'figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")\nnear ='
# What the slider cell of notebook 1 needs of the cells above it, by how they begin.
NEEDED = ("def gaussian(", "x = np.linspace(", "p, q = gaussian(", "def jensen_shannon(")
NEEDED += ("shifts = ", FIGURE, "def draw_densities(", "def draw_pair(", "figures.sliders(")
VIEW = "application/vnd.jupyter.widget-view+json"


def slider_cells():
    """Code of notebook 1, from its densities to its sliders."""
    cells = [c for c in nbformat.read(THEORY, as_version=4).cells if c.cell_type == "code"]
    found = [cell.source for cell in cells if cell.source.startswith(NEEDED)]
    assert len(found) == len(NEEDED)
    return ["%matplotlib inline\n" + IMPORTS, *found]


@pytest.fixture(scope="module")
def kernel():
    """A function (code) -> the messages of a kernel that keeps a history, as a person's does."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"env": os.environ | {"IPYTHONDIR": folder}}
        manager, client = start_new_kernel(kernel_name="python3", **options)
        try:

            def run(code):
                messages = []
                reply = client.execute_interactive(code, output_hook=messages.append, timeout=120)
                assert reply["content"]["status"] == "ok", reply["content"]
                return messages

            yield run
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def contents(messages, kind):
    return [message["content"] for message in messages if message["msg_type"] == kind]


def states(messages):
    """What widgets are told to show."""
    told = [content["data"] for content in contents(messages, "comm_msg")]
    return [data["state"] for data in told if data.get("method") == "update"]


def test_a_slider_moves_the_picture_of_notebook_1_through_the_kernel(kernel):
    *before, last = slider_cells()
    for code in before:
        kernel(code)
    messages = kernel(last)
    (shown,) = contents(messages, "display_data")
    assert set(shown["data"]) == {"image/png", "text/plain", VIEW}
    assert shown["data"]["text/plain"] == "<Figure size 900x300 with 2 Axes>"
    made = [content["data"]["state"] for content in contents(messages, "comm_open")]
    labels = [state["description"] for state in made if state.get("readout")]
    assert labels == ["mean", "deviation"]
    (picture,) = [state["value"] for state in made if state["_model_name"] == "HTMLModel"]
    alt = shown["metadata"]["image/png"]["alt"]
    assert f'alt="{alt}"' in picture and shown["data"]["image/png"].strip() in picture

    kernel("from ipywidgets import FloatSlider\nimport gc")
    find = "[w for w in gc.get_objects() if isinstance(w, FloatSlider) and w.description == {!r}]"
    pictures = [picture]
    for label, value in (("mean", 0.0), ("deviation", 1.0)):
        moved = states(kernel(f"({find.format(label)})[0].value = {value}"))
        assert {"value": value} in moved
        pictures += [state["value"] for state in moved if "<img" in str(state.get("value"))]
    assert len(set(pictures)) == 3
    assert pictures[-1].endswith('Jensen-Shannon divergence 0.000; V(D*) = -1.386.">')


# In JupyterLab.


def read_addresses(folder):
    """Addresses of the servers that have written theirs, whole, into a folder."""
    texts = [path.read_text() for path in folder.glob("jpserver-*.json")]
    return [json.loads(text)["url"] for text in texts if text.rstrip().endswith("}")]


@contextlib.contextmanager
def jupyterlab(folder):
    """Start a JupyterLab for a folder, on a free port of this machine; gives address and token."""
    private = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    private |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
    private |= {"JUPYTERLAB_SETTINGS_DIR": str(folder), "JUPYTERLAB_WORKSPACES_DIR": str(folder)}
    token = os.urandom(16).hex()
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--log-level=ERROR"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    options += ["--LabApp.expose_app_in_browser=True"]
    never = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
    options += [f"--LabApp.check_for_updates_class={never}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=os.environ | private,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while not (found := read_addresses(folder / "RUNTIME")):
            assert server.poll() is None and time.monotonic() < end, "JupyterLab did not start"
            time.sleep(0.1)
        yield found[0], token
    finally:
        server.terminate()  # with its kernels
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine")
def test_a_key_moves_the_picture_in_jupyterlab(tmp_path):
    cells = [new_code_cell(source) for source in slider_cells()]
    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "small.ipynb")
    with jupyterlab(tmp_path) as (url, token), browser.open_browser() as page:
        page.resize(1200)
        page.visit(f"{url}doc/tree/small.ipynb?token={token}")
        page.wait("window.jupyterapp !== undefined")
        page.wait(f"document.querySelectorAll('.jp-CodeCell').length === {len(cells)}")
        session = "jupyterapp.shell.currentWidget?.sessionContext.session"  # null at first
        page.wait(f"{session}?.kernel?.status === 'idle'")
        page.ask("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
        page.wait("document.querySelectorAll('.jupyter-widgets img').length === 1")
        page.wait("document.querySelectorAll('[role=slider]').length === 2")

        labels = "[...document.querySelectorAll('.widget-slider .widget-label')]"
        assert page.ask(f"{labels}.map((one) => one.textContent)") == ["mean", "deviation"]
        values = "[...document.querySelectorAll('.widget-readout')].map((one) => one.textContent)"
        assert page.ask(values) == ["2.00", "1.50"]
        sliders = "document.querySelectorAll('[role=slider]')"
        assert page.ask(f"[...{sliders}].map((one) => one.tabIndex)") == [0, 0]

        picture = "document.querySelector('.jupyter-widgets img')"
        source, words = page.ask(f"[{picture}.src, {picture}.alt]")
        assert words.startswith("q has mean 2.0 and deviation 1.5.")
        page.ask(f"{sliders}[0].focus()")
        page.press("ArrowRight", 39)
        page.wait(f"{picture}.alt.startsWith('q has mean 2.1 and deviation 1.5.')")
        assert page.ask(f"{picture}.src") != source
        assert page.ask(values) == ["2.10", "1.50"]
        assert page.ask(f"{picture}.complete && {picture}.naturalWidth > 600")
        assert page.errors == []
        assert all(address.startswith((url, "data:", "blob:")) for address in page.requests)
