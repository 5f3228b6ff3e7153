"""What does a reader look at? Grids of samples, curves, the live view of a run, GIFs.

Images come in as float32 in [-1, 1]; only this room converts them to pixels.
"""

import base64
import html
import math
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np

from ganutils import checks, files

REAL, FAKE = "tab:blue", "tab:orange"  # the colors of real and generated in every figure


def to_uint8(images):
    """Convert images from [-1, 1] to pixels.

    Args:
        images: float array or tensor of any shape, values in [-1, 1].

    Returns:
        uint8 array of the same shape; -1 becomes 0 and 1 becomes 255.

    Raises:
        TypeError: the images are not floats.
        ValueError: a value is NaN or outside [-1, 1].
    """
    images = checks.as_array(images, "images")
    if images.dtype.name == "bfloat16":
        images = images.astype(np.float32)
    if images.dtype.kind != "f":
        raise TypeError(
            f"images must be floats in [-1, 1], not {images.dtype}; "
            "divide pixels by 127.5, subtract 1."
        )
    if images.size and not (images.min() >= -1 and images.max() <= 1):  # NaN fails too
        raise ValueError(
            f"images must be in [-1, 1]; found {images.min():.4g} to {images.max():.4g}. "
            "Divide pixels of 0 to 255 by 127.5 and subtract 1."
        )
    return np.round((images + 1) * 127.5).astype(np.uint8)


