"""What a reader looks at: pixels exact, GIFs read back, one live figure and no more."""

import base64
import html
import math
import os
from types import SimpleNamespace

import imageio.v3 as imageio
import IPython
import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ganutils import figures
from ganutils.training import Progress

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_window():
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def shown(monkeypatch):
    """The figures open at each plt.show()."""
    calls = []
    monkeypatch.setattr(
        plt, "show", lambda: calls.append([plt.figure(n) for n in plt.get_fignums()])
    )
    return calls


# Pixels.


def test_to_uint8_is_exact_where_it_can_be_and_rounds_in_between():
    pixels = figures.to_uint8(np.float32([[-1, 1], [0, -0.5]]))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 2)
    # 127.5 and 63.75; a half goes to the even neighbor.
    np.testing.assert_array_equal(pixels, [[0, 255], [128, 64]])


def test_every_pixel_survives_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    images = tf.constant(pixels / 127.5 - 1, tf.float32)
    np.testing.assert_array_equal(figures.to_uint8(images), pixels)


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
    with pytest.raises(ValueError, match=rf"in \[-1, 1\]; found {found}\..*127\.5"):
        figures.to_uint8(np.float32(values))


def numbered(count, height=2, width=3, channels=1):
    """Images of one shade each: 0, 10, 20, ..."""
    shades = np.arange(count) * 10 / 127.5 - 1
    return np.broadcast_to(shades[:, None, None, None], (count, height, width, channels))


def test_tile_lays_images_row_by_row_with_white_between_them():
    picture = figures.tile(numbered(5), columns=2, gap=1)
    assert picture.dtype == np.uint8
    w = 255
    np.testing.assert_array_equal(
        picture,
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


def test_tile_without_a_gap_and_with_a_wide_one():
    np.testing.assert_array_equal(
        figures.tile(numbered(2, 1, 2), columns=2, gap=0), [[0, 0, 10, 10]]
    )
    np.testing.assert_array_equal(
        figures.tile(numbered(2, 1, 1), columns=1, gap=3), [[0], [255], [255], [255], [10]]
    )


@pytest.mark.parametrize("count, columns", [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_tile_is_as_square_as_it_can_be(count, columns):
    rows = -(-count // columns)
    expected = (rows * 3 - 1, columns * 4 - 1)
    assert figures.tile(numbered(count)).shape == expected
    assert figures.tile(numbered(count), columns=None).shape == expected


def test_tile_does_not_turn_or_mirror_an_image_and_keeps_colors():
    pixels = RANDOM.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    picture = figures.tile(tf.constant(pixels / 127.5 - 1, tf.float32), columns=3)
    assert picture.shape == (4, 17, 3)
    for i, image in enumerate(pixels):
        np.testing.assert_array_equal(picture[:, 6 * i : 6 * i + 5], image)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((4, 5, 1)), "found"),
        (np.zeros((2, 4, 5, 2)), r"1 or 3.*\(2, 4, 5, 2\)"),
        (np.zeros((0, 4, 5, 1)), r"\(0, 4, 5, 1\)"),
        (np.full((2, 4, 5, 1), 2.0), r"\[-1, 1\]"),
        (np.full((2, 4, 5, 1), np.nan), "nan"),
    ],
)
def test_tile_refuses_what_is_no_batch_of_images(images, message):
    with pytest.raises(ValueError, match=message):
        figures.tile(images)


@pytest.mark.parametrize("columns", [0, -1])
def test_tile_refuses_fewer_than_one_column(columns):
    with pytest.raises(ValueError, match=f"columns .* found {columns}"):
        figures.tile(numbered(3), columns=columns)


# Figures.


def test_show_images_shows_the_tiles_as_they_are(shown):
    images = numbered(6)
    figures.show_images(images, columns=3, title="six")
    ((figure,),) = shown
    (axes,) = figure.axes
    (drawn,) = axes.images
    np.testing.assert_array_equal(drawn.get_array(), figures.tile(images, columns=3))
    assert (drawn.get_cmap().name, drawn.get_clim()) == ("gray", (0, 255))  # not stretched
    assert axes.get_title() == "six" and not axes.axison


def test_images_of_one_gray_are_drawn_gray():
    _, axes = plt.subplots()
    figures.draw_images(axes, np.zeros((1, 2, 2, 1)))
    (drawn,) = axes.images
    np.testing.assert_allclose(drawn.to_rgba(drawn.get_array(), bytes=True)[..., :3], 128)


def test_show_images_grows_with_zoom(shown):
    for zoom in (5, 10):
        figures.show_images(np.zeros((1, 100, 200, 1)), zoom=zoom)
    small, large = (figure.get_size_inches() for (figure,) in shown)
    np.testing.assert_allclose(large - small, [10, 5])


@pytest.mark.parametrize("window", [1, 4, 20, 50])
def test_draw_curves_averages_a_window_and_stands_at_its_last_step(window):
    values = RANDOM.normal(size=20)
    _, axes = plt.subplots()
    figures.draw_curves(axes, {"d_loss": list(values), "other": [1.0]}, ["d_loss"], window=window)
    (line,) = axes.lines
    length = min(window, 20)  # a run shorter than the window is one point
    steps = np.arange(length, 21)
    means = [values[step - length : step].mean() for step in steps]
    np.testing.assert_array_equal(line.get_xdata(), steps)
    np.testing.assert_allclose(line.get_ydata(), means, atol=1e-12)
    assert axes.get_xlabel() == "step"


def test_draw_curves_colors_labels_and_lines():
    _, axes = plt.subplots()
    history = {"g_loss": [1.0, 2.0], "d_loss": [3.0, 4.0]}
    figures.draw_curves(axes, history, ("d_loss", "g_loss"), lines=[(0.5, "half")])
    real, fake, half = axes.lines
    np.testing.assert_array_equal(real.get_ydata(), [3, 4])
    np.testing.assert_array_equal(fake.get_ydata(), [1, 2])
    assert (real.get_color(), fake.get_color()) == (figures.REAL, figures.FAKE)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["d_loss", "g_loss"]
    assert set(half.get_ydata()) == {0.5}
    assert [t.get_text().strip() for t in axes.texts] == ["half"]


def test_a_history_that_has_not_begun_is_drawn_without_points():
    _, axes = plt.subplots()
    figures.draw_curves(axes, {}, ("d_loss", "g_loss"), window=3)
    assert [len(line.get_xdata()) for line in axes.lines] == [0, 0]


HISTORY = {"d_loss": [1.4, 1.3], "g_loss": [0.7, 0.8], "d_real": [0.5, 0.6], "d_fake": [0.5, 0.4]}


def test_draw_history_draws_losses_and_outputs_with_their_theory():
    _, (losses, outputs) = plt.subplots(1, 2)
    figures.draw_history(losses, outputs, HISTORY)
    for axes, names, heights in [
        (losses, ["d_loss", "g_loss"], [2 * math.log(2), math.log(2)]),
        (outputs, ["d_real", "d_fake"], [0.5]),
    ]:
        assert [line.get_label() for line in axes.lines[:2]] == names
        for line, name in zip(axes.lines, names, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), HISTORY[name])
        assert [line.get_ydata()[0] for line in axes.lines[2:]] == pytest.approx(heights)
    assert outputs.get_ylim() == (0, 1)


