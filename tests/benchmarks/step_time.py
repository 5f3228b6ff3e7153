"""How fast is the loop? Ours and a plain tutorial loop, side by side, in one run, as a ratio.

    python tests/benchmarks/step_time.py [--seconds 180] [--only s1,s5,toy] [--save]

The plain loop is that of the usual program: `tf.data` of float32 images, shuffled and batched;
`tf.random.normal`; two tapes in one `tf.function`; a pass of D over real and one over fake images;
Keras' Adam; a Python loop. Ours is the compiled loop of `training.train` on `data.batches`, with
history and live view. Batch size, optimizer and process are the same, and the networks compute the
same function: ours have the course's fused batch normalization. Blocks of steps alternate; a time
is the median over the blocks of one loop, a ratio the median of ratios of neighboring blocks, so
that a machine that is busy for a while slows both sides. The cost of data and history is that of
our loop over the bare step on one constant batch. On the toy, a ring of Gaussians with the networks
of notebook 7, "drawn" is `training.make_loop`: steps and data as one program. --save writes
notebooks/assets/results/step_time.json.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import matplotlib
import numpy as np
import systems
import tensorflow as tf

from ganutils import data, figures, latents, losses, networks, runtime, steps, training
from ganutils.layers import FusedBatchNormalization

SAVED = record.RESULTS / "step_time.json"
POINTS = 20_000  # of the toy data


class Case(NamedTuple):
    """What both loops train.

    data: function () -> real samples. networks, ours: functions () -> discriminator, generator.
    block: steps in a row of one loop. per_call: steps of one call of ours. every: steps between two
    drawings of the live view.
    """

    data: Callable
    batch_size: int
    latent_dim: int
    make_optimizer: Callable
    networks: Callable
    ours: Callable
    block: int
    per_call: int
    every: int


def images():
    return data.load_images("auto")[0]


def ring():
    return data.ring_of_gaussians(POINTS, seed=1, step=0).numpy()


def toy_players():
    """The networks of notebook 7."""
    return networks.point_network(2, 1), networks.point_network(2, 2)


def fused_bn_leaky(x):
    """As `systems.bn_leaky`, with the normalization in one operation."""
    return systems.leaky_03(FusedBatchNormalization()(x))


def classic(name, *, block, every, **ours):
    """One of the classic systems; ours: other arguments of our generator's builder."""
    system = systems.SYSTEMS[name]
    return Case(
        data=images,
        batch_size=system.batch_size,
        latent_dim=system.latent_dim,
        make_optimizer=system.make_optimizer,
        networks=lambda: (system.make_discriminator(), system.make_generator()),
        ours=lambda: (system.make_discriminator(), system.make_generator(**ours)),
        block=block,
        per_call=system.per_call,
        every=every,
    )


fused = {"after_dense": fused_bn_leaky, "after_conv": fused_bn_leaky}
CASES = {
    "s1": classic("S1", block=2, every=234, **fused),  # it draws once an epoch
    "s5": classic("S5", block=40, every=600),
    "toy": Case(
        data=ring,
        batch_size=128,
        latent_dim=2,
        make_optimizer=partial(systems.adam, 1e-3, beta_1=0.5),
        networks=toy_players,
        ours=toy_players,
        block=200,
        per_call=100,
        every=1000,
    ),
}


# The loops: functions of a number of steps. All end when the last step has.


def plain_loop(case, real):
    """The usual program, with nothing of ours."""
    discriminator, generator = case.networks()
    d_optimizer, g_optimizer = case.make_optimizer(), case.make_optimizer()
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    batch_size, latent_dim = case.batch_size, case.latent_dim

    @tf.function
    def train_step(real):
        noise = tf.random.normal([batch_size, latent_dim])
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = generator(noise, training=True)
            real_logits = discriminator(real, training=True)
            fake_logits = discriminator(fake, training=True)
            g_loss = cross_entropy(tf.ones_like(fake_logits), fake_logits)
            d_loss = cross_entropy(tf.ones_like(real_logits), real_logits)
            d_loss += cross_entropy(tf.zeros_like(fake_logits), fake_logits)
        g_gradients = g_tape.gradient(g_loss, generator.trainable_variables)
        d_gradients = d_tape.gradient(d_loss, discriminator.trainable_variables)
        g_optimizer.apply_gradients(zip(g_gradients, generator.trainable_variables, strict=True))
        d_optimizer.apply_gradients(
            zip(d_gradients, discriminator.trainable_variables, strict=True)
        )

    batches = tf.data.Dataset.from_tensor_slices(real).shuffle(60_000)
    # The program's last batch is short and traced anew; leaving it out is in its favor.
    batches = iter(batches.batch(batch_size, drop_remainder=True).repeat())

    def run(steps):
        for _ in range(steps):
            train_step(next(batches))
        int(d_optimizer.iterations)  # what is still under way on a GPU ends here

    return run


