"""What a reader looks at: pixels exact, GIFs read back, every figure once and with its text."""

import base64
import html
import math
import os
import re
from types import SimpleNamespace

import imageio.v3 as imageio
import IPython
import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbconvert
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ganutils import figures
from ganutils.training import Progress

RANDOM = np.random.default_rng(0)
WORDS = 'four <b> & "words" here'


@pytest.fixture(autouse=True)
def no_window():
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    assert plt.get_fignums() == []
    plt.switch_backend(backend)


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def windows(monkeypatch):
    """Outside a notebook: the figures open at each plt.show()."""
    calls = []

    def show(block):
        calls.append([plt.figure(number) for number in plt.get_fignums()])

    monkeypatch.setattr(plt, "show", show)
    return calls


@pytest.fixture
def page(monkeypatch):
    """In a notebook: its running cell's number, and what is displayed or updated in its page."""
    kernel = SimpleNamespace(kernel=object(), execution_count=1, shown=[])

    def update(figure, metadata):
        kernel.shown.append(("update", figure, metadata))

    def display(figure, *, metadata, display_id=None):
        kernel.shown.append(("display", figure, metadata))
        return SimpleNamespace(update=update) if display_id else None

    monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)
    monkeypatch.setattr(IPython.display, "display", display)
    return kernel


# Pixels.


def test_every_pixel_survives_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    images = tf.constant(pixels / 127.5 - 1, tf.float32)
    found = figures.to_uint8(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)
    # In between it rounds: 127.5 and 63.75; a half goes to the even neighbor.
    np.testing.assert_array_equal(figures.to_uint8(np.float32([[0, -0.5]])), [[128, 64]])


@pytest.mark.parametrize(
    "values, found",
    [
        ([-1.001, 0], "-1.001 to 0"),
        ([0, 1.001], "0 to 1.001"),
        ([0, 255], "0 to 255"),
        ([0, math.nan], "nan to nan"),
        ([-math.inf, 0], "-inf to 0"),
    ],
)
def test_values_outside_the_range_are_refused(values, found):
    with pytest.raises(ValueError, match=rf"{found}\..*127\.5"):
        figures.to_uint8(np.float32(values))


def numbered(count, height=2, width=3):
    """Images of one shade each: 0, 10, 20, ..."""
    shades = np.arange(count) * 10 / 127.5 - 1
    return np.broadcast_to(shades[:, None, None, None], (count, height, width, 1))


def test_tile_lays_images_row_by_row_with_white_between_them():
    w = 255
    np.testing.assert_array_equal(
        figures.tile(numbered(5), columns=2, gap=1),
        [
            [0, 0, 0, w, 10, 10, 10],
            [0, 0, 0, w, 10, 10, 10],
            [w, w, w, w, w, w, w],
            [20, 20, 20, w, 30, 30, 30],
            [20, 20, 20, w, 30, 30, 30],
            [w, w, w, w, w, w, w],
            [40, 40, 40, w, w, w, w],
            [40, 40, 40, w, w, w, w],
        ],
    )
    beside, below = numbered(2, 1, 2), numbered(2, 1, 1)
    assert figures.tile(beside, columns=2, gap=0).tolist() == [[0, 0, 10, 10]]
    assert figures.tile(below, columns=1, gap=3).tolist() == [[0], [w], [w], [w], [10]]


