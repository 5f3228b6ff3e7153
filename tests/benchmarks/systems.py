"""The classic programs that the course is measured against, and the course's own, side by side.

Each `System` says what a published program is made of: networks, noise, optimizers, batch, and how
one training step goes. `start` builds one. Layers are those of the programs; the code is the
course's, so all run on the same loop, data and noise by (seed, step). It imports no script.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import record  # noqa: F401  first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import tensorflow as tf
from keras import layers

from ganutils import losses, networks, runtime, steps, training
from ganutils.latents import sample_latents, stream
from ganutils.layers import FusedBatchNormalization, SpectralNormalization

MNIST = (28, 28, 1)


class System(NamedTuple):
    """One program.

    title: for tables. make_discriminator, make_generator: function () -> model. make_optimizer:
    function () -> Keras optimizer, called once a network. make_step: as `steps.make_train_step`,
    bar the objective. batch_size: images a step. draw: as `latents.sample_latents`. fast: whether
    it trains in `runtime.fast_precision`. averaged: whether its samples come from averaged weights.
    per_call: steps by one call of `training.train`, no part of the design: more where a step is
    short. make_d_optimizer: as make_optimizer, for D, where it has an optimizer of its own.
    """

    title: str
    make_discriminator: Callable
    make_generator: Callable
    make_optimizer: Callable
    make_step: Callable
    batch_size: int
    latent_dim: int = 100
    draw: Callable = sample_latents
    fast: bool = False
    averaged: bool = False
    per_call: int = 1
    make_d_optimizer: Callable | None = None


# What follows a layer, as functions of a tensor.


def leaky_03(x):
    return layers.LeakyReLU(negative_slope=0.3)(x)


def bn_leaky(x):
    return leaky_03(layers.BatchNormalization()(x))


def bn_leaky_02(x):
    return keras.ops.leaky_relu(layers.BatchNormalization()(x))


def fused_bn_leaky_02(x):
    """As `networks.bn_relu`, with another activation."""
    return keras.ops.leaky_relu(FusedBatchNormalization()(x))


def plain_bn_relu(x):
    """As `networks.bn_relu`, by Keras' own layer."""
    return layers.ReLU()(layers.BatchNormalization()(x))


def leaky_dropout(x):
    return layers.Dropout(0.3)(leaky_03(x))


def bn_relu_08(x):
    return layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))


def bn_leaky_dropout_08(x):
    x = layers.BatchNormalization(momentum=0.8)(x)
    return layers.Dropout(0.3)(keras.ops.leaky_relu(x))


def leaky_bn_08(x):
    return layers.BatchNormalization(momentum=0.8)(keras.ops.leaky_relu(x))


def plain_upsample_conv(x, filters, scale, **conv):
    """S2's two layers as its program has them; `networks.upsample_conv` is a faster equal."""
    if scale > 1:
        x = layers.UpSampling2D(scale)(x)
    return layers.Conv2D(filters, padding="same", **conv)(x)


# S3's networks: dense layers inside a convolutional design, which the builders rightly do not make.


def tanh_generator():
    """100 -> dense -> dense with batch normalization -> two upsamplings, tanh throughout."""
    z = keras.Input((100,))
    x = layers.Dense(1024, activation="tanh")(z)
    x = layers.BatchNormalization()(layers.Dense(128 * 7 * 7)(x))
    x = layers.Reshape((7, 7, 128))(layers.Activation("tanh")(x))
    x = layers.Conv2D(64, 5, padding="same", activation="tanh")(layers.UpSampling2D()(x))
    x = layers.Conv2D(1, 5, padding="same", activation="tanh")(layers.UpSampling2D()(x))
    return keras.Model(z, x, name="generator")


