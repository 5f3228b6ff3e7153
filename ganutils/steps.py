"""How does one step go? A game says what each player minimizes; a step moves both."""

import tensorflow as tf

from ganutils import validation
from ganutils.latents import replica, sample_latents


def make_train_step(
    discriminator, generator, *, d_optimizer, g_optimizer, objective, latent_dim, seed
):
    """Make one training step: both gradients at one point, then both updates.

    The optimizers are built here, so the step creates no variable and can be restored beforehand.

    Args:
        discriminator: model from images to logits (batch, 1).
        generator: model from latents (batch, latent_dim) to images.
        d_optimizer, g_optimizer: Keras optimizers, one for each.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        latent_dim: length of one latent vector.
        seed: integer; the noise of a step is a function of (seed, step).

    Returns:
        `tf.function` (real, step) -> dict of scalars: d_loss, g_loss, and d_real and d_fake, the
        mean D(x) and D(G(z)) in (0, 1). real: images in [-1, 1]; step: integer tensor or variable
        (a Python integer would be traced anew each time). ValueError for a player without trainable
        variables, and for float16 or an optimizer that scales losses.

    Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1, with simultaneous updates.
    """
    validation.check_learner(discriminator, d_optimizer, "discriminator")
    validation.check_learner(generator, g_optimizer, "generator")
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


def with_ema(train_step, generator, average, *, decay=0.999):
    """Make a training step that also keeps a moving average of the generator's weights.

    A generator circles around its goal; the average of its weights lies inside the circle and
    draws better. Keras' optimizers can keep one, too (`use_ema`): of trainable weights only, so
    batch normalization's statistics stay behind, at a share that does not grow, and sampling from
    it overwrites the weights that train.

    Args:
        train_step: function (real, step) -> dict of scalars.
        generator: the model that train_step changes.
        average: model of the same weights, such as `runtime.in_float32(generator)`. After step n
            (from 0) it keeps the share min(decay, (1 + n) / (10 + n)) of every weight and takes the
            rest from the generator, so that the first, bad weights are soon forgotten.
        decay: largest share kept, 0 to below 1.

    Returns:
        `tf.function` (real, step) -> train_step's dict.

    Yazıcı et al. 2019, arXiv 1806.04498, section 2; Karras et al. 2018, arXiv 1710.10196.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"{decay=} must be in [0, 1).")
    if [w.shape for w in average.weights] != [w.shape for w in generator.weights]:
        raise ValueError("average must have the generator's weights; runtime.in_float32 makes one.")
    means, weights = average.weights, generator.weights

    @tf.function
    def averaging_step(real, step):
        n = tf.cast(step, tf.float32)
        share = tf.minimum(decay, (1 + n) / (10 + n))
        values = train_step(real, step)
        for mean, weight in zip(means, weights, strict=True):
            mean.assign(share * mean + (1 - share) * weight)
        return values

    return averaging_step


def make_gan_play(discriminator, generator, *, objective, latent_dim, seed, d_terms=(), g_terms=()):
    """Make the plain game, as `make_step` takes it: what each player minimizes on one batch.

    Args:
        discriminator, generator, objective, latent_dim, seed: as for `make_train_step`; samples of
            any shape (batch, ...).
        d_terms: functions (real, fake, step) -> scalar, added to D's loss, such as penalties.
        g_terms: functions (real, fake, step) -> scalar, added to G's loss.

    Returns:
        Function (real, step) -> D's total, G's total, and a dict as that of `make_train_step`,
        whose d_loss and g_loss are without the terms.
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


def with_terms(play, *, d_terms=(), g_terms=()):
    """Make a game in which the players of `play` minimize further terms, such as penalties.

    Args:
        play: as `make_step` takes it.
        d_terms, g_terms: functions (real, step) -> scalar, added to D's total and to G's; real is
            the batch as the play gets it.

    Returns:
        Function as `play`, of the same report.
    """

    def fuller_play(real, step):
        d_total, g_total, values = play(real, step)
        d_total = sum([term(real, step) for term in d_terms], d_total)
        g_total = sum([term(real, step) for term in g_terms], g_total)
        return d_total, g_total, values

    return fuller_play


