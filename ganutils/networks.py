"""What are G and D made of? Builders that take sizes as arguments and start with `keras.Input`.

What follows a convolution or a dense layer (normalization, activation, dropout) is passed in as a
function of a tensor, so one builder makes all the classic designs. Discriminators end in logits.
The last layer computes in float32 whatever the dtype policy says.
"""

import math

import keras
from keras import layers

from ganutils.layers import FusedBatchNormalization, UpsampleConv2D

# A configuration, not an instance: an instance draws its seed once, when it is made, so every layer
# of one shape would start with the same weights, whatever the seed of the run.
normal_init = {"class_name": "RandomNormal", "config": {"stddev": 0.02}}


def leaky_relu(x):
    """LeakyReLU of slope 0.2 for negative inputs, any shape."""
    return layers.LeakyReLU(negative_slope=0.2)(x)


def bn_relu(x):
    """Batch normalization, then ReLU, (batch, channels) or (batch, height, width, channels)."""
    return layers.ReLU()(FusedBatchNormalization()(x))


def mlp_generator(
    latent_dim, image_shape, *, widths=(256, 512, 1024), after_dense=keras.activations.relu
):
    """Fully connected generator: latent -> hidden layers -> tanh image.

    Args:
        latent_dim: length of one latent vector.
        image_shape: (height, width, channels) of the images.
        widths: units of each hidden layer.
        after_dense: function of a tensor, applied after each hidden layer.

    Returns:
        `keras.Model` from (batch, latent_dim) to (batch, *image_shape) in [-1, 1].
    """
    z = keras.Input((latent_dim,))
    x = z
    for width in widths:
        x = after_dense(layers.Dense(width)(x))
    x = layers.Dense(math.prod(image_shape), activation="tanh", dtype="float32")(x)
    return keras.Model(z, layers.Reshape(image_shape, dtype="float32")(x), name="generator")


def mlp_discriminator(image_shape, *, widths=(512, 256), after_dense=leaky_relu):
    """Fully connected discriminator: image -> hidden layers -> one logit.

    Args:
        image_shape: (height, width, channels) of the images.
        widths: units of each hidden layer.
        after_dense: function of a tensor, applied after each hidden layer.

    Returns:
        `keras.Model` from (batch, *image_shape) in [-1, 1] to logits (batch, 1), positive for real.
    """
    image = keras.Input(image_shape)
    x = layers.Flatten()(image)
    for width in widths:
        x = after_dense(layers.Dense(width)(x))
    return keras.Model(image, layers.Dense(1, dtype="float32")(x), name="discriminator")


def unchanged(x):
    """The tensor itself, where a builder may do something and does nothing."""
    return x


def point_network(
    inputs,
    outputs,
    *,
    widths=(64, 64, 64),
    dense=layers.Dense,
    after_dense=keras.activations.relu,
    first=unchanged,
    last=unchanged,
):
    """Fully connected network on points of a line or a plane: a toy generator or discriminator.

    All its layers, the last one too, follow the dtype policy.

    Args:
        inputs: dimensions of a point (or of a latent).
        outputs: dimensions of the result; 1 for a logit or a score.
        widths: units of each hidden layer.
        dense: function (units) -> layer; makes every dense layer, the last one included.
        after_dense: function of a tensor (batch, units), applied after each hidden layer.
        first: function of a tensor, applied to the input.
        last: function of a tensor, applied to the last hidden layer's result.

    Returns:
        `keras.Model` from (batch, inputs) to (batch, outputs), unbounded; (batch / size, outputs)
        where `first` packs `size` points together.
    """
    point = keras.Input((inputs,))
    x = first(point)
    for width in widths:
        x = after_dense(dense(width)(x))
    return keras.Model(point, dense(outputs)(last(x)))


def transposed_conv(x, filters, scale, **conv):
    """Enlarge by a transposed convolution whose stride is the scale.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        scale: factor by which height and width grow, an integer >= 1.
        conv: further arguments of `keras.layers.Conv2DTranspose`.

    Returns:
        (batch, height * scale, width * scale, filters).
    """
    return layers.Conv2DTranspose(filters, strides=scale, padding="same", **conv)(x)


def upsample_conv(x, filters, scale, **conv):
    """Enlarge by repeating pixels, then convolve: every output pixel is covered equally often.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        scale: factor by which height and width grow, an integer >= 1.
        conv: further arguments of `layers.UpsampleConv2D`, kernel_size among them.

    Returns:
        (batch, height * scale, width * scale, filters).

    Source: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts", Distill.
    """
    return UpsampleConv2D(filters, scale=scale, **conv)(x)