def max_pool_discriminator():
    """28x28 -> 14x14 -> 10x10 -> 5x5 by max-pooling and a convolution without padding; a logit."""
    image = keras.Input(MNIST)
    x = layers.Conv2D(64, 5, padding="same", activation="tanh")(image)
    x = layers.Conv2D(128, 5, activation="tanh")(layers.MaxPooling2D()(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(1024, activation="tanh")(x)
    return keras.Model(image, layers.Dense(1)(x), name="discriminator")


def uniform_latents(count, latent_dim, *, seed, step):
    """Draw latents uniform in [-1, 1) by (seed, step) alone."""
    key = stream(seed, step)
    return tf.random.stateless_uniform((count, latent_dim), seed=key, minval=-1.0, maxval=1.0)


# How D is shown a batch: one list for each of its updates, of (images, label); label 1 is real.


def apart(real, fake):
    """One update, for which D sees real and fake in two passes."""
    return [[(real, 1.0), (fake, 0.0)]]


def in_turn(real, fake):
    """Two updates: first on real images, then on fake ones."""
    return [[(real, 1.0)], [(fake, 0.0)]]


def together(real, fake):
    """One update on one batch of both; the mean over it is half the sum that `apart` has."""
    labels = [tf.fill((tf.shape(x)[0], 1), y) for x, y in ((real, 1.0), (fake, 0.0))]
    return [[(tf.concat([real, fake], 0), tf.concat(labels, 0))]]


def cross_entropy(logits, label):
    """-E[label log D + (1 - label) log(1 - D)] for labels that are 0 or 1."""
    return tf.reduce_mean(tf.nn.softplus((1.0 - 2.0 * label) * logits))


def make_alternating_step(
    discriminator,
    generator,
    *,
    d_optimizer,
    g_optimizer,
    latent_dim,
    seed,
    draw=sample_latents,
    show=apart,
    predicts=False,
):
    """Make a training step in which D is updated first, and G against the D that results.

    D is in training mode throughout: its batch normalization uses the batch that it is shown.

    Args:
        draw: as `latents.sample_latents`; two draws a step.
        show: `apart`, `in_turn` or `together`.
        predicts: where True, D's fake images are made of noise of their own with the moving
            statistics of G, as by Keras' `predict`; else they are those that G then learns from.
        The rest is as for `steps.make_train_step`.

    Returns:
        `tf.function` as that of `steps.make_train_step`. Each logit is reported as it was
        before the update that it led to; d_loss is the sum over real and fake in every case.
    """
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    def teach_discriminator(real, fake):
        logits = []
        for lesson in show(real, fake):
            with tf.GradientTape() as tape:
                answers = [discriminator(images, training=True) for images, _ in lesson]
                pairs = zip(answers, lesson, strict=True)
                loss = tf.add_n([cross_entropy(answer, label) for answer, (_, label) in pairs])
            d_optimizer.apply(tape.gradient(loss, d_vars), d_vars)
            logits += answers
        return tf.split(tf.concat(logits, 0), 2)

    @tf.function
    def train_step(real, step):
        count, step = tf.shape(real)[0], 2 * tf.cast(step, tf.int64)
        if predicts:
            shown = generator(draw(count, latent_dim, seed=seed, step=step), training=False)
        with tf.GradientTape() as tape:
            fake = generator(draw(count, latent_dim, seed=seed, step=step + 1), training=True)
            with tape.stop_recording():  # D learns of these images, and G nothing of that
                logits = teach_discriminator(real, shown if predicts else fake)
            g_loss = losses.generator_loss(discriminator(fake, training=True))
        g_optimizer.apply(tape.gradient(g_loss, g_vars), g_vars)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in logits)
        d_loss = losses.discriminator_loss(*logits)
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    return train_step


# The plain game with further terms, as functions (discriminator, generator, seed) -> terms.


def no_terms(discriminator, generator, seed):
    return ()


def gradient_penalty(weight):
    """Terms of D's loss, as a function of (discriminator, generator, seed)."""

    def make_terms(discriminator, generator, seed):
        def term(real, fake, step):
            draw = {"seed": seed, "step": step}
            return weight * losses.gradient_penalty(discriminator, real, fake, **draw)

        return [term]

    return make_terms


def r1_penalty(weight, *, every=1):
    """Terms of D's loss, as a function of (discriminator, generator, seed)."""

    def make_terms(discriminator, generator, seed):
        def term(real, fake, step):
            return weight * losses.r1_penalty(discriminator, real)

        # In every step there is no branch, which XLA does not compile where D moves several times.
        return [term if every == 1 else losses.lazily(term, every=every)]

    return make_terms


def make_step_with_terms(
    discriminator,
    generator,
    *,
    d_optimizer,
    g_optimizer,
    objective,
    latent_dim,
    seed,
    d_terms=no_terms,
    g_terms=no_terms,
    d_steps=1,
    constrain=None,
):
    """The step of the plain game, d_terms and g_terms added to the losses."""
    play = steps.make_gan_play(
        discriminator,
        generator,
        objective=objective,
        latent_dim=latent_dim,
        seed=seed,
        d_terms=d_terms(discriminator, generator, seed),
        g_terms=g_terms(discriminator, generator, seed),
    )
    return steps.make_step(
        play,
        discriminator.trainable_variables,
        generator.trainable_variables,
        d_optimizer=d_optimizer,
        g_optimizer=g_optimizer,
        d_steps=d_steps,
        constrain=constrain,
    )


simultaneous = partial(steps.make_train_step, objective=losses.non_saturating)
adam = keras.optimizers.Adam
glorot = "glorot_uniform"  # Keras' own default, with which these programs were written

# The one place for the course's own settings. The plain DCGAN keeps the five rules of its paper.
PLAIN = System(
    title="the plain DCGAN",
    make_discriminator=partial(networks.dcgan_discriminator, MNIST),
    make_generator=partial(networks.dcgan_generator, 64, MNIST),
    make_optimizer=partial(adam, 1e-3, beta_1=0.5, beta_2=0.99),
    make_step=simultaneous,
    batch_size=64,
    latent_dim=64,
    fast=True,
    averaged=True,
    per_call=10,
)
R1 = r1_penalty(1.0, every=4)
COURSE = PLAIN._replace(
    title="the course's DCGAN",
    make_discriminator=partial(PLAIN.make_discriminator, dense_widths=(256,)),
    make_generator=partial(networks.dcgan_generator, 32, MNIST),
    make_optimizer=partial(adam, 1e-3, beta_1=0.0, beta_2=0.99),
    make_step=partial(make_step_with_terms, objective=losses.hinge, d_terms=R1),
    latent_dim=32,
)

SYSTEMS = {
    "course": COURSE,
    "S1": System(
        title="TF2 DCGAN",
        make_discriminator=partial(
            networks.dcgan_discriminator,
            MNIST,
            widths=(64, 128),
            after_conv=leaky_dropout,
            kernel_initializer=glorot,
        ),
        make_generator=partial(
            networks.dcgan_generator,
            100,
            MNIST,
            widths=(256, 128, 64),
            scales=(1, 2, 2),
            enlarge=networks.transposed_conv,
            kernel_size=5,
            after_dense=bn_leaky,
            after_conv=bn_leaky,
            kernel_initializer=glorot,
        ),
        make_optimizer=partial(adam, 1e-4),
        make_step=simultaneous,
        batch_size=256,
    ),
    "S2": System(
        title="upsampling DCGAN",
        make_discriminator=partial(
            networks.dcgan_discriminator,
            MNIST,
            widths=(64, 128),
            after_conv=bn_leaky_dropout_08,
            kernel_initializer=glorot,
        ),
        make_generator=partial(
            networks.dcgan_generator,
            100,
            MNIST,
            widths=(128, 128, 64),
            scales=(2, 2, 1),
            enlarge=plain_upsample_conv,
            kernel_size=5,
            after_dense=keras.ops.leaky_relu,
            after_conv=bn_relu_08,
            use_bias=True,
            kernel_initializer=glorot,
        ),
        make_optimizer=partial(adam, 2e-4, beta_1=0.5),
        make_step=partial(make_alternating_step, show=in_turn, predicts=True),
        batch_size=32,
    ),
    "S3": System(
        title="tanh and max-pool GAN",
        make_discriminator=max_pool_discriminator,
        make_generator=tanh_generator,
        make_optimizer=partial(keras.optimizers.SGD, 1e-3, momentum=0.9, nesterov=True),
        make_step=partial(
            make_alternating_step, show=together, predicts=True, draw=uniform_latents
        ),
        batch_size=128,
        draw=uniform_latents,
    ),
    "S4": System(
        title="MLP GAN with batch norm",
        make_discriminator=partial(networks.mlp_discriminator, MNIST),
        make_generator=partial(networks.mlp_generator, 100, MNIST, after_dense=leaky_bn_08),
        make_optimizer=partial(adam, 2e-4, beta_1=0.5),
        make_step=partial(make_alternating_step, show=in_turn, predicts=True),
        batch_size=128,
        per_call=20,
    ),
    "S5": System(
        title="plain MLP GAN",
        make_discriminator=partial(networks.mlp_discriminator, MNIST),
        make_generator=partial(networks.mlp_generator, 64, MNIST),
        make_optimizer=partial(adam, 2e-4, beta_1=0.5, beta_2=0.999),
        make_step=make_alternating_step,
        batch_size=100,
        latent_dim=64,
        per_call=20,
    ),
}


# The way from a plain small DCGAN to the course's, one change at a time, each kept for the next;
# and what else was tried, one change to the plain DCGAN.


def dcgan(title, base, *, g=None, d=None, **changes):
    """A system like `base`; g, d: other arguments of its builders; changes: fields of `System`."""
    make_generator = partial(base.make_generator, **(g or {}))
    make_discriminator = partial(base.make_discriminator, **(d or {}))
    return base._replace(
        title=title, make_generator=make_generator, make_discriminator=make_discriminator, **changes
    )


WIDE = {"widths": (64, 64, 32, 16), "scales": (2, 2, 1, 1)}
SLOW = {"after_dense": plain_bn_relu, "after_conv": plain_bn_relu, "enlarge": plain_upsample_conv}
FUSED_NORM = {"after_dense": networks.bn_relu, "after_conv": networks.bn_relu}

STEPS = {"small": dcgan("plain, small", PLAIN, g=WIDE | SLOW, fast=False, averaged=False)}
STEPS["average"] = dcgan("+ average of G", STEPS["small"], averaged=True)
STEPS["bfloat16"] = dcgan("+ bfloat16", STEPS["average"], fast=True)
STEPS["norm"] = dcgan("+ fused batch norm", STEPS["bfloat16"], g=FUSED_NORM)
STEPS["upsample"] = dcgan(
    "+ fused upsampling", STEPS["norm"], g={"enlarge": networks.upsample_conv}
)
STEPS["plain"] = PLAIN  # + fewer channels where the map is large
STEPS["hidden"] = dcgan("+ hidden layer in D", PLAIN, d={"dense_widths": (256,)})
STEPS["r1"] = dcgan(
    "+ R1 penalty",
    STEPS["hidden"],
    make_step=partial(make_step_with_terms, objective=losses.non_saturating, d_terms=R1),
)
STEPS["hinge"] = dcgan("+ hinge loss", STEPS["r1"], make_step=COURSE.make_step)
# The course's: + 32 latents, beta_1 of 0.

TRIED = {
    "transposed": dcgan(
        "transposed convolutions", PLAIN, g={"enlarge": networks.transposed_conv, "kernel_size": 4}
    ),
    "small step": dcgan(
        "step size 2e-4", PLAIN, make_optimizer=partial(adam, 2e-4, beta_1=0.5, beta_2=0.99)
    ),
    "large step": dcgan(
        "step size 2e-3", PLAIN, make_optimizer=partial(adam, 2e-3, beta_1=0.5, beta_2=0.99)
    ),
    "batch 32": dcgan("batch of 32", PLAIN, batch_size=32),
    "batch 128": dcgan("batch of 128", PLAIN, batch_size=128),
    "large D": dcgan("D twice as wide", PLAIN, d={"widths": (64, 128)}),
    "norm in D": dcgan("batch norm in D", PLAIN, d={"after_conv": bn_leaky_02}),
    "dropout in D": dcgan("dropout in D", PLAIN, d={"after_conv": leaky_dropout}),
    "He": dcgan(
        "He initialization",
        PLAIN,
        g={"kernel_initializer": "he_normal"},
        d={"kernel_initializer": "he_normal"},
    ),
}


# The plain DCGAN with other losses; networks, optimizers, averaging and precision stay.


def spectral_discriminator():
    """Its discriminator, every kernel divided by its largest singular value."""

    def rebuilt(layer):
        copy = type(layer).from_config(layer.get_config())
        return SpectralNormalization(copy) if hasattr(layer, "kernel") else copy

    return keras.models.clone_model(PLAIN.make_discriminator(), clone_function=rebuilt)


def with_loss(title, objective, *, d_steps=1, d_terms=no_terms, constrain=None, **changes):
    """The plain DCGAN with another loss; every update of D sees as many images as before.

    changes: other fields of `System`.
    """
    make_step = partial(
        make_step_with_terms,
        objective=objective,
        d_steps=d_steps,
        d_terms=d_terms,
        constrain=constrain,
    )
    batch_size = d_steps * PLAIN.batch_size
    return PLAIN._replace(title=title, make_step=make_step, batch_size=batch_size, **changes)


CRITIC_STEPS = 2  # updates of a critic for each of G


def critic_game(title, *, rates, objective=losses.wasserstein, limit=None, weight=None):
    """The plain DCGAN with a critic in place of D, and optimizers as in Gulrajani et al. 2017.

    rates: step sizes of the critic and of G. limit: of clipped weights; weight: of the penalty.
    """
    make_d_optimizer, make_optimizer = (partial(adam, r, beta_1=0.0, beta_2=0.9) for r in rates)
    return with_loss(
        title,
        objective,
        d_steps=CRITIC_STEPS,
        d_terms=gradient_penalty(weight) if weight else no_terms,
        constrain=partial(losses.clip_weights, limit=limit) if limit else None,
        make_d_optimizer=make_d_optimizer,
        make_optimizer=make_optimizer,
    )


# What was tried for the two critics, one short run each: the bound, the two step sizes.
CLIPPING = (
    (0.01, (3e-4, 1e-3)),
    (0.03, (1e-3, 1e-3)),
    (0.1, (3e-3, 1e-3)),
    (0.03, (1e-3, 3e-4)),
)
PENALTY = (
    (10.0, (1e-3, 1e-3)),
    (10.0, (3e-3, 1e-3)),
    (1.0, (3e-3, 1e-3)),
    (10.0, (1e-3, 3e-4)),
)
TRIALS = {
    f"{name}-{i}": critic_game(
        f"{key} {value:g}, steps of {rates[0]:g} and {rates[1]:g}", rates=rates, **{key: value}
    )
    for name, key, tried in (("clipping", "limit", CLIPPING), ("penalty", "weight", PENALTY))
    for i, (value, rates) in enumerate(tried)
}
CHOSEN = {"clipping": 0, "penalty": 1}  # the nearest to real images of each
R1_WEIGHT = 1.0

LOSSES = {
    "loss-minimax": with_loss("minimax", losses.minimax),
    "loss-nonsat": with_loss("non-saturating", losses.non_saturating),
    "loss-squares": with_loss("least squares", losses.least_squares),
    "loss-hinge": with_loss("hinge", losses.hinge),
    "loss-spectral": with_loss("hinge, spectral norm", losses.hinge)._replace(
        make_discriminator=spectral_discriminator
    ),
    **{
        f"loss-{name}": TRIALS[f"{name}-{i}"]._replace(title=f"Wasserstein, {name}")
        for name, i in CHOSEN.items()
    },
    "loss-recipe": critic_game(
        "non-saturating, critic's recipe",
        rates=PENALTY[CHOSEN["penalty"]][1],
        objective=losses.non_saturating,
    ),
    "loss-r1": with_loss(
        "non-saturating, R1", losses.non_saturating, d_terms=r1_penalty(R1_WEIGHT)
    ),
}
ALL = SYSTEMS | STEPS | TRIED | LOSSES | TRIALS


def start(system, *, seed):
    """Build a system from nothing; the dtype policy is afterwards what it was before.

    Args:
        system: one of `SYSTEMS.values()`.
        seed: integer in 0..2**32 - 1; decides the first weights, the dropout and the noise.

    Returns:
        `training.Run`, whose average is the generator that samples come from, in float32; and its
        training step.
    """
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(seed)
    try:
        keras.config.set_dtype_policy("float32")
        average = system.make_generator()
        if system.fast:
            runtime.fast_precision()
        discriminator, generator = system.make_discriminator(), system.make_generator()
    finally:
        keras.config.set_dtype_policy(policy)
    average.set_weights(generator.get_weights())
    make_d_optimizer = system.make_d_optimizer or system.make_optimizer
    optimizers = {"d_optimizer": make_d_optimizer(), "g_optimizer": system.make_optimizer()}
    run = training.Run(discriminator, generator, average=average, **optimizers)
    sizes = {"latent_dim": system.latent_dim, "seed": seed}
    train_step = system.make_step(discriminator, generator, **sizes, **optimizers)
    if system.averaged:
        train_step = steps.with_ema(train_step, generator, average)
    return run, train_step


def sample(run, system, count, *, seed):
    """Draw images from the generator that a reader would end up with, in inference mode.

    float32 array (count, 28, 28, 1) in [-1, 1]; noise of a step that no training has, -1.
    """
    if not system.averaged:
        run.average.set_weights(run.generator.get_weights())
    z = system.draw(count, system.latent_dim, seed=seed, step=-1)
    return run.average.predict(z, batch_size=500, verbose=0)
