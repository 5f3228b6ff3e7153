"""How did large images come about? From coarse to fine, with a small GAN for each level of detail.

A Laplacian pyramid holds a coarse image and, for each doubling, the residual that it lacks. A
generator turns (z, low) into a residual, a discriminator judges (residual, low); low is the coarse
image, enlarged to the residual's size.
"""

import keras
import tensorflow as tf
from keras import layers

from ganutils import checks
from ganutils.latents import sample_latents
from ganutils.networks import bn_relu, dcgan_discriminator, normal_init, upsample_conv


def require_halving(image_shape, times):
    """Refuse images whose sides do not halve evenly so many times.

    Args:
        image_shape: (height, width, channels).
        times: how often both sides will be halved, 0 to 30.

    Raises:
        ValueError: a side is no multiple of 2^times, or times is out of range.
        TypeError: times is no integer.
    """
    times = checks.as_integer(times, "levels", low=0, high=30)
    height, width, _ = image_shape
    if height % 2**times or width % 2**times:
        raise ValueError(
            f"Images of {height}x{width} do not halve evenly {times} times; ask for fewer levels, "
            f"or crop or pad them to sides that are multiples of {2**times}."
        )


def downsample(images):
    """Halve images: each pixel is the mean of four, rounded to a multiple of 2^-16.

    Args:
        images: float32 (batch, height, width, channels) in [-1, 1], height and width even.

    Returns:
        float32 tensor (batch, height / 2, width / 2, channels) in [-1, 1].

    Raises:
        ValueError: a side is odd.

    Source: d in Denton et al. 2015, arXiv 1506.05751, section 2.2; the rounding is ours.
    """
    require_halving(images.shape[1:], 1)
    means = tf.nn.avg_pool2d(images, 2, 2, "VALID")
    return tf.round(means * 2.0**16) / 2.0**16


def upsample(images):
    """Double images by linear interpolation between the centers of their pixels.

    Args:
        images: float32 (batch, height, width, channels).

    Returns:
        float32 tensor (batch, 2 height, 2 width, channels), within the range of the images. Of
        multiples of 2^-16 it makes multiples of 2^-20, without rounding.

    Source: u in Denton et al. 2015, arXiv 1506.05751, section 2.2.
    """
    _, height, width, _ = images.shape
    return tf.image.resize(images, (2 * height, 2 * width), "bilinear")


def build_pyramid(images, levels):
    """Take images apart: a coarse image, then for each doubling the residual it lacks.

    Args:
        images: float32 (batch, height, width, channels) in [-1, 1].
        levels: doublings, 0 to 30; 2^levels divides height and width.

    Returns:
        List of levels + 1 float32 tensors, coarse before fine: the coarse images, then residuals in
        [-2, 2], each of twice the height and width of the tensor before.

    Raises:
        ValueError: the images do not halve evenly so often, or have another shape.
        TypeError: they are not float32, or levels is no integer.

    Source: Burt and Adelson 1983; Denton et al. 2015, arXiv 1506.05751, equation 3.
    """
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.float32:
        raise TypeError(f"images must be float32 in [-1, 1], not {images.dtype.name}.")
    if images.shape.rank != 4:
        raise ValueError(f"images must be (batch, height, width, channels), not {images.shape}.")
    require_halving(images.shape[1:], levels)
    residuals = []
    for _ in range(levels):
        coarse = downsample(images)
        residuals.append(images - upsample(coarse))
        images = coarse
    return [images, *reversed(residuals)]


def reconstruct(pyramid):
    """Put a pyramid's images together again.

    Args:
        pyramid: list of tensors, as `build_pyramid` makes.

    Returns:
        The images, float32: the very same bits where their values were multiples of 2^-23, and
        within 2^-23 of any other values in [-1, 1].

    Source: Burt and Adelson 1983; Denton et al. 2015, arXiv 1506.05751, equation 4.
    """
    images, *residuals = pyramid
    for residual in residuals:
        images = upsample(images) + residual
    return images