@pytest.mark.parametrize("count, columns", [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_tile_is_as_square_as_it_can_be(count, columns):
    assert figures.tile(numbered(count)).shape == (-(-count // columns) * 3 - 1, columns * 4 - 1)


def test_tile_does_not_turn_or_mirror_an_image_and_keeps_colors():
    pixels = RANDOM.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    picture = figures.tile(tf.constant(pixels / 127.5 - 1, tf.float32), columns=3)
    assert picture.shape == (4, 17, 3)
    for i, image in enumerate(pixels):
        np.testing.assert_array_equal(picture[:, 6 * i : 6 * i + 5], image)


@pytest.mark.parametrize(
    "images, options, words",
    [
        (np.zeros((4, 5, 1)), {}, "found"),
        (np.zeros((2, 4, 5, 2)), {}, r"1 or 3.*\(2, 4, 5, 2\)"),
        (np.zeros((0, 4, 5, 1)), {}, r"\(0, 4, 5, 1\)"),
        (np.full((2, 4, 5, 1), 2.0), {}, r"\[-1, 1\]"),
        (numbered(3), {"columns": 0}, "columns .* 0"),
        (numbered(3), {"gap": -1}, "gap .* -1"),
        (numbered(3), {"gap": 10**5}, "too large"),
    ],
)
def test_tile_refuses_what_makes_no_picture(images, options, words):
    with pytest.raises(ValueError, match=words):
        figures.tile(images, **options)


# Figures.


@pytest.mark.parametrize("alt", ["", "  ", 3])
def test_a_figure_is_not_shown_without_words(alt):
    with pytest.raises(ValueError, match="alt .*words"):
        figures.show(None, alt=alt)


def test_a_script_shows_a_figure_in_a_window_and_closes_it(windows):
    figure, _ = plt.subplots()
    figures.show(figure, alt=WORDS)
    assert windows == [[figure]] and plt.get_fignums() == []


def test_a_notebook_shows_a_figure_once_with_its_text(page, windows):
    figure, _ = plt.subplots()
    figures.show(figure, alt=WORDS)
    assert page.shown == [("display", figure, {"image/png": {"alt": WORDS}})]
    assert plt.get_fignums() == [] and windows == []


def test_show_images_shows_the_tiles_as_they_are(page):
    images = numbered(6)
    figures.show_images(images, alt=WORDS, columns=3, title="six")
    ((_, figure, metadata),) = page.shown
    (axes,) = figure.axes
    (drawn,) = axes.images
    assert metadata == {"image/png": {"alt": WORDS}}
    np.testing.assert_array_equal(drawn.get_array(), figures.tile(images, columns=3))
    assert (drawn.get_cmap().name, drawn.get_clim()) == ("gray", (0, 255))  # not stretched
    assert axes.get_title() == "six" and not axes.axison


def test_images_of_one_gray_are_drawn_gray(axes):
    figures.draw_images(axes, np.zeros((1, 2, 2, 1)))
    (drawn,) = axes.images
    np.testing.assert_allclose(drawn.to_rgba(drawn.get_array(), bytes=True)[..., :3], 128)


def test_show_images_grows_with_zoom(page):
    for zoom in (5, 10):
        figures.show_images(np.zeros((1, 100, 200, 1)), alt=WORDS, zoom=zoom)
    small, large = (figure.get_size_inches() for _, figure, _ in page.shown)
    np.testing.assert_allclose(large - small, [10, 5])


@pytest.mark.parametrize("window", [1, 4, 20, 50])
def test_draw_curves_averages_a_window_and_stands_at_its_last_step(axes, window):
    values = RANDOM.normal(size=20)
    figures.draw_curves(axes, {"d_loss": list(values), "other": [1.0]}, ["d_loss"], window=window)
    (line,) = axes.lines
    length = min(window, 20)  # a run shorter than the window is one point
    steps = np.arange(length, 21)
    means = [values[step - length : step].mean() for step in steps]
    np.testing.assert_array_equal(line.get_xdata(), steps)
    np.testing.assert_allclose(line.get_ydata(), means, atol=1e-12)
    assert axes.get_xlabel() == "step"


def test_draw_curves_colors_labels_and_lines(axes):
    history = {"g_loss": [1.0, 2.0], "d_loss": [3.0, 4.0]}
    figures.draw_curves(axes, history, ("d_loss", "g_loss", "new"), lines=[(0.5, "half")])
    real, fake, new, half = axes.lines
    assert (list(real.get_ydata()), list(fake.get_ydata())) == ([3, 4], [1, 2])
    assert (real.get_color(), fake.get_color()) == (figures.REAL, figures.FAKE)
    assert len(new.get_xdata()) == 0  # not begun
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["d_loss", "g_loss", "new"]
    assert set(half.get_ydata()) == {0.5}
    assert [t.get_text().strip() for t in axes.texts] == ["half"]


@pytest.mark.parametrize(
    "history, names, lines, words",
    [
        ({"a": [[1.0]]}, ["a"], (), "a must"),
        ({"a": ["1"]}, ["a"], (), "a must"),
        ({}, "d_loss", (), "names"),
        ({}, [], [(math.inf, "")], "lines"),
        ({}, [], [("1", "")], "lines"),
    ],
)
def test_what_is_no_curve_is_refused(axes, history, names, lines, words):
    with pytest.raises(ValueError, match=words):
        figures.draw_curves(axes, history, names, lines=lines)


HISTORY = {"d_loss": [1.4, 1.3], "g_loss": [0.7, 0.8], "d_real": [0.5, 0.6], "d_fake": [0.5, 0.4]}


@pytest.mark.parametrize(
    ("theory", "values"), [({}, [2 * math.log(2), math.log(2)]), ({"lines": [(2, "2")]}, [2])]
)
def test_draw_history_draws_losses_and_outputs_with_their_theory(axes, theory, values):
    losses, outputs = axes, axes.twinx()
    figures.draw_history(losses, outputs, HISTORY, **theory)
    for axes, names, heights in [
        (losses, ["d_loss", "g_loss"], values),
        (outputs, ["d_real", "d_fake"], [0.5]),
    ]:
        assert [line.get_label() for line in axes.lines[:2]] == names
        for line, name in zip(axes.lines, names, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), HISTORY[name])
        assert [line.get_ydata()[0] for line in axes.lines[2:]] == pytest.approx(heights)
    assert outputs.get_ylim() == (0, 1)


MAGIC = {".PNG": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".jpg": b"\xff\xd8"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_figure_is_saved_in_the_format_of_its_suffix(tmp_path, axes, suffix):
    path = figures.save_figure(axes.figure, str(tmp_path / f"x{suffix}"))
    assert path == tmp_path / f"x{suffix}"
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert os.listdir(tmp_path) == [path.name]


def test_a_saved_figure_is_what_matplotlib_draws(tmp_path, axes):
    axes.plot([1, 2, 0])
    axes.figure.set_size_inches(3, 2)
    path = figures.save_figure(axes.figure, tmp_path / "x.png", dpi=50)
    axes.figure.savefig(tmp_path / "plain.png", dpi=50)
    assert imageio.imread(path).shape[:2] == (100, 150)
    np.testing.assert_array_equal(imageio.imread(path), imageio.imread(tmp_path / "plain.png"))


@pytest.mark.parametrize("name", ["x", "x.npz", "x.", ".png"])
def test_a_suffix_that_matplotlib_does_not_know_is_refused(tmp_path, axes, name):
    with pytest.raises(ValueError, match="not supported.*pdf"):
        figures.save_figure(axes.figure, tmp_path / name)
    assert os.listdir(tmp_path) == []


# The live view.


def refuse():
    raise AssertionError("Samples are drawn for nobody.")


@pytest.mark.parametrize("shell", [None, SimpleNamespace()], ids=["Python", "terminal"])
def test_outside_a_notebook_the_live_view_draws_nothing(monkeypatch, shell):
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    figures.LiveView(refuse)(Progress(1, 2, HISTORY, 3.0))


def test_the_live_view_shows_samples_curves_and_the_time_left(page):
    images = np.zeros((4, 3, 3, 1), np.float32)
    view = figures.LiveView(lambda: images, columns=4, lines=[(7, "seven")])
    for step, seconds in [(1000, 125.4), (2000, 59.6), (3000, 0.0)]:
        view(Progress(step, 3000, HISTORY, seconds))
        assert plt.get_fignums() == []  # closed, or the cell would show it again
    assert [figure.get_suptitle() for _, figure, _ in page.shown] == [
        "step 1,000 of 3,000, about 2 min 05 s left",
        "step 2,000 of 3,000, about 1 min 00 s left",
        "step 3,000 of 3,000, done",
    ]
    grid, losses, outputs = page.shown[0][1].axes
    assert grid.images[0].get_array().shape == (3, 15)
    assert [text.get_text() for text in losses.texts] == [" seven"]
    assert losses.lines[0].get_label() == "d_loss" and outputs.lines[1].get_label() == "d_fake"
    view(Progress(3000, 3000, HISTORY, 0.0))  # the next run, or this cell once more
    view(Progress(1000, 9000, HISTORY, 60.0))
    page.execution_count = 2  # stopped, and the cell is run again: its old output is gone
    view(Progress(1000, 9000, HISTORY, 60.0))
    view(Progress(2000, 9000, HISTORY, 60.0))
    kinds = ["display", "update", "update", "display", "display", "display", "update"]
    assert [kind for kind, _, _ in page.shown] == kinds
    (alt,) = {metadata["image/png"]["alt"] for _, _, metadata in page.shown}  # updates keep it
    assert len(alt.split()) >= 4


CELLS = [
    f"""import matplotlib.pyplot as plt, numpy as np
from ganutils import figures
from ganutils.training import Progress
figure, axes = plt.subplots(1, 2, figsize=(4, 3))
figures.show(figure, alt={WORDS!r})""",
    f"figures.show_images(np.zeros((4, 3, 3, 1)), alt={WORDS!r})",
    f"""view = figures.LiveView(lambda: np.zeros((4, 3, 3, 1)), title={WORDS!r})
view(Progress(1, 3, {{"d_loss": [1.0]}}, 0.0))""",
    """for step in (2, 3):
    view(Progress(step, 3, {"d_loss": [1.0] * step}, 0.0))""",
    'view(Progress(3, 3, {"d_loss": [1.0] * 3}, 0.0))',
]


@pytest.mark.slow
def test_in_a_kernel_every_figure_is_one_output_whose_text_reaches_the_page(caplog):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    nbclient.execute(notebook, timeout=100, kernel_name="python3")
    shown = []
    for cell in notebook.cells:
        (output,) = cell.outputs
        assert output.output_type == "display_data"
        assert WORDS in output.metadata["image/png"]["alt"]
        shown.append(output.data)
    texts = [data["text/plain"] for data in shown]
    assert texts[0] == "<Figure size 400x300 with 2 Axes>"
    assert texts[2:] == ["<Figure size 1100x360 with 3 Axes>"] * 3
    # The fourth cell's picture became that of step 3. No cell draws into another one's output.
    early, updated, again = (data["image/png"] for data in shown[2:])
    assert updated == again != early
    # nbconvert's usual template, lab, has no place for it.
    page, _ = nbconvert.HTMLExporter(template_name="classic").from_notebook_node(notebook)
    alts = re.findall(r"<img alt='(.*?)'", page)
    assert len(alts) == 5 and all(html.escape(WORDS, quote=False) in alt for alt in alts)
    assert "Alternative text" not in caplog.text


# GIFs.


def read_gif(path):
    """Frames as RGB arrays, durations in milliseconds, and the loop count, by Pillow."""
    frames, durations = [], []
    with Image.open(path) as file:
        loop = file.info.get("loop")
        for index in range(file.n_frames):
            file.seek(index)
            frames.append(np.asarray(file.convert("RGB")))
            durations.append(file.info["duration"])
    return frames, durations, loop


def noise(count, *shape):
    return list(RANDOM.integers(0, 256, (count, *shape)).astype(np.uint8))


def timeline(frames, durations):
    """What is on screen in each 10 ms."""
    return [f for f, ms in zip(frames, durations, strict=True) for _ in range(ms // 10)]


def rgb(frame):
    return frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)


def test_a_gif_read_back_is_what_was_written(tmp_path):
    frames = noise(4, 10, 12)
    path = figures.write_gif(str(tmp_path / "x.gif"), iter(frames), milliseconds=50)
    assert path == tmp_path / "x.gif"
    found, durations, loop = read_gif(path)
    assert durations == [50, 50, 50, 1500]
    assert loop == 0  # forever
    for frame, back in zip(frames, found, strict=True):
        np.testing.assert_array_equal(back, rgb(frame))  # 256 grays fit a palette: no loss
    assert os.listdir(tmp_path) == ["x.gif"]


def test_a_frame_of_few_grays_after_one_of_all_is_read_back(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = [ramp, ramp // 64, ramp]
    path = figures.write_gif(tmp_path / "x.gif", frames)
    np.testing.assert_array_equal(imageio.imread(path, index=None), [rgb(f) for f in frames])


def test_colors_survive_as_far_as_a_palette_reaches(tmp_path):
    palette = RANDOM.integers(0, 256, (200, 3)).astype(np.uint8)
    frames = [palette[RANDOM.integers(0, 200, (10, 12))] for _ in range(3)]
    found, durations, _ = read_gif(figures.write_gif(tmp_path / "x.gif", frames, hold=20))
    assert durations == [100, 100, 20]
    np.testing.assert_array_equal(found, frames)


A, B = noise(2, 6, 5)


@pytest.mark.parametrize(
    "frames",
    [[A], [A, B], [A, A, B], [A, B, B], [A, B, A], [A, A, A], [A, B, B, B, A, A]],
    ids=["one", "two", "same first", "same last", "back", "all the same", "runs"],
)
def test_every_frame_is_on_screen_for_its_time_equal_neighbors_too(tmp_path, frames):
    # The writer may store equal neighbors once: then for the sum of their times.
    path = figures.write_gif(tmp_path / "x.gif", frames, milliseconds=40, hold=300)
    found, durations, loop = read_gif(path)
    assert loop == 0
    expected = timeline([rgb(f) for f in frames], [40] * (len(frames) - 1) + [300])
    np.testing.assert_array_equal(timeline(found, durations), expected)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [A, B.astype(np.float32)],
        [A.astype(np.float32)],
        [A, B[:3]],
        [A, rgb(B)],
        [A[0], B[0]],
        [A[..., None], B[..., None]],
        [np.dstack([A] * 4), np.dstack([B] * 4)],
    ],
    ids=["none", "mixed", "float", "sizes", "channels", "1-D", "one channel", "four"],
)
def test_frames_that_make_no_gif_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="frames must be uint8|no frames|same shape"):
        figures.write_gif(tmp_path / "x.gif", frames)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("times", [(10, 100), (-20, 100), (25, 100), (100, 15), (100, 105)])
def test_times_that_a_gif_cannot_keep_are_refused(tmp_path, times):
    milliseconds, hold = times
    with pytest.raises(ValueError, match=f"{milliseconds=} and {hold=} .*multiples of 10"):
        figures.write_gif(tmp_path / "x.gif", [A, B], milliseconds=milliseconds, hold=hold)
    assert os.listdir(tmp_path) == []


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = figures.write_gif(tmp_path / "x.gif", [A, B])
    before = path.read_bytes()

    def half_a_gif(file, *_, **__):
        file.write(b"GIF89a")
        raise RuntimeError("the encoder gives up")

    with monkeypatch.context() as patch:
        patch.setattr(figures.imageio, "imwrite", half_a_gif)
        with pytest.raises(RuntimeError, match="gives up"):
            figures.write_gif(path, [B, A])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.gif"]
    figures.write_gif(path, [B, A])
    assert path.read_bytes() != before


def test_show_gif_embeds_the_bytes_and_says_what_they_show(tmp_path, monkeypatch):
    path = figures.write_gif(tmp_path / "x.gif", [A, B])
    displayed = []
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    figures.show_gif(path, alt='a "3" that becomes <5>')
    (page,) = displayed
    before, encoded, after = page.data.partition(base64.b64encode(path.read_bytes()).decode())
    assert before == '<img src="data:image/gif;base64,' and encoded
    assert html.unescape(after) == '" alt="a "3" that becomes <5>">'
    assert after.count('"') == 3 and after.count("<") == 0


@pytest.mark.parametrize(
    ("name", "frames", "said"),
    [
        ("film.mp4", [np.zeros((4, 4), np.uint8)], "film.mp4.*ends in .gif"),
        ("film", [np.zeros((4, 4), np.uint8)], "film.*ends in .gif"),
        ("film.gif", [], "no frames"),
    ],
)
def test_a_film_needs_frames_and_its_name(tmp_path, name, frames, said):
    with pytest.raises(ValueError, match=said):
        figures.write_gif(tmp_path / name, frames)
    assert not any(tmp_path.iterdir())


# Sliders. What moves in a kernel and in JupyterLab: test_sliders.py.


def draw_line(height, how_many=1):
    figure, axes = plt.subplots()
    axes.axhline(height)
    return figure, f"{how_many} lines at the height {height}"


def test_without_a_notebook_sliders_show_their_start(windows):
    figures.sliders(draw_line, height=(0.0, 1.0, 0.1, 0.5), how_many=(1, 3, 1, 2))
    ((figure,),) = windows
    assert figure.axes[0].lines[0].get_ydata() == [0.5, 0.5]


def test_where_a_program_runs_the_notebook_there_is_only_the_picture():
    source = "from ganutils import figures\nimport matplotlib.pyplot as plt\n"
    source += "def draw(a):\n    return plt.subplots()[0], f'nothing is drawn at {a}'\n"
    source += "figures.sliders(draw, a=(0, 9, 1, 3))\nfrom sys import modules\n"
    source += "print('ipywidgets' in modules)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.execute(notebook)
    picture, said = notebook.cells[0].outputs
    assert set(picture.data) == {"image/png", "text/plain"} and said.text == "False\n"
    assert picture.metadata == {"image/png": {"alt": "nothing is drawn at 3"}}
    assert "widgets" not in notebook.metadata


def test_a_start_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="height starts at 2.0, which is not in 0.0..1.0"):
        figures.sliders(draw_line, height=(0.0, 1.0, 0.1, 2.0))
