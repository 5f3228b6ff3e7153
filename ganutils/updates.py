"""How does one step go, from two gradients to two updates? A step is made by a factory."""

import tensorflow as tf

from ganutils.latents import sample_latents


def make_train_step(
    discriminator, generator, *, d_optimizer, g_optimizer, objective, latent_dim, seed
):
    """Make one training step: both gradients at one point, then both updates.

    The optimizers are built here, so the step creates no variable and can be restored beforehand.

    Args:
        discriminator: model from images to logits (batch, 1).
        generator: model from latents (batch, latent_dim) to images.
        d_optimizer: Keras optimizer of the discriminator; not shared with the generator.
        g_optimizer: Keras optimizer of the generator.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        latent_dim: length of one latent vector.
        seed: integer; the noise of a step is a function of (seed, step).

    Returns:
        `tf.function` (real, step) -> dict of scalars: d_loss, g_loss, and d_real and d_fake, the
        mean D(x) and D(G(z)) in (0, 1). real is (batch, height, width, channels) in [-1, 1];
        step is an integer tensor or variable (a Python integer would be traced anew each time).

    Source: Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1, with simultaneous updates.
    """
    discriminator_loss, generator_loss = objective
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            fake = generator(z, training=True)
            real_logits = discriminator(real, training=True)
            fake_logits = discriminator(fake, training=True)
            d_loss = discriminator_loss(real_logits, fake_logits)
            g_loss = generator_loss(fake_logits)
        d_gradients = d_tape.gradient(d_loss, d_vars)
        g_gradients = g_tape.gradient(g_loss, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    return train_step


def with_average(train_step, generator, average, *, decay=0.999):
    """Make a training step that also keeps a running average of the generator's weights.

    A generator circles around its goal; the average of its weights lies inside the circle and
    draws better. The average covers the last steps / 9 steps or so at first, and 1 / (1 - decay)
    steps later, so that the first, bad weights are soon forgotten.

    Args:
        train_step: function (real, step) -> dict of scalars, as `make_train_step` makes.
        generator: the model that train_step changes.
        average: model of the same weights, such as `runtime.in_float32(generator)`. After step n
            (from 0) it keeps the share min(decay, (1 + n) / (10 + n)) of each weight, batch
            normalization's statistics included, and takes the rest from the generator.
        decay: largest share kept, 0 to below 1.

    Returns:
        `tf.function` (real, step) -> train_step's dict.

    Raises:
        ValueError: the two models' weights differ in number or shape, or decay is out of range.

    Source: Yazici et al. 2019, arXiv 1806.04498, section 2; Karras et al. 2018, arXiv 1710.10196,
    section 5, sample from such averages of a GAN's generator.
    """
    means, weights = average.weights, generator.weights
    if not 0 <= decay < 1 or [w.shape for w in means] != [w.shape for w in weights]:
        raise ValueError(f"{decay=} must be in [0, 1), and `average` a copy of the generator.")

    @tf.function
    def averaging_step(real, step):
        n = tf.cast(step, tf.float32)
        share = tf.minimum(decay, (1 + n) / (10 + n))
        values = train_step(real, step)
        for mean, weight in zip(means, weights, strict=True):
            mean.assign(share * mean + (1 - share) * weight)
        return values

    return averaging_step


def with_weight_norms(train_step, discriminator, generator):
    """Make a training step that also reports how long each network's vector of weights is.

    A weight that is NaN or infinite makes its network's norm so, and `training.train` stops at that
    step. Without it, a bad weight shows one step later, and one that only sampling reads never
    does.

    Args:
        train_step: function (real, step) -> dict of scalars, as `make_train_step` makes.
        discriminator: a model that train_step changes.
        generator: the other one.

    Returns:
        `tf.function` (real, step) -> train_step's dict, and d_weights and g_weights: the Euclidean
        norm of all weights of a network after the step, batch normalization's statistics included.
    """
    models = {"d_weights": discriminator, "g_weights": generator}

    @tf.function
    def watched_step(real, step):
        values = dict(train_step(real, step))
        for name, model in models.items():
            floats = [tf.cast(w, tf.float32) for w in model.weights if "float" in w.dtype]
            values[name] = tf.linalg.global_norm(floats)
        return values

    return watched_step


def make_losses(discriminator, generator, *, objective, latent_dim, seed, d_terms=(), g_terms=()):
    """Make a function that plays one batch and says what each player is to minimize.

    Args:
        discriminator, generator, objective, latent_dim, seed: as for `make_train_step`.
        d_terms: functions (real, fake, step) -> scalar, added to D's loss, such as penalties.
        g_terms: functions (real, fake, step) -> scalar, added to G's loss.

    Returns:
        Function (real, step) -> D's total, G's total, and a dict as that of `make_train_step`,
        whose d_loss and g_loss are the objective's, without the terms.
    """
    discriminator_loss, generator_loss = objective

    def play(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        fake = generator(z, training=True)
        real_logits = discriminator(real, training=True)
        fake_logits = discriminator(fake, training=True)
        d_loss = discriminator_loss(real_logits, fake_logits)
        g_loss = generator_loss(fake_logits)
        d_total = sum([term(real, fake, step) for term in d_terms], d_loss)
        g_total = sum([term(real, fake, step) for term in g_terms], g_loss)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        return d_total, g_total, values

    return play


def make_regularized_step(
    discriminator, generator, *, d_optimizer, g_optimizer, seed, d_steps=1, constrain=None, **game
):
    """Make a training step with more terms in its losses, or more updates of D than of G.

    Without terms and with d_steps=1 it is the step of `make_train_step`, bit for bit. The last of
    D's updates shares its fake samples with G's, and both gradients are taken before either update.

    Args:
        discriminator, generator, d_optimizer, g_optimizer, seed: as for `make_train_step`; samples
            of any shape (batch, ...).
        d_steps: updates of D for each of G, >= 1. The batch is split into as many parts.
        constrain: function of D's trainable variables, called after each of its updates, such as
            one that clips them; or None.
        game: objective and latent_dim, and perhaps d_terms and g_terms, as for `make_losses`. The
            step that terms are given is the number of D's update, d_steps of them a step.

    Returns:
        `tf.function` (real, step) -> dict of scalars, as that of `make_train_step`, from the last
        of D's updates.

    Raises:
        ValueError: d_steps is below 1, or does not divide the batch.
    """
    if d_steps < 1:
        raise ValueError(f"{d_steps=} must be at least 1.")
    play = make_losses(discriminator, generator, seed=seed, **game)
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        for i, part in enumerate(tf.split(real, d_steps)):
            with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
                d_total, g_total, values = play(part, d_steps * tf.cast(step, tf.int64) + i)
            g_gradients = g_tape.gradient(g_total, g_vars)  # the last one counts
            d_optimizer.apply(d_tape.gradient(d_total, d_vars), d_vars)
            if constrain is not None:
                constrain(d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        return values

    return train_step