MAGIC = {
    ".png": b"\x89PNG",
    ".PNG": b"\x89PNG",
    ".svg": b"<?xml",
    ".pdf": b"%PDF",
    ".jpg": b"\xff\xd8",
}


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_figure_is_saved_in_the_format_of_its_suffix(tmp_path, suffix):
    figure, _ = plt.subplots()
    path = figures.save_figure(figure, str(tmp_path / f"x{suffix}"))
    assert path == tmp_path / f"x{suffix}"
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert os.listdir(tmp_path) == [path.name]


def test_a_saved_figure_is_what_matplotlib_draws(tmp_path):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2, 0])
    path = figures.save_figure(figure, tmp_path / "x.png", dpi=50)
    figure.canvas.draw()
    figure.savefig(tmp_path / "plain.png", dpi=50)
    assert imageio.imread(path).shape[:2] == (100, 150)
    np.testing.assert_array_equal(imageio.imread(path), imageio.imread(tmp_path / "plain.png"))


@pytest.mark.parametrize("name", ["x", "x.npz", "x.", ".png"])
def test_a_suffix_that_matplotlib_does_not_know_is_refused(tmp_path, name):
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match=rf"{name} must end in .*\.pdf, .*\.png"):
        figures.save_figure(figure, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_show_images_leaves_no_figure_open_in_a_script_and_the_window_where_one_is(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)  # as without a screen
    figures.show_images(numbered(2))
    assert plt.get_fignums() == []
    with plt.ion():
        figures.show_images(numbered(2))
    assert len(plt.get_fignums()) == 1


# The live view.

IMAGES = np.zeros((4, 3, 3, 1), np.float32)


def refuse():
    raise AssertionError("Samples are drawn for nobody.")


@pytest.mark.parametrize(
    "shell", [None, SimpleNamespace()], ids=["Python", "IPython in a terminal"]
)
def test_outside_a_notebook_the_live_view_draws_nothing(monkeypatch, shell):
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: refuse())
    figures.LiveView(refuse)(Progress(1, 2, HISTORY, 3.0))
    assert plt.get_fignums() == []


