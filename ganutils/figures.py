"""What does a reader look at? Grids of samples, curves, the live view of a run, GIFs.

Images come in as float32 in [-1, 1]; only this room converts them to pixels. Every figure is shown
with a text for readers who cannot see it, which an exported page keeps.
"""

import base64
import html
import math
import sys
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np

from ganutils import _atomic, validation

REAL, FAKE = "tab:blue", "tab:orange"  # the colors of real and generated in every figure
LOSS_LINES = ((2 * math.log(2), "2 log 2"), (math.log(2), "log 2"))


def _running_cell():
    """Number of the notebook's running cell, anew each time it is run; None outside a notebook."""
    ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
    shell = ipython and ipython.get_ipython()
    return shell.execution_count if hasattr(shell, "kernel") else None


def _reader_is_here():
    """Whether someone may move a slider: a program that runs a notebook keeps no history."""
    if _running_cell() is None:
        return False
    return sys.modules["IPython"].get_ipython().history_manager.hist_file != ":memory:"


def _described(alt):
    """What a notebook keeps beside a picture: its alternative text."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in words what the figure shows, not {alt!r}.")
    return {"image/png": {"alt": alt}}


def show(figure, *, alt):
    """Show a matplotlib figure once, with its alternative text, and close it.

    Args:
        figure: matplotlib figure.
        alt: what the figure shows, in words, for readers who cannot see it; not empty.
    """
    metadata = _described(alt)
    if _running_cell() is None:
        plt.show(block=True)  # until its window is closed, where there is one
    else:
        from IPython.display import display

        display(figure, metadata=metadata)
    plt.close(figure)  # or a script would keep them all, and a notebook show it once more


def sliders(draw, **controls):
    """Show the figure that `draw` makes, below a slider for each of its arguments.

    Whenever a slider moves, the kernel draws anew. Without a kernel, and where a program runs the
    notebook, there stands the picture that the sliders start with.

    Args:
        draw: function of the controls, by name -> matplotlib figure, and what it shows in words.
        controls: name=(low, high, step, start), all int or all float; a slider's label is its name
            with spaces for underscores.
    """
    for name, (low, high, _, start) in controls.items():
        if not low <= start <= high:
            raise ValueError(f"{name} starts at {start}, which is not in {low}..{high}.")
    figure, alt = draw(**{name: start for name, (*_, start) in controls.items()})
    if not _reader_is_here():
        return show(figure, alt=alt)
    import ipywidgets
    from IPython import display, get_ipython

    def render(figure, alt):
        data, _ = get_ipython().display_formatter.format(figure)
        plt.close(figure)
        picture = f"data:image/png;base64,{data['image/png']}"
        return data, f'<img src="{picture}" alt="{html.escape(alt)}">'

    def redraw(change):
        _, drawn.value = render(*draw(**{name: slider.value for name, slider in moved.items()}))

    metadata, (data, picture) = _described(alt), render(figure, alt)
    drawn, moved = ipywidgets.HTML(picture), {}
    for name, (low, high, step, start) in controls.items():
        kind = ipywidgets.IntSlider if isinstance(start, int) else ipywidgets.FloatSlider
        label = {key: name.replace("_", " ") for key in ("description", "tooltip")}
        style = {"description_width": "initial"}
        moved[name] = kind(start, min=low, max=high, step=step, style=style, **label)
        moved[name].observe(redraw, "value")
    # One output: sliders where they can be shown, else the picture, as if there were none.
    view = ipywidgets.VBox([*moved.values(), drawn]).get_view_spec()
    data["application/vnd.jupyter.widget-view+json"] = view
    display.display(data, raw=True, metadata=metadata)


def to_uint8(images):
    """Convert floats in [-1, 1], any shape, to pixels: uint8, -1 becomes 0 and 1 becomes 255."""
    images = validation.as_array(images, "images")
    if images.dtype.name == "bfloat16":
        images = images.astype(np.float32)
    advice = "Divide pixels of 0 to 255 by 127.5 and subtract 1."
    if images.dtype.kind != "f":
        raise TypeError(f"images must be floats in [-1, 1], not {images.dtype}. {advice}")
    if images.size and not (images.min() >= -1 and images.max() <= 1):  # NaN fails too
        found = f"{images.min():.4g} to {images.max():.4g}"
        raise ValueError(f"images must be in [-1, 1]; found {found}. {advice}")
    return np.round((images + 1) * 127.5).astype(np.uint8)


def tile(images, *, columns=None, gap=1):
    """Lay images side by side in one picture of at most 100 million pixels, row by row.

    Args:
        images: (count, height, width, 1 or 3), values in [-1, 1].
        columns: images in a row; the square root of count, rounded up, where None.
        gap: white pixels between images.

    Returns:
        uint8 array (rows * (height + gap) - gap, columns * (width + gap) - gap), with a last axis
        of 3 for color images.
    """
    pixels = to_uint8(images)
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not pixels.size:
        raise ValueError(f"images must be (count, height, width, 1 or 3); found {pixels.shape}.")
    count, height, width, channels = pixels.shape
    gap = validation.as_integer(gap, "gap", low=0, high=10**8)
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    columns = validation.as_integer(columns, "columns", low=1, high=10**8)
    rows = math.ceil(count / columns)
    shape = rows * (height + gap), columns * (width + gap), channels
    if shape[0] * shape[1] > 10**8:
        raise ValueError(f"{columns=} and {gap=} make too large a picture, {shape[:2]} pixels.")
    around = [(0, rows * columns - count), (0, gap), (0, gap), (0, 0)]
    pixels = np.pad(pixels, around, constant_values=255)
    picture = pixels.reshape(rows, columns, height + gap, width + gap, channels)
    picture = picture.swapaxes(1, 2).reshape(shape)[: shape[0] - gap, : shape[1] - gap]
    return picture[..., 0] if channels == 1 else picture


def draw_images(axes, images, *, columns=None, title=None):
    """Draw a grid of images, as `tile` makes it, in matplotlib axes, with a title above."""
    axes.imshow(tile(images, columns=columns), cmap="gray", vmin=0, vmax=255)
    axes.set_title(title)
    axes.axis("off")


def show_images(images, *, alt, columns=None, title=None, zoom=1.5):
    """Show a grid of images as one figure.

    Args:
        images, columns: as for `tile`.
        alt: what the figure shows, in words, as for `show`.
        title: text above the grid.
        zoom: size on the page, in hundredths of an inch per pixel of the grid, > 0.
    """
    height, width = tile(images, columns=columns).shape[:2]
    zoom = validation.as_positive(zoom, "zoom")
    size = max(width * zoom / 100, 2), height * zoom / 100 + 0.4
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw_images(axes, images, columns=columns, title=title)
    show(figure, alt=alt)


def draw_curves(axes, history, names, *, lines=(), window=1):
    """Draw named values of a history against the step, with horizontal lines where theory has them.

    Args:
        axes: matplotlib axes.
        history: dict from name to list with one float for each step.
        names: up to four keys, discriminator (or real) first; one that `history` has not yet is
            drawn without points.
        lines: pairs (height, label) of horizontal lines.
        window: steps averaged into one point of a curve.
    """
    window = validation.as_integer(window, "window", low=1, high=2**63)
    names, lines, colors = list(names), list(lines), (REAL, FAKE, "tab:green", "tab:red")
    if len(names) > len(colors):
        raise ValueError(f"names must be at most {len(colors)}, not {names}.")
    curves = [_as_curve(history.get(name, ()), name) for name in names]
    heights = _as_curve([height for height, _ in lines], "lines")
    if not np.isfinite(heights).all():
        raise ValueError(f"lines must be at finite heights, not {heights}.")
    for name, color, values in zip(names, colors, curves, strict=False):
        width = max(1, min(window, len(values)))
        means = np.convolve(values, np.ones(width) / width, "valid") if len(values) else values
        axes.plot(np.arange(len(means)) + width, means, color=color, label=name, linewidth=1)
    for height, (_, label) in zip(heights, lines, strict=True):
        axes.axhline(height, color="gray", linestyle=":", linewidth=1)
        axes.annotate(f" {label}", (1, height), xycoords=("axes fraction", "data"), va="center")
    axes.set_xlabel("step")
    if names:
        axes.legend()


def _as_curve(values, name):
    """One number a step as float64."""
    values = validation.as_array(values, name)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iuf"):
        found = f"{values.dtype} of the shape {values.shape}"
        raise ValueError(f"{name} must hold one number a step, not {found}.")
    return values.astype(float)


def draw_history(loss_axes, output_axes, history, *, lines=LOSS_LINES):
    """Draw a GAN's history: losses, with their values where D cannot tell, and D's mean outputs.

    Args:
        loss_axes: matplotlib axes for d_loss and g_loss.
        output_axes: matplotlib axes for d_real and d_fake, the mean D(x) and D(G(z)).
        history: dict from name to list with one float for each step.
        lines: as for `draw_curves`; those of the non-saturating losses, [(2, "2")] of the hinge.
    """
    window = max(1, validation.as_array(history.get("d_loss", ()), "d_loss").size // 200)
    draw_curves(loss_axes, history, ("d_loss", "g_loss"), lines=lines, window=window)
    loss_axes.set_title("losses")
    draw_curves(output_axes, history, ("d_real", "d_fake"), lines=[(0.5, "1/2")], window=window)
    output_axes.set(ylim=(0, 1), title="D(real) and D(fake)")


class LiveView:
    """A callback for `training.train`: one figure that follows the run and updates in place.

    It shows images, the losses with their theoretical lines, D(real) and
    D(fake), the step and the time left. Outside a notebook it draws nothing; `train` shows a bar.

    Args:
        sample: function of no argument -> images (count, height, width, 1 or 3) in [-1, 1].
        title: what the images are, in a few words.
        columns: images in a row of the grid.
        lines: as for `draw_history`.
    """

    def __init__(self, sample, *, title="samples, fixed latents", columns=None, lines=LOSS_LINES):
        self.metadata = _described(f"Images ({title}), the losses and the mean outputs of D so far")
        self.sample, self.title, self.columns, self.lines = sample, title, columns, lines
        self.handle = self.cell = None

    def __call__(self, progress):
        cell = _running_cell()
        if cell is None:
            return
        from IPython.display import display

        images = self.sample()
        figure, axes = plt.subplots(
            1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=(1, 1.2, 1.2)
        )
        draw_images(axes[0], images, columns=self.columns, title=self.title)
        draw_history(axes[1], axes[2], progress.history, lines=self.lines)
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        done = progress.step == progress.steps
        left = "done" if done else f"about {minutes} min {seconds:02d} s left"
        figure.suptitle(f"step {progress.step:,} of {progress.steps:,}, {left}")
        if self.handle is None or self.cell != cell:  # after an interruption, the old one is gone
            self.handle, self.cell = display(figure, display_id=True, metadata=self.metadata), cell
        else:
            self.handle.update(figure, metadata=self.metadata)
        plt.close(figure)  # or the notebook would show it once more
        if done:
            self.handle = None  # a later run in another cell gets a figure of its own


def save_figure(figure, path, **options):
    """Save a matplotlib figure, whole or not at all, in the format of the path's suffix.

    options are those of matplotlib's `Figure.savefig`, such as dpi. Returns the `pathlib.Path`.
    An OSError (disk full, no such folder) says what to do; an older file is intact.
    """
    path = Path(path)
    with _atomic.whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), **options)
    return path


def write_gif(path, frames, *, milliseconds=100, hold=1500):
    """Write frames, whole or not at all, as a GIF that loops forever and holds its last frame.

    Args:
        path: file to write, of a name that ends in .gif; an OSError says what to do, and leaves an
            older file intact.
        frames: uint8 arrays of one shape, (height, width) or (height, width, 3).
        milliseconds: how long a frame stays, 20 or more; a GIF counts in steps of 10 ms.
        hold: how long the last frame stays.

    Returns:
        The path, as a `pathlib.Path`.
    """
    path, frames = Path(path), [np.asarray(frame) for frame in frames]
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path} is to hold a GIF: give it a name that ends in .gif.")
    if not frames:
        raise ValueError(f"There are no frames to write to {path}: collect at least one.")
    frames = np.stack(frames)
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[3:] not in ((), (3,)):
        raise ValueError("frames must be uint8, all (height, width) or (height, width, 3).")
    if any(not 20 <= ms <= 655_350 or ms % 10 for ms in (milliseconds, hold)):
        raise ValueError(f"{milliseconds=} and {hold=} must be multiples of 10 in 20..655350.")
    if frames.ndim == 3:  # else each gets a palette of its own, with which Pillow cannot read them
        frames = np.repeat(frames[..., None], 3, axis=-1)
    durations = [milliseconds] * (len(frames) - 1) + [hold] if len(frames) > 1 else hold
    with _atomic.whole_file(path) as file:
        imageio.imwrite(file, list(frames), extension=".gif", duration=durations, loop=0)
    return path


def show_gif(path, *, alt):
    """Embed a GIF in the page, with what it shows in words, so that an exported page plays it."""
    from IPython.display import HTML, display

    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    display(HTML(f'<img src="data:image/gif;base64,{encoded}" alt="{html.escape(alt)}">'))