def tile(images, *, columns=None, gap=1):
    """Lay images side by side in one picture, row by row.

    Args:
        images: (count, height, width, 1 or 3), values in [-1, 1].
        columns: images in a row, 1 or more; the square root of count, rounded up, where None.
        gap: white pixels between images, 0 or more.

    Returns:
        uint8 array (rows * (height + gap) - gap, columns * (width + gap) - gap), with a last axis
        of 3 for color images.

    Raises:
        TypeError: images are not floats, or a number is no integer.
        ValueError: images have another shape or range, columns is below 1, gap below 0, or the
            picture would have more than 100 million pixels.
    """
    pixels = to_uint8(images)
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not pixels.size:
        raise ValueError(f"images must be (count, height, width, 1 or 3); found {pixels.shape}.")
    gap = checks.as_integer(gap, "gap", low=0, high=2**63)
    columns = math.ceil(math.sqrt(len(pixels))) if columns is None else columns
    columns = checks.as_integer(columns, "columns", low=-(2**63), high=2**63)
    if columns < 1:
        raise ValueError(f"columns must be at least 1; found {columns}.")
    rows = math.ceil(len(pixels) / columns)
    _, height, width, channels = pixels.shape
    if (area := rows * (height + gap) * columns * (width + gap)) > 10**8:
        raise ValueError(f"{columns=} and {gap=} make {area:,} pixels of it; take fewer images.")
    picture = np.full((rows * (height + gap), columns * (width + gap), channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    picture = picture[: picture.shape[0] - gap, : picture.shape[1] - gap]
    return picture[..., 0] if channels == 1 else picture


def draw_images(axes, images, *, columns=None, title=None):
    """Draw a grid of images in given axes.

    Args:
        axes: matplotlib axes.
        images: (count, height, width, 1 or 3), values in [-1, 1].
        columns: as in `tile`.
        title: text above the grid.

    Raises:
        TypeError, ValueError: as `tile` does.
    """
    axes.imshow(tile(images, columns=columns), cmap="gray", vmin=0, vmax=255)
    axes.set_title(title)
    axes.axis("off")


def show_images(images, *, columns=None, title=None, zoom=1.5):
    """Show a grid of images as one figure.

    Args:
        images: (count, height, width, 1 or 3), values in [-1, 1].
        columns: as in `tile`.
        title: text above the grid.
        zoom: size on the page, in hundredths of an inch per pixel of the grid, > 0.

    Raises:
        TypeError, ValueError: as `tile` does, or zoom is no number above 0, or makes a page of
            more than 650 inches.
    """
    height, width = tile(images, columns=columns).shape[:2]
    zoom = checks.as_positive(zoom, "zoom")
    if zoom * max(height, width) > 65_000:  # where matplotlib's canvas ends, at 100 dots an inch
        raise ValueError(f"{zoom=} makes a page of {zoom * max(height, width) / 100:.4g} inches.")
    figure, axes = plt.subplots(
        figsize=(max(width * zoom / 100, 2), height * zoom / 100 + 0.4), layout="constrained"
    )
    draw_images(axes, images, columns=columns, title=title)
    plt.show()
    if not plt.isinteractive():
        plt.close(figure)  # or a script would keep every one; a notebook closes its own


def draw_curves(axes, history, names, *, lines=(), window=1):
    """Draw named values of a history against the step, with horizontal lines where theory has them.

    Args:
        axes: matplotlib axes.
        history: dict from name to list with one float for each step.
        names: up to four keys of `history` to draw, discriminator (or real) first; one that it
            has not yet is drawn without points.
        lines: pairs (height, label) of horizontal lines.
        window: steps averaged into one point of a curve, 1 or more.

    Raises:
        TypeError: names is a single string, values or heights are no numbers, or window no integer.
        ValueError: more than four names, values not one a step or beyond 1e300, heights not
            finite, lines that are no pairs, or window below 1.
    """
    window = checks.as_integer(window, "window", low=1, high=2**63)
    if isinstance(names, str):
        raise TypeError(f"names must be a list of names, not {names!r} alone.")
    names, colors = list(names), (REAL, FAKE, "tab:green", "tab:red")
    if len(names) > len(colors):
        raise ValueError(f"names must be at most {len(colors)}, not {names}.")
    curves = [_as_curve(history.get(name, ()), name) for name in names]
    lines = [(_as_curve([height], "lines")[0], label) for height, label in lines]
    if not np.isfinite([height for height, _ in lines]).all():
        raise ValueError(f"lines must be at finite heights, not {lines}.")
    for name, color, values in zip(names, colors, curves, strict=False):
        width = max(1, min(window, len(values)))
        means = np.convolve(values, np.ones(width) / width, "valid") if len(values) else values
        axes.plot(np.arange(len(means)) + width, means, color=color, label=name, linewidth=1)
    for height, label in lines:
        axes.axhline(height, color="gray", linestyle=":", linewidth=1)
        axes.annotate(f" {label}", (1, height), xycoords=("axes fraction", "data"), va="center")
    axes.set_xlabel("step")
    if names:
        axes.legend()


def _as_curve(values, name):
    values = checks.as_array(values, name)
    if values.ndim != 1:
        raise ValueError(f"{name} must hold one number a step, not the shape {values.shape}.")
    if values.size and values.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold numbers, not {values.dtype}.")
    values = values.astype(float)
    if (np.abs(values[np.isfinite(values)]) > 1e300).any():
        raise ValueError(f"{name} holds values beyond 1e300, which no axis can show.")
    return values


LOSS_LINES = ((2 * math.log(2), "2 log 2"), (math.log(2), "log 2"))


def draw_history(loss_axes, output_axes, history):
    """Draw the losses, with the values they take when D cannot tell, and D's mean outputs.

    Args:
        loss_axes: matplotlib axes for d_loss and g_loss.
        output_axes: matplotlib axes for d_real and d_fake, the mean D(x) and D(G(z)).
        history: dict from name to list with one float for each step.

    Raises:
        TypeError, ValueError: values are no numbers, not one a step, or beyond 1e300.
    """
    losses = checks.as_array(history.get("d_loss", ()), "d_loss")
    window = max(1, losses.size // 200)
    draw_curves(loss_axes, history, ("d_loss", "g_loss"), lines=LOSS_LINES, window=window)
    loss_axes.set_title("losses")
    draw_curves(output_axes, history, ("d_real", "d_fake"), lines=[(0.5, "1/2")], window=window)
    output_axes.set(ylim=(0, 1), title="D(real) and D(fake)")


def _running_cell():
    """Number of the notebook's running cell, anew each time it is run; None outside a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell.execution_count if hasattr(shell, "kernel") else None


class LiveView:
    """A callback for `training.train`: one figure that follows the run and updates in place.

    It shows samples from fixed latents, the losses with their theoretical lines, D(real) and
    D(fake), the step and the time left. Outside a notebook it draws nothing; `train` shows a bar.

    Args:
        sample: function of no argument -> images (count, height, width, 1 or 3) in [-1, 1].
        columns: images in a row of the grid.
    """

    def __init__(self, sample, *, columns=None):
        self.sample, self.columns, self.handle, self.cell = sample, columns, None, None

    def __call__(self, progress):
        if (cell := _running_cell()) is None:
            return
        from IPython.display import display

        images = self.sample()
        figure, axes = plt.subplots(
            1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=(1, 1.2, 1.2)
        )
        draw_images(axes[0], images, columns=self.columns, title="samples, fixed latents")
        draw_history(axes[1], axes[2], progress.history)
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        done = progress.step == progress.steps
        left = "done" if done else f"about {minutes} min {seconds:02d} s left"
        figure.suptitle(f"step {progress.step:,} of {progress.steps:,}, {left}")
        if self.handle is None or self.cell != cell:  # after an interruption, the old one is gone
            self.handle, self.cell = display(figure, display_id=True), cell
        else:
            self.handle.update(figure)
        plt.close(figure)  # or the notebook would show it once more
        if done:
            self.handle = None  # a later run in another cell gets a figure of its own


def save_figure(figure, path, **options):
    """Save a matplotlib figure as a file.

    Args:
        figure: matplotlib figure.
        path: file to write, whole or not at all; its suffix names the format: .png, .svg, .pdf.
        options: as for matplotlib's `Figure.savefig`, such as dpi.

    Returns:
        The path, as a `pathlib.Path`.

    Raises:
        ValueError: matplotlib writes no format of that suffix.
        OSError: disk full, no permission, no such folder; says what to do. An older file is intact.
    """
    path, known = Path(path), figure.canvas.get_supported_filetypes()
    if (suffix := path.suffix[1:].lower()) not in known:
        raise ValueError(f"{path} must end in a format of matplotlib's: .{', .'.join(known)}.")
    with files.whole_file(path) as file:
        figure.savefig(file, format=suffix, **options)
    return path


def write_gif(path, frames, *, milliseconds=100, hold=1500):
    """Write frames as a GIF that loops forever and holds its last frame.

    Equal neighbors are stored once, for the sum of their times.

    Args:
        path: file to write; written whole or not at all.
        frames: sequence of uint8 arrays of one shape, (height, width) or (height, width, 3).
        milliseconds: how long a frame stays; a GIF counts in steps of 10 ms, and browsers slow down
            anything below 20 ms.
        hold: how long the last frame stays, in milliseconds.

    Returns:
        The path, as a `pathlib.Path`.

    Raises:
        TypeError: frames are no sequence, or a duration is no number.
        ValueError: no frames, frames of another type or of different shapes, a side above 65,535
            pixels, or a duration that is not a multiple of 10 ms in 20..655,350 ms.
        OSError: disk full, no permission, no such folder; says what to do. An older file is intact.
    """
    path, frames = Path(path), [np.asarray(frame) for frame in frames]
    shape = frames[0].shape if frames else ()
    drawable = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if not drawable or any(f.dtype != np.uint8 or f.shape != shape for f in frames):
        raise ValueError("frames must be uint8, all (height, width) or (height, width, 3).")
    if max(shape) > 65_535 or any(
        not 20 <= ms <= 655_350 or ms % 10 for ms in (milliseconds, hold)
    ):
        raise ValueError(
            f"{milliseconds=} and {hold=} must be multiples of 10 in 20..655350, and no side of "
            f"{shape} above 65535."
        )
    durations = [milliseconds] * (len(frames) - 1) + [hold] if len(frames) > 1 else hold
    with files.whole_file(path) as file:
        imageio.imwrite(file, frames, extension=".gif", duration=durations, loop=0)
    return path


def show_gif(path, *, alt):
    """Embed a GIF in the page, so that it plays in a notebook and in a page made from it.

    Args:
        path: the GIF file.
        alt: what the animation shows, in words, for readers who cannot see it.

    Raises:
        OSError: the file is missing, or cannot be read.
    """
    from IPython.display import HTML, display

    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    display(HTML(f'<img src="data:image/gif;base64,{encoded}" alt="{html.escape(alt)}">'))