def pyramid_generator(image_shape, *, widths=(32, 64, 16), after_conv=bn_relu):
    """Generator of one level: noise and the enlarged coarse image -> the residual that it lacks.

    The noise is one more plane beside the image. Three convolutions halve, stay, and enlarge; the
    last one draws the finer image from their maps and from both inputs. The result is that image
    minus the coarse one, so that their sum lies in [-1, 1].

    Args:
        image_shape: (height, width, channels) of the residual; height and width even.
        widths: channels after each of the first three convolutions.
        after_conv: function of a tensor, applied after each of these.

    Returns:
        `keras.Model` from a list [z (batch, height * width), low (batch, *image_shape)] to
        residuals (batch, *image_shape) in [-2, 2].

    Raises:
        ValueError: height or width is odd.

    Source: Denton et al. 2015, arXiv 1506.05751, sections 2.3 and 3.1, with layers of our own.
    """
    require_halving(image_shape, 1)
    height, width, channels = image_shape
    common = {"use_bias": False, "kernel_initializer": normal_init}
    z, low = keras.Input((height * width,)), keras.Input(image_shape)
    planes = layers.Concatenate()([layers.Reshape((height, width, 1))(z), low])
    x = layers.Conv2D(widths[0], 5, strides=2, padding="same", **common)(planes)
    x = layers.Conv2D(widths[1], 3, padding="same", **common)(after_conv(x))
    x = upsample_conv(after_conv(x), widths[2], 2, kernel_size=3, **common)
    x = layers.Concatenate()([after_conv(x), planes])
    x = layers.Conv2D(channels, 3, padding="same", dtype="float32", **common)(x)
    image = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model([z, low], layers.Subtract(dtype="float32")([image, low]), name="generator")


def pyramid_discriminator(image_shape, *, sees_coarse=True, **design):
    """Discriminator of one level: a residual and the enlarged coarse image -> one logit.

    It sees two images: the sum of both, and the coarse one.

    Args:
        image_shape: (height, width, channels) of the residual.
        sees_coarse: False hides the coarse image, so that only the residual is judged.
        design: further arguments of `networks.dcgan_discriminator`.

    Returns:
        `keras.Model` from a list [residual, low], both (batch, *image_shape), to logits (batch, 1),
        positive for real.

    Source: Denton et al. 2015, arXiv 1506.05751, section 2.3 and figure 2.
    """
    height, width, channels = image_shape
    residual, low = keras.Input(image_shape), keras.Input(image_shape)
    planes = residual
    if sees_coarse:
        image = layers.Add(dtype="float32")([residual, low])
        planes = layers.Concatenate()([image, low])
    judge = dcgan_discriminator((height, width, planes.shape[-1]), **design)
    return keras.Model([residual, low], judge(planes), name="discriminator")


def make_pyramid_step(discriminator, generator, *, d_optimizer, g_optimizer, objective, seed):
    """Make one training step of one level; both players are shown the same real coarse images.

    Args:
        discriminator: model from [residual, low] to logits (batch, 1).
        generator: model from [z, low] to residuals.
        d_optimizer, g_optimizer, objective, seed: as for `updates.make_train_step`.

    Returns:
        `tf.function` (real, step) -> dict of scalars, as that of `updates.make_train_step`. real is
        (batch, height, width, channels) in [-1, 1], of the size that the level draws; step is an
        integer tensor or variable.

    Source: Denton et al. 2015, arXiv 1506.05751, section 2.3 and figure 2.
    """
    discriminator_loss, generator_loss = objective
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        low = upsample(downsample(real))
        residual = real - low
        z = sample_latents(tf.shape(real)[0], generator.input_shape[0][-1], seed=seed, step=step)
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            fake = generator([z, low], training=True)
            real_logits = discriminator([residual, low], training=True)
            fake_logits = discriminator([fake, low], training=True)
            d_loss = discriminator_loss(real_logits, fake_logits)
            g_loss = generator_loss(fake_logits)
        d_gradients = d_tape.gradient(d_loss, d_vars)
        g_gradients = g_tape.gradient(g_loss, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    return train_step


def refine(generator, coarse, *, seed, step):
    """Draw one level more: images of twice the size.

    Args:
        generator: of the level, model from [z, low] to residuals.
        coarse: images (batch, height / 2, width / 2, channels) in [-1, 1], real or generated.
        seed, step: integers; name the draw of the noise, as for `latents.sample_latents`.

    Returns:
        float32 tensor (batch, height, width, channels) in [-1, 1].

    Source: Denton et al. 2015, arXiv 1506.05751, equation 5.
    """
    low = upsample(coarse)
    z = sample_latents(low.shape[0], generator.input_shape[0][-1], seed=seed, step=step)
    return low + generator([z, low], training=False)


def sample_pyramid(generators, count, *, seed, step):
    """Draw images from nothing: a coarse one, then level upon level.

    Args:
        generators: that of the coarse images, from latents (batch, latent_dim), then that of each
            level, from [z, low], coarse before fine.
        count: images to draw.
        seed, step: integers; name the draw. Level k has noise of (seed + k, step).

    Returns:
        List of float32 tensors (count, height, width, channels) in [-1, 1], one a generator, from
        the coarse images to the finest.

    Source: Denton et al. 2015, arXiv 1506.05751, equation 5 and figure 1.
    """
    coarsest, *levels = generators
    z = sample_latents(count, coarsest.input_shape[-1], seed=seed, step=step)
    images = [coarsest(z, training=False)]
    for level, generator in enumerate(levels, start=1):
        images.append(refine(generator, images[-1], seed=seed + level, step=step))
    return images