class View(figures.LiveView):
    """A live view that draws its figure without a notebook to show it in."""

    def __call__(self, progress):
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
        figures.draw_images(axes[0], self.sample(), title="samples, fixed latents")
        figures.draw_history(axes[1], axes[2], progress.history)
        figure.canvas.draw()
        plt.close(figure)


def our_step(case):
    discriminator, generator = case.ours()
    train_step = steps.make_train_step(
        discriminator,
        generator,
        d_optimizer=case.make_optimizer(),
        g_optimizer=case.make_optimizer(),
        objective=losses.non_saturating,
        latent_dim=case.latent_dim,
        seed=1,
    )
    return train_step, generator


def loop_of(case, draw, *, per_call, jit_compile=False):
    """Our loop, made once, so that no block pays for tracing it again; draw: step -> batch."""
    train_step, _ = our_step(case)
    step, history = tf.Variable(0, dtype=tf.int64), {}
    take = training.make_loop(train_step, draw, step, jit_compile=jit_compile)

    def run(steps):
        for _ in range(steps // per_call):
            for name, values in take(per_call).items():
                history.setdefault(name, []).extend(values)

    return run


def our_loop(case, real):
    """What `train` does."""
    batches = iter(data.batches(real, case.batch_size, seed=1))
    return loop_of(case, lambda step: next(batches), per_call=case.per_call)


def drawn_loop(case):
    """The loop of the toy notebooks: one program, points drawn inside it."""

    def draw(step):
        return data.ring_of_gaussians(case.batch_size, seed=1, step=step)

    return loop_of(case, draw, per_call=case.block, jit_compile=True)


def bare_loop(case, real):
    """The compiled steps on one batch again and again: neither data nor history."""
    train_step, _ = our_step(case)
    batch, step = tf.constant(real[: case.batch_size]), tf.Variable(0, dtype=tf.int64)
    take = training.make_loop(train_step, lambda step: batch, step, jit_compile=False)

    def run(steps):
        for _ in range(steps // case.per_call):
            take(case.per_call)

    return run


def view_seconds(case):
    """Seconds that one drawing of the live view takes, median of three after one."""
    _, generator = our_step(case)
    fixed = latents.sample_latents(16, case.latent_dim, seed=2, step=0)
    view = View(lambda: generator(fixed, training=False))
    rng = np.random.default_rng(0)
    names = ("d_loss", "g_loss", "d_real", "d_fake")
    history = {name: rng.uniform(size=10 * case.every).tolist() for name in names}
    times = []
    for _ in range(4):
        start = time.perf_counter()
        view(training.Progress(1, 2, history, 0.0))
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


# Measuring.


def alternate(loops, block, seconds):
    """Milliseconds per step of each loop: arrays with a number a block, blocks taken in turn."""
    for run in loops.values():
        run(block)  # traces, and warms up
    times, end = {name: [] for name in loops}, time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(loops))]) < 3:
        for name, run in loops.items():
            start = time.perf_counter()
            run(block)
            times[name].append(1000 * (time.perf_counter() - start) / block)
    return {name: np.array(laps) for name, laps in times.items()}


def layer_flops(layer):
    """Floating-point operations of one example's forward pass, 2 for a multiplication and addition.

    Only convolutions and dense layers, which are nearly all of it. Products with padding count.
    """
    if not hasattr(layer, "kernel"):
        return 0
    per_position = 2 * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return per_position * math.prod(layer.input.shape[1:3])
    if isinstance(layer, keras.layers.Conv2D):
        return per_position * math.prod(layer.output.shape[1:3])
    return per_position


def step_flops(case):
    """Floating-point operations of one training step, by the shapes of the layers.

    A backward pass through a layer costs a forward pass to its kernel and one to its input; the
    first layer needs no gradient of its input, unless that is a generated image.
    """
    discriminator, generator = case.networks()
    d = [layer_flops(layer) for layer in discriminator.layers if hasattr(layer, "kernel")]
    g = [layer_flops(layer) for layer in generator.layers if hasattr(layer, "kernel")]
    real = fake = 3 * sum(d) - d[0]
    through_d = sum(d)  # from G's loss back to the image
    return case.batch_size * (real + fake + through_d + 3 * sum(g) - g[0])