def test_the_live_view_shows_samples_curves_and_the_time_left(monkeypatch):
    kernel = SimpleNamespace(kernel=object(), execution_count=1)
    events = []
    handle = SimpleNamespace(update=lambda figure: events.append(("update", figure)))

    def display(figure, display_id):
        assert display_id is True
        events.append(("display", figure))
        return handle

    monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)
    monkeypatch.setattr(IPython.display, "display", display)
    view = figures.LiveView(lambda: IMAGES, columns=4)
    for step, seconds in [(1000, 125.4), (2000, 59.6), (3000, 0.0)]:
        view(Progress(step, 3000, HISTORY, seconds))
        assert plt.get_fignums() == []  # closed, or the cell would show it again
    assert [kind for kind, _ in events] == ["display", "update", "update"]
    titles = [figure.get_suptitle() for _, figure in events]
    assert titles == [
        "step 1,000 of 3,000, about 2 min 05 s left",
        "step 2,000 of 3,000, about 1 min 00 s left",
        "step 3,000 of 3,000, done",
    ]
    grid, losses, outputs = events[0][1].axes
    assert grid.images[0].get_array().shape == (3, 15)
    assert losses.lines[0].get_label() == "d_loss" and outputs.lines[1].get_label() == "d_fake"
    view(Progress(3000, 3000, HISTORY, 0.0))  # the next run, or this cell once more
    assert events[-1][0] == "display"
    view(Progress(1000, 9000, HISTORY, 60.0))
    kernel.execution_count = 2  # stopped, and the cell is run again: its old output is gone
    view(Progress(1000, 9000, HISTORY, 60.0))
    view(Progress(2000, 9000, HISTORY, 60.0))
    assert [kind for kind, _ in events[-3:]] == ["display", "display", "update"]


def test_in_a_kernel_the_live_view_is_one_output_updated_in_place():
    cells = [
        "import numpy as np\n"
        "from ganutils import figures\n"
        "sample = lambda: np.zeros((4, 3, 3, 1))\n"
        "progress = lambda step: (step, 3, {'d_loss': [1.0] * step}, 0.0)\n"
        "from collections import namedtuple\n"
        "Progress = namedtuple('Progress', 'step steps history seconds_left')\n"
        "view = figures.LiveView(sample)\n"
        "view(Progress(*progress(1)))",
        "view(Progress(*progress(2))); view(Progress(*progress(3)))",
        "view(Progress(*progress(3)))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.execute(notebook, timeout=100, kernel_name="python3")
    assert [len(cell.outputs) for cell in notebook.cells] == [1, 1, 1]
    early, updated, again = (cell.outputs[0] for cell in notebook.cells)
    assert {o.output_type for o in (early, updated, again)} == {"display_data"}
    # The second cell's picture became that of step 3. A cell never draws into another one's output.
    assert updated.data["image/png"] == again.data["image/png"] != early.data["image/png"]


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
    path = figures.write_gif(str(tmp_path / "x.gif"), iter(frames), milliseconds=50, hold=700)
    assert path == tmp_path / "x.gif"
    found, durations, loop = read_gif(path)
    assert durations == [50, 50, 50, 700]
    assert loop == 0  # forever
    for frame, back in zip(frames, found, strict=True):
        np.testing.assert_array_equal(back, rgb(frame))  # 256 grays fit a palette: no loss
    assert imageio.imread(path, index=None).shape == (4, 10, 12, 3)
    assert os.listdir(tmp_path) == ["x.gif"]


def test_default_durations(tmp_path):
    path = figures.write_gif(tmp_path / "x.gif", noise(3, 4, 4))
    assert read_gif(path)[1] == [100, 100, 1500]


def test_colors_survive_as_far_as_a_palette_reaches(tmp_path):
    palette = RANDOM.integers(0, 256, (200, 3)).astype(np.uint8)
    frames = [palette[RANDOM.integers(0, 200, (10, 12))] for _ in range(3)]
    found, durations, _ = read_gif(figures.write_gif(tmp_path / "x.gif", frames, hold=20))
    assert durations == [100, 100, 20]
    for frame, back in zip(frames, found, strict=True):
        np.testing.assert_array_equal(back, frame)


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
    with pytest.raises(ValueError, match="frames must be uint8, all"):
        figures.write_gif(tmp_path / "x.gif", frames)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "times", [(10, 100), (0, 100), (-20, 100), (25, 100), (100, 15), (100, 105)]
)
def test_times_that_a_gif_cannot_keep_are_refused(tmp_path, times):
    milliseconds, hold = times
    with pytest.raises(ValueError, match=f"{milliseconds=} and {hold=} must be multiples of 10"):
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
