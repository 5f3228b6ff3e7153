"""What is in BigGAN? A class in every layer, a look at the whole image, kernels kept apart.

Its generator takes latents with one-hot classes behind them, as `latents.join_classes` makes them.
So the game, the discriminator and the draws of `conditional` serve it as they are, and so does
`latent_directions.truncated_latents`.
"""

import math

import keras
import tensorflow as tf
from keras import layers

from ganutils import runtime, validation
from ganutils.layers import FusedBatchNormalization
from ganutils.networks import normal_init, smallest_map, upsample_conv


def class_norm_relu(x, condition):
    """Batch normalization, scaled and shifted as a condition says, then ReLU.

    Of maps (batch, height, width, channels) and conditions (batch, units): scale and offset of a
    channel are linear in the condition, beside those that the normalization has for all.

    Brock et al. 2019, arXiv 1809.11096, section 3.1; Dumoulin et al. 2017, arXiv 1610.07629.
    """
    faint = {"use_bias": False, "kernel_initializer": normal_init}
    scale, offset = (
        layers.Reshape((1, 1, x.shape[-1]))(layers.Dense(x.shape[-1], **faint)(condition))
        for _ in range(2)
    )
    x = FusedBatchNormalization()(x)
    return layers.ReLU()(x + x * scale + offset)


def self_attention(x):
    """Add to each place of a map a mean of places all over it, weighted by how well they match.

    Maps (batch, height, width, channels), 8 channels or more; height and width must halve (else
    ValueError). At the start nothing is added: the last convolution is 0 then, where the paper
    has a factor of 0.

    Zhang et al. 2019, arXiv 1805.08318, section 3; keys and values from every 2x2 places, as in its
    program.
    """
    if x.shape[1] % 2 or x.shape[2] % 2 or x.shape[3] < 8:
        raise ValueError(f"{x.shape=}: sides must halve, and there must be 8 channels or more.")
    _, height, width, channels = x.shape

    def project(units, pooled):
        y = layers.Conv2D(units, 1, use_bias=False, kernel_initializer=normal_init)(x)
        y = layers.MaxPooling2D(2)(y) if pooled else y
        return layers.Reshape((-1, units))(y)

    query, key = project(channels // 8, pooled=False), project(channels // 8, pooled=True)
    value = project(channels // 2, pooled=True)
    seen = layers.Reshape((height, width, channels // 2))(layers.Attention()([query, value, key]))
    last = layers.Conv2D(channels, 1, use_bias=False, kernel_initializer="zeros")
    return layers.Add()([x, last(seen)])


def attend_at(side, after=keras.activations.linear):
    """Make a function of maps: `after`, and behind it self-attention where they are `side` high.

    What the builders of `networks` take as after_conv, and `biggan_generator` as attend.
    """

    def attend(x):
        x = after(x)
        return self_attention(x) if x.shape[1] == side else x

    return attend


def biggan_generator(
    latent_dim,
    image_shape,
    classes,
    *,
    embedding=32,
    widths=(64, 64, 16),
    scales=(2, 2, 1),
    attend=keras.activations.linear,
):
    """Generator in which latents and class enter at the start and in each normalization.

    One embedding of the class serves all of them; all get the whole latent vector.

    Args:
        latent_dim, image_shape, widths, scales: as for `networks.dcgan_generator`.
        classes: how many there are, 2 or more.
        embedding: units of the vector that stands for a class. It starts with length 1, that of a
            one-hot class: beside much longer ones the latents are not heard.
        attend: follows each hidden convolution, such as `attend_at` makes.

    Returns:
        Model from (batch, latent_dim + classes), such as `latents.join_classes` makes, to images
        (batch, *image_shape) in [-1, 1]. ValueError where scales do not divide the image.

    Brock et al. 2019, arXiv 1809.11096, section 3.1 and appendix B (BigGAN-deep for the latents),
    with plain convolutions in place of residual blocks.
    """
    classes = validation.as_integer(classes, "classes", low=2, high=10**5)
    start = smallest_map(image_shape, widths, scales)
    common = {"use_bias": False, "kernel_initializer": normal_init}
    inputs = keras.Input((latent_dim + classes,))
    # Not Keras' own embedding: rows of shares, such as mixtures of classes, are welcome, too.
    asked = layers.Dense(
        embedding, use_bias=False, kernel_initializer="orthogonal", name="embedding"
    )
    condition = layers.Concatenate()([inputs[:, :latent_dim], asked(inputs[:, latent_dim:])])
    x = layers.Reshape(start)(layers.Dense(math.prod(start), **common)(condition))
    x = class_norm_relu(x, condition)
    for filters, scale in zip(widths[1:], scales[:-1], strict=True):
        x = upsample_conv(x, filters, scale, kernel_size=3, **common)
        x = attend(class_norm_relu(x, condition))
    x = upsample_conv(x, image_shape[-1], scales[-1], kernel_size=3, dtype="float32", **common)
    return keras.Model(inputs, layers.Activation("tanh", dtype="float32")(x), name="generator")


def orthogonal_penalty(kernel):
    """Squared entries of W^T W beside the diagonal: 0 where columns are orthogonal, of any length.

    kernel: (..., columns), taken as a matrix W of so many columns. The sum over all entries is that
    over W W^T, too, so the smaller of both is multiplied out.

    Brock et al. 2019, arXiv 1809.11096, equation 3 without beta, which is 1e-4 there.
    """
    matrix = tf.reshape(kernel, (-1, kernel.shape[-1]))
    tall = matrix.shape[0] > matrix.shape[1]
    gram = tf.matmul(matrix, matrix, transpose_a=tall, transpose_b=not tall)
    diagonal = tf.reduce_sum(tf.square(matrix), axis=0)
    return tf.reduce_sum(tf.square(gram)) - tf.reduce_sum(tf.square(diagonal))


def with_standing_statistics(generator, batches):
    """Copy a generator in float32, its batch normalizations' statistics taken anew.

    Args:
        generator: its weights stay as they are; so do its own statistics.
        batches: one input or more, each of equally many rows, drawn as those that will be asked
            for. The statistics become the means of theirs.

    Brock et al. 2019, arXiv 1809.11096, appendix ("standing statistics").
    """
    copy = runtime.in_float32(generator)
    norms = [layer for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for count, inputs in enumerate(batches):
        for norm in norms:
            norm.momentum = count / (count + 1)  # what the mean of so many keeps
        copy(inputs, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return copy
