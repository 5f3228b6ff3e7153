"""What are G and D made of? Builders that take sizes as arguments and start with `keras.Input`.

What follows a convolution or a dense layer (normalization, activation, dropout) is passed in as a
function of a tensor, so one builder makes all the classic designs. The last layers of generators
and discriminators compute in float32 whatever the dtype policy says.
"""

import math

import keras
from keras import layers

from ganutils import validation
from ganutils.layers import FusedBatchNormalization, UpsampleConv2D

# A configuration, not an instance: an instance draws its seed once, when it is made, so every layer
# of one shape would start with the same weights, whatever the seed of the run.
normal_init = {"class_name": "RandomNormal", "config": {"stddev": 0.02}}


def bn_relu(x):
    """Batch normalization, then ReLU, (batch, channels) or (batch, height, width, channels)."""
    return layers.ReLU()(FusedBatchNormalization()(x))


def mlp_generator(
    latent_dim, image_shape, *, widths=(256, 512, 1024), after_dense=keras.activations.relu
):
    """Fully connected generator: latent -> hidden layers of `widths` units -> tanh image.

    Returns a model from (batch, latent_dim) to (batch, *image_shape) in [-1, 1], where image_shape
    is (height, width, channels); after_dense follows each hidden layer.
    """
    validation.check_image_shape(image_shape)
    z = keras.Input((latent_dim,))
    x = z
    for width in widths:
        x = after_dense(layers.Dense(width)(x))
    x = layers.Dense(math.prod(image_shape), activation="tanh", dtype="float32")(x)
    return keras.Model(z, layers.Reshape(image_shape, dtype="float32")(x), name="generator")


def mlp_discriminator(image_shape, *, widths=(512, 256), after_dense=keras.ops.leaky_relu):
    """Fully connected discriminator: image -> hidden layers of `widths` units -> one logit.

    Returns a model from (batch, *image_shape) to logits (batch, 1), positive for real; after_dense
    follows each hidden layer.
    """
    validation.check_image_shape(image_shape)
    image = keras.Input(image_shape)
    x = layers.Flatten()(image)
    for width in widths:
        x = after_dense(layers.Dense(width)(x))
    return keras.Model(image, layers.Dense(1, dtype="float32")(x), name="discriminator")


def point_network(
    inputs,
    outputs,
    *,
    widths=(64, 64, 64),
    dense=layers.Dense,
    after_dense=keras.activations.relu,
    first=keras.activations.linear,
    last=keras.activations.linear,
):
    """Fully connected network on points of a line or a plane: a toy generator or discriminator.

    Args:
        inputs, outputs: dimensions of a point (or a latent) and of the result.
        widths: units of each hidden layer.
        dense: function (units) -> layer; makes every dense layer, the last one included.
        after_dense: applied after each hidden layer.
        first: applied to the input, such as `mode_collapse.Pack`.
        last: applied to the last hidden layer's result.

    Returns:
        Model from (batch, inputs) to (batch, outputs), unbounded. All its layers follow the policy.
    """
    point = keras.Input((inputs,))
    x = first(point)
    for width in widths:
        x = after_dense(dense(width)(x))
    return keras.Model(point, dense(outputs)(last(x)))


def transposed_conv(x, filters, scale, **conv):
    """Enlarge (batch, height, width, channels) by a transposed convolution of stride `scale`.

    conv: further arguments of `keras.layers.Conv2DTranspose`, kernel_size among them.
    """
    return layers.Conv2DTranspose(filters, strides=scale, padding="same", **conv)(x)


def upsample_conv(x, filters, scale, **conv):
    """Enlarge by repeating pixels, then convolve: every output pixel is covered equally often.

    conv: further arguments of `layers.UpsampleConv2D`, kernel_size among them.

    Odena et al. 2016, "Deconvolution and Checkerboard Artifacts", Distill.
    """
    return UpsampleConv2D(filters, scale=scale, **conv)(x)


