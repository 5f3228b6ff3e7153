"""How did large images come about? From coarse to fine, with a small GAN for each level of detail.

A Laplacian pyramid holds a coarse image and, for each doubling, the residual that it lacks. A
generator turns (z, low) into a residual, a discriminator judges (residual, low); low is the coarse
image, enlarged to the residual's size.
"""

import keras
import tensorflow as tf
from keras import layers

from ganutils import validation
from ganutils.latents import sample_latents
from ganutils.networks import bn_relu, dcgan_discriminator, normal_init, upsample_conv


def downsample(images):
    """Halve float32 images: each pixel is the mean of four, rounded to a multiple of 2^-16.

    The d of Denton et al. 2015, arXiv 1506.05751, section 2.2; the rounding is ours.
    """
    if images.shape[1] % 2 or images.shape[2] % 2:
        size = f"{images.shape[1]}x{images.shape[2]}"
        raise ValueError(f"{size} pixels do not halve evenly: take fewer levels, or crop or pad.")
    means = tf.nn.avg_pool2d(images, 2, 2, "VALID")
    return tf.round(means * 2.0**16) / 2.0**16


def upsample(images):
    """Double images by linear interpolation between the centers of their pixels.

    Of multiples of 2^-16 it makes multiples of 2^-20, without rounding.

    The u of Denton et al. 2015, arXiv 1506.05751, section 2.2.
    """
    _, height, width, _ = images.shape
    return tf.image.resize(images, (2 * height, 2 * width), "bilinear")


def build_pyramid(images, levels):
    """Take images apart: a coarse image, then for each doubling the residual it lacks.

    images are float32 (batch, height, width, channels) in [-1, 1], of sides that 2^levels divides
    (else ValueError). Returns levels + 1 tensors, coarse before fine, residuals in [-2, 2].

    Burt and Adelson 1983; Denton et al. 2015, arXiv 1506.05751, equation 3.
    """
    if images.dtype != "float32" or len(images.shape) != 4 or levels < 0:
        found = f"{levels=} of {images.dtype} {images.shape}"
        raise ValueError(f"{found} must be 0 or more, of float32 (batch, height, width, channels).")
    images, residuals = tf.convert_to_tensor(images), []
    for _ in range(levels):
        coarse = downsample(images)
        residuals.append(images - upsample(coarse))
        images = coarse
    return [images, *reversed(residuals)]


def reconstruct(pyramid):
    """Put the images of `build_pyramid` together again, float32.

    The very same bits where pixels are multiples of 2^-23, within 2^-23 of any others.

    Burt and Adelson 1983; Denton et al. 2015, arXiv 1506.05751, equation 4.
    """
    images, *residuals = pyramid
    for residual in residuals:
        images = upsample(images) + residual
    return images


def lapgan_generator(image_shape, *, widths=(32, 64, 16), after_conv=bn_relu):
    """Generator of one level: noise and the enlarged coarse image -> the residual that it lacks.

    From [z (batch, height * width), low (batch, *image_shape)] to residuals (batch, *image_shape)
    in [-2, 2]. The noise is one more plane beside the image. Three convolutions halve, stay, and
    enlarge; a last one sees their maps and both inputs, and draws the finer image in [-1, 1], from
    which low is taken.

    Denton et al. 2015, arXiv 1506.05751, sections 2.3 and 3.1, with layers of our own.
    """
    validation.check_image_shape(image_shape)
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


def lapgan_discriminator(image_shape, *, widths=(32, 64), kernel_size=5, sees_coarse=True):
    """Discriminator of one level: a residual and the enlarged coarse image -> one logit.

    It sees two images side by side: the sum of both, and the coarse one; or the residual alone,
    with sees_coarse=False. From [residual, low], both (batch, *image_shape), to logits (batch, 1).

    Denton et al. 2015, arXiv 1506.05751, section 2.3 and figure 2.
    """
    validation.check_image_shape(image_shape)
    height, width, channels = image_shape
    residual, low = keras.Input(image_shape), keras.Input(image_shape)
    planes = residual
    if sees_coarse:
        image = layers.Add(dtype="float32")([residual, low])
        planes = layers.Concatenate()([image, low])
    shape = (height, width, planes.shape[-1])
    judge = dcgan_discriminator(shape, widths=widths, kernel_size=kernel_size)
    return keras.Model([residual, low], judge(planes), name="discriminator")


def make_lapgan_play(discriminator, generator, *, objective, seed):
    """Make the game of one level, as `steps.make_step` takes it: both see real coarse images.

    discriminator: model from [residual, low]; generator: model from [z, low]; objective: pair of
    losses. Returns a function (real, step) -> D's total, G's total, dict of d_loss, g_loss, d_real
    and d_fake; real are images of the size that the level draws.

    Denton et al. 2015, arXiv 1506.05751, section 2.3 and figure 2.
    """
    discriminator_loss, generator_loss = objective

    def play(real, step):
        low = upsample(downsample(real))
        z = sample_latents(tf.shape(real)[0], generator.input_shape[0][-1], seed=seed, step=step)
        fake = generator([z, low], training=True)
        real_logits = discriminator([real - low, low], training=True)
        fake_logits = discriminator([fake, low], training=True)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        return d_loss, g_loss, values

    return play


def refine(generator, coarse, *, seed, step):
    """Draw one level more: float32 images of twice the size, from real or generated coarse ones.

    Denton et al. 2015, arXiv 1506.05751, equation 5.
    """
    low = upsample(coarse)
    z = sample_latents(low.shape[0], generator.input_shape[0][-1], seed=seed, step=step)
    return low + generator([z, low], training=False)


def sample_pyramid(generators, count, *, seed, step):
    """Draw images from nothing: a coarse one, then level upon level.

    generators: that of the coarse images, from latents (batch, latent_dim), then that of each
    level, from [z, low]. Level k has noise of (seed + k, step). Returns a list of float32 tensors
    (count, height, width, channels) in [-1, 1], one a generator.

    Denton et al. 2015, arXiv 1506.05751, equation 5 and figure 1.
    """
    coarsest, *levels = generators
    z = sample_latents(count, coarsest.input_shape[-1], seed=seed, step=step)
    images = [coarsest(z, training=False)]
    for level, generator in enumerate(levels, start=1):
        images.append(refine(generator, images[-1], seed=seed + level, step=step))
    return images
