"""How do I choose what is drawn? Labels for both players, in three ways, and how well they obey.

G gets its label behind its latents (`latents.join_classes`). What D does with the label is the
choice: it sees it as one more plane of the image, it multiplies its features by it, or it has to
find it out (`networks.with_heads`).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils.latents import join_classes, sample_latents
from ganutils.metrics import frechet_distance
from ganutils.networks import normal_init


def joined_discriminator(network, classes):
    """Discriminator that gets a learned picture of the label as one more channel of the image.

    Args:
        network: discriminator of images of one channel more than the real ones.
        classes: how many classes there are.

    Returns:
        `keras.Model` from [images (batch, height, width, channels), integer labels (batch,)] to
        logits (batch, 1), positive for a real pair. `network` is used, not copied.

    Source: Mirza and Osindero 2014, arXiv 1411.1784, equation 2; the label as a plane, as in
        Denton et al. 2015, arXiv 1506.05751.
    """
    height, width, channels = network.input_shape[1:]
    image, label = keras.Input((height, width, channels - 1)), keras.Input((), dtype="int32")
    plane = layers.Embedding(classes, height * width)(label)
    plane = layers.Reshape((height, width, 1))(plane)
    return keras.Model([image, label], network(layers.Concatenate()([image, plane])))


def projection_discriminator(network, classes):
    """Discriminator whose logit is a network's plus e(y).phi(x), the label's own direction.

    Args:
        network: discriminator of images whose last layer takes features phi(x), (batch, units).
        classes: how many classes there are.

    Returns:
        `keras.Model` from [images, integer labels (batch,)] to logits (batch, 1), positive for a
        real pair. `network` is used, not copied.

    Source: Miyato and Koyama 2018, arXiv 1802.05637.
    """
    features, label = network.layers[-1].input, keras.Input((), dtype="int32")
    direction = layers.Embedding(
        classes, features.shape[-1], embeddings_initializer=normal_init, dtype="float32"
    )(label)
    match = layers.Dot(axes=1, dtype="float32")([direction, features])
    return keras.Model([network.input, label], layers.Add(dtype="float32")([network.output, match]))


def ask_about_pair(discriminator, images, labels):
    """Ask whether images and labels belong together.

    Args:
        discriminator: model from [images, labels] to logits, such as `projection_discriminator`.
        images: (batch, height, width, channels) in [-1, 1].
        labels: integers (batch,).

    Returns:
        Logits (batch, 1), and the loss of naming the classes: 0.0, since nobody has to.
    """
    return discriminator([images, labels], training=True), 0.0


def ask_for_class(discriminator, images, labels):
    """Ask whether images are real, and of which class they are; the labels are not shown.

    Args:
        discriminator: model from images to a list of logits (batch, 1) and class logits (batch,
            classes), as `networks.with_heads(network, 1, classes)` makes.
        images: (batch, height, width, channels) in [-1, 1].
        labels: integers (batch,).

    Returns:
        Logits (batch, 1), and the mean of -log P(label | image), log(classes) for equal logits.

    Source: Odena et al. 2017, arXiv 1610.09585, equation 2 with the sign changed.
    """
    logits, class_logits = discriminator(images, training=True)
    cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, class_logits)
    return logits, tf.reduce_mean(cost)


def make_conditional_losses(discriminator, generator, *, ask, objective, classes, latent_dim, seed):
    """Make a function that plays one labeled batch and says what each player is to minimize.

    Args:
        discriminator: model that `ask` knows how to use.
        generator: model from (batch, latent_dim + classes) to images.
        ask: function (discriminator, images, labels) -> logits (batch, 1) and a class loss; such as
            `ask_about_pair` or `ask_for_class`. Both players minimize the class loss.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        classes: how many classes there are.
        latent_dim: length of one latent vector, the label not counted.
        seed: integer; the noise of a step is a function of (seed, step).

    Returns:
        Function (real, step) -> D's total, G's total, and a dict of scalars: d_loss and g_loss,
        without the class losses; d_real and d_fake, the mean sigmoids of the logits; real_class and
        fake_class, the class losses.

    Source: Mirza and Osindero 2014, arXiv 1411.1784, equation 2; Odena et al. 2017, arXiv
        1610.09585, equations 1 and 2, where `ask` has a class loss.
    """
    discriminator_loss, generator_loss = objective

    def play(real, step):
        images, labels = real
        z = sample_latents(tf.shape(images)[0], latent_dim, seed=seed, step=step)
        fake = generator(join_classes(z, labels, classes), training=True)
        real_logits, real_class = ask(discriminator, images, labels)
        fake_logits, fake_class = ask(discriminator, fake, labels)
        d_loss, g_loss = discriminator_loss(real_logits, fake_logits), generator_loss(fake_logits)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        values |= {"real_class": real_class, "fake_class": fake_class}
        return d_loss + real_class + fake_class, g_loss + fake_class, values

    return play


def make_conditional_step(discriminator, generator, *, d_optimizer, g_optimizer, **game):
    """Make one training step on labeled images: G is asked for the labels of the batch.

    Args:
        discriminator, generator: as for `make_conditional_losses`.
        d_optimizer: Keras optimizer of the discriminator; not shared with the generator.
        g_optimizer: Keras optimizer of the generator.
        game: the further arguments of `make_conditional_losses`.

    Returns:
        `tf.function` (real, step) -> dict of scalars, that of `make_conditional_losses`. real is a
        pair as from `data.labeled_batches`: images (batch, height, width, channels) in [-1, 1], and
        labels (batch,), 0 to classes - 1 (else tf.errors.InvalidArgumentError); step is an integer
        tensor or variable.
    """
    play = make_conditional_losses(discriminator, generator, **game)
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            d_total, g_total, values = play(real, step)
        d_gradients = d_tape.gradient(d_total, d_vars)
        g_gradients = g_tape.gradient(g_total, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        return values

    return train_step


def draw_classes(generator, labels, *, classes, latent_dim, seed, batch_size=500):
    """Draw one image for each label, in inference mode.

    Args:
        generator: model from (batch, latent_dim + classes) to images.
        labels: integers (count,), 0 to classes - 1, or shares (count, classes); at least one.
        classes: how many classes there are.
        latent_dim: length of one latent vector, the label not counted.
        seed: integer; latent i is a function of (seed, i // batch_size, i % batch_size).
        batch_size: images in memory at once.

    Returns:
        float32 array (count, height, width, channels) in [-1, 1].

    Raises:
        tf.errors.InvalidArgumentError: a label is out of range.
        ValueError: rows of shares have another width.
    """
    images = []
    for start in range(0, len(labels), batch_size):
        part = labels[start : start + batch_size]
        z = sample_latents(batch_size, latent_dim, seed=seed, step=start // batch_size)
        images.append(generator(join_classes(z[: len(part)], part, classes), training=False))
    return np.concatenate(images)


def obedience(probabilities, labels):
    """Share of images whose most probable class is the label.

    Args:
        probabilities: float (count, classes), as from `classifier.classify`.
        labels: integers (count,), what was asked for.

    Returns:
        Float in 0..1.

    Raises:
        ValueError: there are not as many labels as rows.
    """
    read, labels = np.argmax(probabilities, axis=1), np.asarray(labels)
    if read.shape != labels.shape:
        raise ValueError(f"{len(read)} rows and labels of shape {labels.shape} do not match.")
    return float(np.mean(read == labels))


def class_distances(real, fake, *, classes):
    """Frechet distance within each class: a number for each digit asked for.

    Args:
        real: pair of features (count, dimensions) and integer labels (count,), of real images.
        fake: the same of samples, with the labels asked for; in each class more images than
            dimensions, here as there.
        classes: how many classes there are.

    Returns:
        float64 array (classes,), each as from `metrics.frechet_distance`.

    Raises:
        TypeError, ValueError: as `metrics.frechet_distance` does, too few images of a class among
            them.
    """
    (features, labels), (fake_features, asked) = real, fake
    return np.array(
        [frechet_distance(features[labels == c], fake_features[asked == c]) for c in range(classes)]
    )
