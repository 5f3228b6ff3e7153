"""Where does a latent enter a generator? As a style, at every layer. Mapping, modulation, mixing.

A latent z is mapped to a style w. The synthesis network starts from one learned map, the same for
all images; at each of its places, the 3x3 convolutions, a style scales the channels and noise is
added. In an image of 28x28 pixels the places have 7, 14, 14, 28 and 28 rows.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import validation
from ganutils.latents import sample_classes, sample_latents
from ganutils.layers import UpsampleConv2D
from ganutils.networks import smallest_map

# Demodulation makes the size of a kernel harmless, and Adam turns a large one slowly.
style_init = {"class_name": "RandomNormal", "config": {"stddev": 0.2}}


@keras.saving.register_keras_serializable(package="ganutils")
class ModulatedConv(layers.Wrapper):
    """A convolution whose kernel a style scales, input channel by input channel.

    Scaling the maps in place of the kernel, and the result in place of the demodulated kernel, is
    the same function, and one convolution for the whole batch.

    Args:
        layer: `keras.layers.Conv2D` or `ganutils.layers.UpsampleConv2D`; where demodulated, without
            bias and activation.
        demodulate: divide each output channel by the length of its scaled kernel, so that maps of
            independent pixels of variance 1 give such maps.

    From maps (batch, height, width, channels) and styles (batch, style_dim) to what layer makes.

    Karras et al. 2020, arXiv 1912.04958, equations 1 to 3; as here, without grouped convolutions,
    in section 2.2 of the same.
    """

    def __init__(self, layer, *, demodulate=True, **settings):
        if not isinstance(layer, layers.Conv2D):
            raise TypeError(f"Wrap a Conv2D layer, or one derived from it, not {layer!r}.")
        if demodulate and (layer.use_bias or layer.activation is not keras.activations.linear):
            raise ValueError("Demodulation comes before bias and activation; wrap a bare layer.")
        super().__init__(layer, **settings)
        self.demodulate = demodulate
        self.to_scale = None

    def build(self, maps_shape, styles_shape):
        super().build(maps_shape)
        self.to_scale = layers.Dense(maps_shape[-1], dtype=self.dtype_policy, name="to_scale")
        self.to_scale.build(styles_shape)

    def call(self, maps, styles):
        scale = self.to_scale(styles)
        outputs = self.layer(maps * scale[:, None, None, :])
        if not self.demodulate:
            return outputs
        kernel, scale = (tf.cast(x, tf.float32) for x in (self.layer.kernel, scale))
        squares = tf.square(scale) @ tf.reduce_sum(tf.square(kernel), axis=[0, 1])
        return outputs * tf.cast(tf.math.rsqrt(squares + 1e-8), outputs.dtype)[:, None, None, :]

    def compute_output_shape(self, maps_shape, styles_shape):
        return self.layer.compute_output_shape(maps_shape)

    def get_config(self):
        return super().get_config() | {"demodulate": self.demodulate}


@keras.saving.register_keras_serializable(package="ganutils")
class MinibatchDeviation(layers.Layer):
    """Appends to each example one number more: how much the examples of its group differ.

    That is the deviation over the group, meaned over all that an example holds. A discriminator
    that sees it can object to images that are all alike. Give real and fake ones batches of their
    own.

    Args:
        size: examples in a group, an integer >= 2 that divides the batch.

    Input (batch, ..., channels), output (batch, ..., channels + 1).

    Karras et al. 2018, arXiv 1710.10196, section 3.
    """

    def __init__(self, size=4, **settings):
        size = validation.as_integer(size, "size", low=2, high=10**6)
        super().__init__(**settings)
        self.size = size

    def call(self, inputs):
        shape, axes = tf.shape(inputs), list(range(1, inputs.shape.rank))
        groups = tf.reshape(tf.cast(inputs, tf.float32), tf.concat([[-1, self.size], shape[1:]], 0))
        deviation = tf.sqrt(tf.math.reduce_variance(groups, axis=1) + 1e-8)
        number = tf.repeat(tf.reduce_mean(deviation, axis=axes, keepdims=True), self.size, axis=0)
        appended = tf.cast(number, inputs.dtype) * tf.ones_like(inputs[..., :1])
        return tf.concat([inputs, appended], axis=-1)

    def get_config(self):
        return super().get_config() | {"size": self.size}


def leaky_deviation(x):
    """A leaky ReLU, then `MinibatchDeviation`: what may follow a convolution of D."""
    return MinibatchDeviation()(keras.ops.leaky_relu(x))


def mapping_network(latent_dim, *, widths=(64, 64)):
    """Dense network from latents (batch, latent_dim), of whatever length, to styles w.

    Returns a model to (batch, widths[-1]), named mapping; of z only the direction enters.

    Karras et al. 2019, arXiv 1812.04948, section 2, with 8 layers of 512 units.
    """
    z = keras.Input((latent_dim,))
    w = keras.ops.rms_normalization(z)
    for width in widths:
        w = keras.ops.leaky_relu(layers.Dense(width, kernel_initializer="he_normal")(w))
    return keras.Model(z, w, name="mapping")


def synthesis_network(style_dim, image_shape, *, widths=(64, 64, 32)):
    """Network that draws from styles and noise; it starts from a learned map.

    Args:
        style_dim: length of a style.
        image_shape: (height, width, channels); the sides must halve len(widths) - 1 times.
        widths: channels at each resolution: one place at the smallest, two at each other one.

    Returns:
        Model, named synthesis, from [styles (batch, places, style_dim), noise (batch, numbers)] to
        images in [-1, 1]: a standard normal number for each pixel of each place.

    Karras et al. 2020, arXiv 1912.04958, figure 2d, with fewer and smaller layers, a tanh at the
    end, and no skips.
    """
    start = smallest_map(image_shape, widths, [1] + [2] * (len(widths) - 1))
    places = [(widths[0], 1)] + [(width, scale) for width in widths[1:] for scale in (2, 1)]
    factors = np.cumprod([scale for _, scale in places])
    sizes = [(int(f) * start[0], int(f) * start[1], 1) for f in factors]
    ends = np.cumsum([math.prod(size) for size in sizes]).tolist()
    styles, noise = keras.Input((len(places), style_dim)), keras.Input((ends[-1],))
    bare = {"kernel_initializer": style_init, "use_bias": False}
    five = 5 * keras.ops.ones_like(noise[:, :1])  # the map starts with deviation 1, and learns fast
    x = layers.Reshape(start)(layers.Dense(math.prod(start), **bare)(five))
    pieces = keras.ops.split(noise, ends[:-1], axis=1)
    for place, ((filters, scale), size) in enumerate(zip(places, sizes, strict=True)):
        conv = UpsampleConv2D(filters, 3, scale=scale, **bare)
        x = ModulatedConv(conv)(x, styles[:, place])
        strengths = layers.Conv2D(filters, 1, kernel_initializer="zeros")
        x = keras.ops.leaky_relu(x + strengths(layers.Reshape(size)(pieces[place])))
    last = layers.Conv2D(image_shape[-1], 1, dtype="float32")
    x = ModulatedConv(last, demodulate=False, dtype="float32")(x, styles[:, -1])
    image = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model([styles, noise], image, name="synthesis")


def style_generator(mapping, synthesis):
    """One model of both, named generator, from [z, noise] to images; one style at all places."""
    (_, places, style_dim), (_, numbers) = synthesis.input_shape
    if mapping.output_shape[-1] != style_dim:
        raise ValueError(f"mapping makes {mapping.output_shape[-1]} numbers, not {style_dim}.")
    z, noise = keras.Input(mapping.input_shape[1:]), keras.Input((numbers,))
    styles = layers.RepeatVector(places)(mapping(z))
    return keras.Model([z, noise], synthesis([styles, noise]), name="generator")


def mixed_styles(first, second, chosen):
    """Styles (batch, places, style_dim): second's at chosen places, first's at the others.

    first, second: (batch, style_dim); chosen: booleans (places,), or (batch, places).

    Karras et al. 2019, arXiv 1812.04948, section 3.1.
    """
    return tf.where(tf.convert_to_tensor(chosen)[..., None], second[:, None], first[:, None])


def make_style_play(discriminator, generator, *, objective, seed, mixing=True):
    """Make StyleGAN's game, as `steps.make_step` takes it: styles of two latents are mixed.

    Args:
        discriminator: model from images to logits (batch, 1).
        generator: of `style_generator`.
        objective: pair of losses, such as `losses.hinge`.
        seed: integer; latents, noise and places are functions of (seed, step).
        mixing: whether images are drawn from two styles. The second one begins at a random place
            after the first, or nowhere, all equally often: in four of five images, nine of ten in
            the paper, there is a mixture.

    Returns:
        Function (real, step) -> D's loss, G's loss, dict: d_loss, g_loss, d_real, d_fake.

    Karras et al. 2019, arXiv 1812.04948, sections 2 and 3.1.
    """
    discriminator_loss, generator_loss = objective
    mapping, synthesis = (generator.get_layer(name) for name in ("mapping", "synthesis"))
    (_, latent_dim), (_, numbers) = generator.input_shape
    places = synthesis.input_shape[0][1]

    def play(real, step):
        count, key = tf.shape(real)[0], {"seed": seed, "step": step}
        drawn = sample_latents(count, 2 * latent_dim + numbers, **key)
        *latents, noise = tf.split(drawn, [latent_dim, latent_dim, numbers], axis=1)
        first, second = (mapping(z, training=True) for z in latents)
        last = sample_classes(count, places, **key)  # place of the first style
        chosen = (tf.range(places) > last[:, None]) & mixing
        fake = synthesis([mixed_styles(first, second, chosen), noise], training=True)
        real_logits, fake_logits = (discriminator(x, training=True) for x in (real, fake))
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        return d_loss, g_loss, values

    return play


def truncated_styles(styles, center, psi):
    """center + psi (styles - center): psi = 1 leaves styles alone, 0 makes all of them the center.

    styles: (..., style_dim); center: (style_dim,), the mean of many styles; psi: a number.

    Karras et al. 2019, arXiv 1812.04948, appendix B.
    """
    return center + psi * (styles - center)


def path_lengths(see, path, fractions, *, epsilon):
    """Squared speed of features along paths: |see(path(t + epsilon)) - see(path(t))|^2 / epsilon^2.

    Args:
        see: function of points (count, dimensions) -> features (count, features), such as a
            classifier's of the images that a generator draws there.
        path: function of fractions (count, 1) -> points, 0 at the start, 1 at the end of each path.
        fractions: t, float (count, 1), such as uniform ones.
        epsilon: how far to go, > 0; what is small enough for the paths may be too small for the
            rounding of `see`.

    Returns:
        float64 (count,); their mean is the perceptual path length.

    Karras et al. 2019, arXiv 1812.04948, equations 2 and 3; the paper's features are VGG16's, and
    it cuts off extremes.
    """
    epsilon = validation.as_positive(epsilon, "epsilon")
    here, there = (np.float64(see(path(t))) for t in (fractions, fractions + epsilon))
    return np.sum((there - here) ** 2, axis=1) / epsilon**2


def share_moved(before, after):
    """Share of a value's variance that moves where one part of its input is drawn anew.

    E[(before - after)^2] / (2 Var before) of floats (count,): 0 where the part means nothing to the
    value, 1 where it means all. The shares of independent parts may sum to more than 1: what two of
    them decide together counts for each. One share is above 1 only where `after` has another
    distribution than `before`, as where the parts are not independent.

    Jansen 1999, "Analysis of variance designs for model output", equation 10, the total effect.
    """
    before, after = np.float64(before), np.float64(after)
    if before.ndim != 1 or before.shape != after.shape or not before.std() > 0:
        raise ValueError("before and after must be of one shape (count,), and before must vary.")
    return float(np.mean((before - after) ** 2) / (2 * before.var()))
