"""How does a trained generator leave the notebook? As a page that draws with it in a browser."""

import base64
import json
import textwrap
from pathlib import Path

import numpy as np
from keras import layers

from ganutils._atomic import whole_file
from ganutils.layers import UpsampleConv2D
from ganutils.validation import as_array, as_integer

LARGEST_SIDE = 64  # pixels, as in the page
LARGEST_PAGE = 1_000_000  # bytes


def describe_activation(operation):
    """An activation, or the one that a layer ends in, for the page: a list of one, or of none.

    None, no list, where the page does not know it.
    """
    name = getattr(getattr(operation, "activation", type(operation)), "__name__", "").lower()
    if name in ("linear", "tanh"):
        return [{"kind": name}] * (name == "tanh")
    plain = getattr(operation, "max_value", None) is None and not getattr(operation, "threshold", 0)
    if name not in ("relu", "leakyrelu") or not plain:
        return None
    return [{"kind": "relu", "slope": float(getattr(operation, "negative_slope", 0))}]


def describe_normalization(layer):
    """Batch normalization after training: the layer, and a factor and a shift for each channel."""
    if layer.axis not in (-1, len(layer.output.shape) - 1):
        return None, []
    gamma = 1.0 if layer.gamma is None else np.float64(layer.gamma.numpy())
    beta = 0.0 if layer.beta is None else np.float64(layer.beta.numpy())
    factor = gamma / np.sqrt(np.float64(layer.moving_variance.numpy()) + layer.epsilon)
    return [{"kind": "normalize"}], [
        factor,
        beta - factor * np.float64(layer.moving_mean.numpy()),
    ]


def describe_convolution(layer):
    """A convolution that enlarges, and its weights; (None, []) for a form the page does not know.

    The page's kernels are (size, size, inputs, outputs).
    """
    kernel, (size, *sides) = layer.kernel.numpy(), layer.kernel_size
    if isinstance(layer, UpsampleConv2D):
        kind, scale, plain = "upsample_conv", layer.scale, layer.groups == 1
    else:
        kind, (scale, *strides) = "transposed_conv", layer.strides
        plain = layer.padding == "same" and layer.output_padding is None and strides == [scale]
        kernel = np.swapaxes(kernel, 2, 3)
    if not plain or sides != [size] or set(layer.dilation_rate) != {1}:
        return None, []
    parts = {"kind": kind, "filters": layer.filters, "size": size, "scale": scale}
    return [parts | {"bias": layer.use_bias}], [kernel, layer.bias][: 1 + layer.use_bias]


def describe_layer(operation):
    """One operation of a generator: a list of the page's layers, and their weights in order.

    ValueError for one that the page does not know, or for a form of it.
    """
    described, weights, after = [], [], []
    match operation:
        case layers.InputLayer():
            pass
        case layers.Reshape():
            described = [{"kind": "reshape", "shape": list(operation.output.shape[1:])}]
        case layers.BatchNormalization():
            described, weights = describe_normalization(operation)
        case layers.Dense():
            described = [{"kind": "dense", "units": operation.units, "bias": operation.use_bias}]
            weights = [operation.kernel, operation.bias][: 1 + operation.use_bias]
            after = describe_activation(operation)
        case UpsampleConv2D() | layers.Conv2DTranspose():
            described, weights = describe_convolution(operation)
            after = describe_activation(operation)
        case _:
            after = describe_activation(operation)
    if described is None or after is None:
        raise ValueError(
            f"The page does not know {operation.name!r} ({type(operation).__name__}) as it is. It "
            "knows dense layers, batch normalization of channels, UpsampleConv2D, Conv2DTranspose "
            "with square kernels and padding 'same', Reshape, ReLU, leaky ReLU and tanh."
        )
    return described + after, weights


def describe_generator(generator):
    """The layers of a generator as the page reads them, and all its weights, float16 (count,).

    ValueError where layers do not simply follow one another, or weights do not fit into float16.
    """
    described, weights, before = [], [], None
    for operation in generator.operations:
        if before is not None and operation.input is not before.output:
            raise ValueError(f"{operation.name!r} does not simply follow {before.name!r}.")
        some, theirs = describe_layer(operation)
        described, weights, before = described + some, weights + theirs, operation
    flat = np.concatenate([np.ravel(np.asarray(array, np.float32)) for array in weights])
    largest = np.abs(flat).max()
    if not largest < np.finfo(np.float16).max:  # NaN fails this, too
        raise ValueError(f"The largest weight is {largest:.4g}; float16 ends at 65,504.")
    return described, flat.astype("<f2")


def check_directions(directions, latent_dim):
    """The directions, name to list of floats; ValueError for what is no direction of length 1."""
    arrays = {name: as_array(direction, name) for name, direction in directions.items()}
    for name, array in arrays.items():
        right = array.dtype.kind == "f" and array.shape == (latent_dim,)
        if not (name and right and abs(np.linalg.norm(array) - 1) < 1e-3):
            raise ValueError(f"direction {name!r} must be floats ({latent_dim},) of length 1.")
    return {name: np.round(array, 6).tolist() for name, array in arrays.items()}


def fill_block(page, name, text):
    """A page with the text in its script of this name; ValueError if it has no such script."""
    start, found, rest = page.partition(f'<script id="{name}"')
    tag, opened, rest = rest.partition(">\n")
    _, closed, rest = rest.partition("</script>")
    if not (found and opened and closed):
        raise ValueError(f"The template has no whole script {name!r}; take the course's page.")
    return f"{start}{found}{tag}{opened}{text}\n{closed}{rest}"


def write_digits_page(generator, directions, path, *, classes, template):
    """Write a page that opens from disk and draws digits with a conditional generator.

    Args:
        generator: model in float32 from (batch, latent_dim + classes) to gray images, (batch,
            height, width, 1) in [-1, 1], such as one of `networks.dcgan_generator`.
        directions: dict from names, such as "slant", to what `latent_directions.fit_direction`
            finds: floats (latent_dim,) of length 1. The page has a slider for each.
        path: the file to write, below 1 MB.
        classes: how many digits there are, 2 to 10.
        template: an older page, such as the course's pages/digits.html; its text and its script
            are taken over.

    ValueError for a generator, a direction or a template that does not fit; OSError from the disk.
    """
    classes = as_integer(classes, "classes", low=2, high=10)
    if len(generator.inputs) != 1 or not generator.input_shape[-1] > classes:
        raise ValueError(f"The generator must take latents, and {classes=} numbers behind them.")
    latent_dim, shape = generator.input_shape[-1] - classes, generator.output_shape[1:]
    if len(shape) != 3 or shape[2] != 1 or max(shape) > LARGEST_SIDE:
        largest = (LARGEST_SIDE, LARGEST_SIDE, 1)
        raise ValueError(f"The page draws gray images of at most {largest}, not {shape}.")
    described, weights = describe_generator(generator)
    model = {"latent_dim": latent_dim, "classes": classes, "image_shape": shape}
    model |= {"layers": described, "directions": check_directions(directions, latent_dim)}
    model = json.dumps(model, indent=1).replace("<", "\\u003c")
    text = Path(template).read_text(encoding="utf-8")
    text = fill_block(text, "model", model)
    text = fill_block(text, "weights", textwrap.fill(base64.b64encode(weights).decode(), 100))
    if len(content := text.encode()) > LARGEST_PAGE:
        raise ValueError(
            f"The page would have {len(content):,} bytes; make the generator narrower."
        )
    with whole_file(path) as file:
        file.write(content)