def machine_rates():
    """GFLOP/s of one large convolution and one large matrix product, best of 8, in each type."""
    rates = {}
    for name in ("float32", "bfloat16"):
        kind = tf.as_dtype(name)
        a, b = (tf.cast(tf.random.normal((2048, 2048)), kind) for _ in range(2))
        x = tf.cast(tf.random.normal((64, 28, 28, 128)), kind)
        kernel = tf.cast(tf.random.normal((3, 3, 128, 128)), kind)
        product = tf.function(lambda a=a, b=b: tf.reduce_max(a @ b))
        convolution = tf.function(
            lambda x=x, kernel=kernel: tf.reduce_max(tf.nn.conv2d(x, kernel, 1, "SAME"))
        )
        for what, run, flops in (
            ("matrix product", product, 2 * 2048**3),
            ("convolution", convolution, 2 * 64 * 28 * 28 * 9 * 128 * 128),
        ):
            laps = []
            for _ in range(9):
                start = time.perf_counter()
                float(run())
                laps.append(time.perf_counter() - start)
            rates[f"{what}, {name}"] = flops / min(laps[1:]) / 1e9
    return rates


def measure(name, *, seconds, fast):
    """All loops on one system; returns its figures and prints them."""
    case, loops = CASES[name], {}
    real = case.data()
    keras.utils.set_random_seed(1)
    loops["plain"] = plain_loop(case, real)
    loops["ours"] = our_loop(case, real)
    loops["bare"] = bare_loop(case, real)
    if name == "toy":
        loops["drawn"] = drawn_loop(case)
    flops = step_flops(case)
    drawing = view_seconds(case) if name != "toy" else 0.0  # the toy has no images to draw
    if fast:
        keras.config.set_dtype_policy("mixed_bfloat16")
        loops["ours, bfloat16"] = our_loop(case, real)
        loops["bare, bfloat16"] = bare_loop(case, real)
        keras.config.set_dtype_policy("float32")
    times = alternate(loops, case.block, seconds)
    medians = {loop: float(np.median(laps)) for loop, laps in times.items()}
    ratio = {k: float(np.median(times["plain"] / laps)) for k, laps in times.items()}
    result = {
        "batch_size": case.batch_size,
        "per_call": case.per_call,
        "blocks": len(times["plain"]),
        "ms_per_step": medians,
        "fastest_ms_per_step": {loop: float(laps.min()) for loop, laps in times.items()},
        "times_plain": ratio,
        "gflop_per_step": flops / 1e9,
        "gflop_per_s": {loop: flops / 1e6 / ms for loop, ms in medians.items()},
    }
    for suffix in ("", ", bfloat16") if fast else ("",):
        ours, bare = times["ours" + suffix], times["bare" + suffix]
        loop_cost = float(np.median(ours / bare)) - 1
        view_cost = 1000 * drawing / case.every / float(np.median(bare))
        result["cost" + suffix] = {"data and history": loop_cost, "live view": view_cost}
    print(f"\n{name}: batch {case.batch_size}, {flops / 1e9:.3g} GFLOP a step, ", end="")
    print(f"{result['blocks']} blocks of {case.block} steps each")
    for loop, ms in medians.items():
        line = f"  {loop:16} {ms:9.3f} ms a step, {ratio[loop]:5.2f} times plain"
        print(f"{line}, {result['gflop_per_s'][loop]:7.1f} GFLOP/s")
    for key, cost in result.items():
        if key.startswith("cost"):
            parts = ", ".join(f"{part} {100 * share:.2f} %" for part, share in cost.items())
            print(f"  {key} over the bare step: {parts} (a view every {case.every} steps)")
    return result


def main(arguments=None):
    parser = record.make_parser(__doc__)
    add, names = parser.add_argument, record.names_of(CASES)
    add("--seconds", type=record.positive, default=180, help="measuring time, all together")
    add("--only", type=names, default=list(CASES), help="s1,s5,toy")
    add("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    fast = runtime.fast_precision() == "mixed_bfloat16"
    keras.config.set_dtype_policy("float32")
    about, rates = record.about(), machine_rates()
    print(about["machine"], about["versions"])
    print("GFLOP/s of one large", {k: round(v) for k, v in rates.items()})
    shares = {"s1": 6, "s5": 1, "toy": 1}  # S1's steps are long
    second = options.seconds / sum(shares[name] for name in options.only)
    found = {name: measure(name, seconds=shares[name] * second, fast=fast) for name in options.only}
    if options.save:
        command = record.command(__file__, arguments)
        record.save(SAVED, command=command, **about, gflop_per_s=rates, systems=found)


if __name__ == "__main__":
    matplotlib.use("agg")  # the live view is drawn, and shown nowhere
    main()