def smallest_map(image_shape, widths, scales):
    """Shape of the map that a convolutional generator starts from.

    Args:
        image_shape: (height, width, channels) of the images.
        widths: channels of the hidden maps, from the smallest map on.
        scales: factor of each convolution, as many as widths.

    Returns:
        (height / product of scales, width / product of scales, widths[0]).

    Raises:
        ValueError: scales are not as many as widths, or do not divide the image's sides.
    """
    height, width, _ = image_shape
    factor = math.prod(scales)
    if len(scales) != len(widths) or height % factor or width % factor:
        raise ValueError(f"{scales=} must be as many as {widths=} and divide {image_shape=}.")
    return height // factor, width // factor, widths[0]


def dcgan_generator(
    latent_dim,
    image_shape,
    *,
    widths=(64, 64, 16),
    scales=(2, 2, 1),
    enlarge=upsample_conv,
    kernel_size=3,
    after_dense=bn_relu,
    after_conv=bn_relu,
    use_bias=False,
    kernel_initializer=normal_init,
):
    """Convolutional generator: latent -> small map of many channels -> ... -> tanh image.

    The dense layer makes a map of widths[0] channels. Convolution i enlarges it by scales[i]; the
    last convolution makes the image, those before it widths[1:] channels. The defaults are the
    course's own DCGAN.

    Args:
        latent_dim: length of one latent vector.
        image_shape: (height, width, channels); height and width divisible by the product of scales.
        widths: channels of the hidden maps, from the smallest map on.
        scales: factor of each convolution, as many as widths.
        enlarge: `upsample_conv` or `transposed_conv`.
        kernel_size: side of every kernel in pixels.
        after_dense: function of a tensor (batch, units), applied after the dense layer.
        after_conv: function of a tensor (batch, height, width, channels), applied after each
            hidden convolution.
        use_bias: whether dense layer and convolutions have a bias (batch normalization has one).
        kernel_initializer: of every kernel.

    Returns:
        `keras.Model` from (batch, latent_dim) to (batch, *image_shape) in [-1, 1].

    Raises:
        ValueError: scales do not fit widths or image_shape.

    Source: Radford et al. 2016, arXiv 1511.06434, section 3.
    """
    start = smallest_map(image_shape, widths, scales)
    common = {"use_bias": use_bias, "kernel_initializer": kernel_initializer}
    z = keras.Input((latent_dim,))
    x = after_dense(layers.Dense(math.prod(start), **common)(z))
    x = layers.Reshape(start)(x)
    for filters, scale in zip(widths[1:], scales[:-1], strict=True):
        x = after_conv(enlarge(x, filters, scale, kernel_size=kernel_size, **common))
    x = enlarge(x, image_shape[-1], scales[-1], kernel_size=kernel_size, dtype="float32", **common)
    return keras.Model(z, layers.Activation("tanh", dtype="float32")(x), name="generator")


def dcgan_discriminator(
    image_shape,
    *,
    widths=(32, 64),
    kernel_size=5,
    after_conv=leaky_relu,
    kernel_initializer=normal_init,
):
    """Convolutional discriminator: each convolution of stride 2 halves the map; then one logit.

    Args:
        image_shape: (height, width, channels) of the images.
        widths: channels of each convolution.
        kernel_size: side of every kernel in pixels.
        after_conv: function of a tensor (batch, height, width, channels), applied after each
            convolution.
        kernel_initializer: of every kernel.

    Returns:
        `keras.Model` from (batch, *image_shape) in [-1, 1] to logits (batch, 1), positive for real.

    Source: Radford et al. 2016, arXiv 1511.06434, section 3.
    """
    common = {"padding": "same", "kernel_initializer": kernel_initializer}
    image = keras.Input(image_shape)
    x = image
    for filters in widths:
        x = after_conv(layers.Conv2D(filters, kernel_size, strides=2, **common)(x))
    logit = layers.Dense(1, dtype="float32", kernel_initializer=kernel_initializer)
    return keras.Model(image, logit(layers.Flatten()(x)), name="discriminator")


def with_heads(network, *sizes):
    """Replace a network's last layer by one or more dense layers side by side, each in float32.

    A discriminator becomes one that also classifies, or an encoder. The layers before the last one
    are shared with `network`, not copied; its own last layer is left out.

    Args:
        network: model whose last layer takes features (batch, units), as the discriminators here.
        sizes: outputs of each new layer, >= 1; at least one of them.

    Returns:
        `keras.Model` from the network's input to (batch, sizes[0]), unbounded, or to a list of such
        outputs where there are several sizes.

    Raises:
        ValueError: no size is given, or one is below 1.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{sizes=} must name one output or more for each head.")
    features, common = network.layers[-1].input, {"kernel_initializer": normal_init}
    heads = [layers.Dense(size, dtype="float32", **common)(features) for size in sizes]
    return keras.Model(network.input, heads if len(heads) > 1 else heads[0])