def smallest_map(image_shape, widths, scales):
    """Shape of the map that a convolutional generator starts from: the sides over all scales."""
    validation.check_image_shape(image_shape)
    if len(scales) != len(widths) or any(side % math.prod(scales) for side in image_shape[:2]):
        raise ValueError(f"{scales=} must be as many as {widths=} and divide {image_shape=}.")
    height, width, _ = image_shape
    factor = math.prod(scales)
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

    Args:
        latent_dim: length of one latent vector.
        image_shape: (height, width, channels); height and width divisible by the product of scales.
        widths: channels of the hidden maps: the dense layer's, then one for each convolution but
            the last, which makes the image.
        scales: factor by which each convolution enlarges; as many as widths.
        enlarge: `upsample_conv` or `transposed_conv`.
        after_dense, after_conv: applied after the dense layer, after each hidden convolution.
        use_bias: not needed before batch normalization, which has one.

    Returns:
        Model from (batch, latent_dim) to (batch, *image_shape) in [-1, 1].

    Radford et al. 2016, arXiv 1511.06434, section 3; the sizes are the course's own.
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
    dense_widths=(),
    after_conv=keras.ops.leaky_relu,
    after_dense=keras.ops.leaky_relu,
    kernel_initializer=normal_init,
):
    """Convolutional discriminator: each convolution of stride 2 halves the map; then one logit.

    Args:
        image_shape: (height, width, channels).
        widths: channels that each convolution makes.
        dense_widths: units of each hidden dense layer behind the convolutions; the paper has none.
        after_conv, after_dense: applied after each convolution, each hidden dense layer.

    Returns:
        Model from (batch, *image_shape) to logits (batch, 1), positive for real.

    Radford et al. 2016, arXiv 1511.06434, section 3.
    """
    validation.check_image_shape(image_shape)
    init = {"kernel_initializer": kernel_initializer}
    image = keras.Input(image_shape)
    x = image
    for filters in widths:
        x = after_conv(layers.Conv2D(filters, kernel_size, strides=2, padding="same", **init)(x))
    x = layers.Flatten()(x)
    for units in dense_widths:
        x = after_dense(layers.Dense(units, **init)(x))
    logit = layers.Dense(1, dtype="float32", **init)(x)
    return keras.Model(image, logit, name="discriminator")


def instance_norm_relu(x):
    """Instance normalization, then ReLU, (batch, height, width, channels).

    Each channel of each image by itself gets mean 0 and variance 1: a group normalization in which
    each channel is a group.

    Ulyanov et al. 2016, arXiv 1607.08022, equation 4.
    """
    return layers.ReLU()(layers.GroupNormalization(groups=-1, epsilon=1e-5)(x))


def residual_translator(
    image_shape, *, channels=None, widths=(32, 8), blocks=2, after_conv=instance_norm_relu
):
    """Generator from images to images: halve the map, change it in residual blocks, enlarge it.

    Args:
        image_shape: (height, width, channels), of even sides (else ValueError).
        channels: of the images that it draws; as many as it is given where None.
        widths: channels of the halved map, and of the enlarged one.
        blocks: residual blocks, of two convolutions each.
        after_conv: follows each convolution but the last.

    Returns:
        Model from (batch, *image_shape) to (batch, height, width, channels) in [-1, 1].

    Zhu et al. 2017, arXiv 1703.10593, section 7.2, with fewer and smaller layers.
    """
    validation.check_image_shape(image_shape)
    if image_shape[0] % 2 or image_shape[1] % 2:
        raise ValueError(f"{image_shape=}: height and width must halve evenly; crop or pad.")
    common = {"use_bias": False, "kernel_initializer": normal_init}
    image = keras.Input(image_shape)
    x = after_conv(layers.Conv2D(widths[0], 5, strides=2, padding="same", **common)(image))
    for _ in range(blocks):
        change = after_conv(layers.Conv2D(widths[0], 3, padding="same", **common)(x))
        change = after_conv(layers.Conv2D(widths[0], 3, padding="same", **common)(change))
        x = layers.Add()([x, change])
    x = after_conv(upsample_conv(x, widths[1], 2, kernel_size=3, **common))
    x = layers.Conv2D(channels or image_shape[-1], 3, padding="same", dtype="float32")(x)
    return keras.Model(image, layers.Activation("tanh", dtype="float32")(x), name="generator")


def with_heads(network, *sizes):
    """Replace a network's last layer by one or more dense layers side by side, each in float32.

    A discriminator becomes one that also classifies, or an encoder. The layers before the last one
    are shared with `network`, not copied.

    Returns a model from the network's input to (batch, sizes[0]), unbounded, or to a list of such
    outputs where there are several sizes.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{sizes=} must name one output or more for each head.")
    common = {"dtype": "float32", "kernel_initializer": normal_init}
    features = network.layers[-1].input
    heads = [layers.Dense(size, **common)(features) for size in sizes]
    return keras.Model(network.input, heads if len(heads) > 1 else heads[0])