def part_of(batch, i, parts):
    """Part i of a batch, a tensor or a tuple of tensors, cut into so many equal parts."""
    return tf.nest.map_structure(lambda rows: tf.split(rows, parts)[i], batch)


def per_replica(play):
    """Make a game that each replica of a `tf.distribute` strategy plays on its share of the batch.

    Optimizers add up the gradients of all replicas. So each total, a mean over a share, is divided
    by their number, and the sum is the gradient of the mean over the whole batch.

    Args:
        play: as `make_step` takes it. Latents and classes of `latents` are those that one device
            would draw; what a play draws by other means, such as Dropout's masks or the points of a
            gradient penalty, is the same on every replica.

    Returns:
        Function as `play`: (real, step), real being the whole batch on every replica, whose number
        divides it. On one device it is `play`, bit for bit.
    """

    def shared_play(real, step):
        number, replicas = replica()
        d_total, g_total, values = play(part_of(real, number, replicas), step)
        return d_total / replicas, g_total / replicas, values

    return shared_play


def on_replicas(train_step, strategy):
    """Make a training step that all replicas take together, each once.

    Args:
        train_step: what `make_step` makes of a `per_replica` play, with networks and optimizers
            built in the strategy's scope. What goes around a step, such as `with_ema`, goes around
            the result of this.
        strategy: `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy`; or None, for
            train_step itself.

    Returns:
        `tf.function` (real, step) -> train_step's dict, of means over the replicas.
    """
    if strategy is None:
        return train_step

    @tf.function
    def common_step(real, step):
        values = strategy.run(train_step, args=(real, step))
        return {name: strategy.reduce("MEAN", values[name], axis=None) for name in values}

    return common_step


def make_step(
    play, d_variables, g_variables, *, d_optimizer, g_optimizer, d_steps=1, constrain=None
):
    """Make the training step of any game of two players.

    Of the plain game, with d_steps=1, it is the step of `make_train_step`, bit for bit. The last of
    D's updates shares its samples with G's, and both gradients are taken before either update.

    Args:
        play: function (real, step) -> D's total, G's total, dict of scalars; such as
            `make_gan_play` makes, or the play of a family.
        d_variables, g_variables: what each player may change, lists of variables; of all its
            networks, where a player has several.
        d_optimizer, g_optimizer: Keras optimizers, one for each; built here.
        d_steps: updates of D for each of G, >= 1, which divides the batch: it is split into as many
            parts. The step that play is given counts them, d_steps of them a step.
        constrain: function of d_variables, called after each of D's updates, such as one that clips
            them; or None.

    Returns:
        `tf.function` (real, step) -> the dict of the last of D's updates. real: a batch, or a tuple
        such as (images, labels); step: integer tensor or variable. ValueError as for
        `make_train_step`.
    """
    validation.check_learner(d_variables, d_optimizer, "discriminator")
    validation.check_learner(g_variables, g_optimizer, "generator")
    if d_steps < 1:
        raise ValueError(f"{d_steps=} must be at least 1.")
    d_optimizer.build(d_variables)
    g_optimizer.build(g_variables)

    @tf.function
    def train_step(real, step):
        for i in range(d_steps):
            with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
                now = d_steps * tf.cast(step, tf.int64) + i
                d_total, g_total, values = play(part_of(real, i, d_steps), now)
            d_gradients = d_tape.gradient(d_total, d_variables)
            g_gradients = g_tape.gradient(g_total, g_variables)  # the last one counts
            d_optimizer.apply(d_gradients, d_variables)
            if constrain is not None:
                constrain(d_variables)
        g_optimizer.apply(g_gradients, g_variables)
        return values

    return train_step
