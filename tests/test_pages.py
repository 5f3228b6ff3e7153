"""The pages that open from disk: whole in themselves, and their mathematics is the package's.

What needs a browser is slow, and is skipped only where no Chromium is on the machine.
"""

from ganutils import runtime  # noqa: F401, I001  # first: TensorFlow without its messages

import base64
import importlib.util
import json
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import browser
import imageio.v3 as imageio
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils import data, losses, metrics, networks, steps, stroke_attributes
from ganutils.families.export import write_digits_page
from ganutils.latents import join_classes, sample_latents, slerp, stream

PAGES = Path(__file__).parents[1] / "notebooks" / "pages"
PLAYGROUND, DIGITS = PAGES / "playground.html", PAGES / "digits.html"
SEED, BATCH = 5, 32
needs_browser = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"
)


class Elements(HTMLParser):
    """All elements of a page, as (tag, attributes)."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


# Without a browser.


@pytest.mark.parametrize("path, limit", [(PLAYGROUND, 100_000), (DIGITS, 1_000_000)])
def test_nothing_is_fetched(path, limit):
    page = path.read_text()
    assert not re.search(r"https?:|\bsrc\s*=|url\(|@import|\bimport\b.*from|fetch\(|XMLHttp", page)
    assert "<link" not in page
    assert path.stat().st_size < limit


@pytest.mark.parametrize(
    "path, blocks",
    [
        (PLAYGROUND, ["mathematics", "worlds", "trainer", "experiments", "page"]),
        (DIGITS, ["mathematics", "page"]),
    ],
)
def test_the_mathematics_is_a_block_of_its_own(path, blocks):
    page = path.read_text()
    found = dict(re.findall(r'(?s)<script id="(\w+)">(.*?)</script>', page))
    assert list(found) == blocks
    assert not re.search(r"\b(document|window|self|postMessage)\b", found["mathematics"])
    assert max(map(len, page.splitlines())) <= 110


@pytest.mark.parametrize("path, count", [(PLAYGROUND, 5), (DIGITS, 2)])
def test_everything_that_is_seen_has_words(path, count):
    elements = Elements(path.read_text()).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [attributes for tag, attributes in elements if tag == "canvas"]
    assert len(pictures) == count
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    labelled = {attributes["for"] for tag, attributes in elements if tag == "label"}
    choices = {attributes["id"] for tag, attributes in elements if tag in ("select", "input")}
    assert choices <= labelled <= set(ids)
    assert {"alert", "status"} <= {attributes.get("role") for _, attributes in elements}


# The page that draws digits: how it is written.


def normalized_leaky(x):
    return keras.ops.leaky_relu(layers.BatchNormalization()(x), 0.1)


def leaky(x):
    return layers.LeakyReLU(0.2)(x)


TRANSPOSED = {"enlarge": networks.transposed_conv}
DESIGNS = {
    "the course's": {},
    "transposed 4x4": TRANSPOSED | {"kernel_size": 4, "after_conv": normalized_leaky},
    "transposed 5x5": TRANSPOSED | {"kernel_size": 5, "use_bias": True},
    "transposed 2x2 by three": TRANSPOSED | {"kernel_size": 2, "scales": (1, 3, 2)},
    "upsampled by three": {"scales": (1, 3, 2), "kernel_size": 5, "use_bias": True},
    "activations": {"after_dense": keras.activations.tanh, "after_conv": leaky},
}


def conditional_generator(*, latent_dim=6, classes=10, shape=(24, 24, 1), **design):
    """A generator whose weights are all at random, and count, statistics included."""
    keras.utils.set_random_seed(SEED)
    sizes = {"widths": (16, 9, 5)} | design
    generator = networks.dcgan_generator(latent_dim + classes, shape, **sizes)
    for weight in generator.weights:
        values = np.random.uniform(0.5, 1.5, weight.shape)
        weight.assign(values if weight.path.endswith("variance") else values - 1)
    return generator


def directions_of(latent_dim):
    return {name: np.eye(latent_dim)[i] for i, name in enumerate(("slant", "stroke width"))}


def write(generator, path, *, classes=10, template=DIGITS, **directions):
    directions = directions or directions_of(generator.input_shape[-1] - classes)
    write_digits_page(generator, directions, path, classes=classes, template=template)
    return path


def blocks_of(path):
    """What a page says of its generator, and its weights, float16 (count,)."""
    found = re.findall(r'(?s)<script id="\w+" type="[a-z/]+">(.*?)</script>', path.read_text())
    model, weights = found
    return json.loads(model), np.frombuffer(base64.b64decode(weights), "<f2")


def test_weights_are_kept_as_float16(tmp_path):
    generator = conditional_generator(after_dense=leaky, after_conv=leaky, use_bias=True)
    model, weights = blocks_of(write(generator, tmp_path / "page.html"))
    expected = np.concatenate([np.ravel(weight) for weight in generator.get_weights()])
    np.testing.assert_array_equal(weights, expected.astype(np.float16))
    assert np.abs(weights - expected).max() > 0
    assert model["directions"] == {k: v.tolist() for k, v in directions_of(6).items()}
    assert [model[name] for name in ("latent_dim", "classes", "image_shape")] == [
        6,
        10,
        [24, 24, 1],
    ]
    kinds = [layer["kind"] for layer in model["layers"]]
    assert kinds == ["dense", "relu", "reshape", *["upsample_conv", "relu"] * 2, *kinds[-2:]]
    assert kinds[-2:] == ["upsample_conv", "tanh"] and model["layers"][1]["slope"] == 0.2


def test_a_page_is_a_template_itself(tmp_path):
    generator = conditional_generator(classes=3)
    first = write(generator, tmp_path / "first.html", classes=3, **{"</script>": np.eye(6)[2]})
    second = write(
        generator,
        tmp_path / "second.html",
        classes=3,
        template=first,
        **{"</script>": np.eye(6)[2]},
    )
    assert first.read_bytes() == second.read_bytes()
    assert list(blocks_of(first)[0]["directions"]) == ["</script>"]
    assert first.stat().st_size < 40_000


def with_end(end):
    """A generator whose image goes through one more operation."""
    generator = conditional_generator()
    return keras.Model(generator.input, end(generator.output))


def with_branch():
    generator = conditional_generator()
    output = layers.Add()([generator.output, layers.Activation("tanh")(generator.output)])
    return keras.Model(generator.input, output)


def with_weight(value):
    generator = conditional_generator()
    generator.weights[0].assign(np.full(generator.weights[0].shape, value))
    return generator


def with_two_inputs():
    inputs = keras.Input((6,)), keras.Input((10,))
    return keras.Model(inputs, conditional_generator()(layers.Concatenate()(inputs)))


@pytest.mark.parametrize(
    "make, settings, said",
    [
        (lambda: with_end(layers.Dropout(0.3)), {}, "'dropout.*Dropout.*UpsampleConv2D.*ReLU"),
        (lambda: with_end(layers.ReLU(max_value=1)), {}, "ReLU"),
        (lambda: with_end(layers.Conv2DTranspose(1, 3, 1)), {}, "Conv2DTranspose"),
        (lambda: with_end(layers.BatchNormalization(axis=1)), {}, "BatchNormalization"),
        (lambda: with_end(layers.Activation("gelu")), {}, "Activation"),
        (with_branch, {}, "does not simply follow"),
        (with_two_inputs, {}, "latents, and classes=10"),
        (lambda: conditional_generator(latent_dim=0), {}, "latents, and classes=10"),
        (lambda: conditional_generator(shape=(68, 24, 1)), {}, "at most.*64.*68"),
        (lambda: conditional_generator(shape=(24, 24, 3)), {}, "gray.*24, 24, 3"),
        (lambda: with_weight(1e5), {}, "1e\\+05.*float16"),
        (lambda: with_weight(np.nan), {}, "nan"),
        (lambda: conditional_generator(widths=(400, 100, 9)), {}, "bytes; make.*narrower"),
        (conditional_generator, {"classes": 1}, "classes must be in 2..10"),
        (conditional_generator, {"classes": 11}, "classes must be in 2..10"),
        (conditional_generator, {"slant": np.eye(7)[0]}, r"'slant' must be floats \(6,\)"),
        (conditional_generator, {"slant": 2 * np.eye(6)[0]}, "length 1"),
        (conditional_generator, {"slant": np.full(6, np.nan)}, "length 1"),
        (conditional_generator, {"slant": np.eye(6, dtype=int)[0]}, "floats"),
        (conditional_generator, {"": np.eye(6)[0]}, "direction ''"),
        (conditional_generator, {"template": PLAYGROUND}, "template has no whole script 'model'"),
    ],
)
def test_what_the_page_cannot_draw_is_refused(tmp_path, make, settings, said):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match=said):
        write(make(), path, **settings)
    assert not path.exists()


def test_a_template_that_is_cut_off_is_refused(tmp_path):
    cut = tmp_path / "cut.html"
    cut.write_text(DIGITS.read_text()[:-40])
    with pytest.raises(ValueError, match="no whole script 'weights'"):
        write(conditional_generator(), tmp_path / "page.html", template=cut)


def test_the_course_s_page_has_the_course_s_generator():
    model, weights = blocks_of(DIGITS)
    assert model["image_shape"] == [28, 28, 1] and model["classes"] == 10
    assert list(model["directions"]) == ["slant", "stroke width"]
    assert np.isfinite(weights).all()
    lengths = [np.linalg.norm(direction) for direction in model["directions"].values()]
    np.testing.assert_allclose(lengths, 1, atol=1e-4)


# In a browser.


@needs_browser
@pytest.mark.slow
def test_PLACEHOLDER():
    pass


@pytest.fixture(scope="module")
def page():
    with browser.open_browser() as opened:
        opened.open(PLAYGROUND)
        opened.wait("last !== null")
        yield opened


@pytest.fixture
def fresh_page(page):
    """The page as it opens; whatever its scripts throw fails the test."""
    page.requests.clear()
    page.errors.clear()
    page.resize(1440)
    page.open(PLAYGROUND)
    page.wait("last !== null")
    yield page
    assert page.errors == []


def term(weight, function):
    return [] if not weight else [lambda *arguments: weight * function(*arguments)]


class Twin:
    """A game of the package, and what the page needs to play the same one."""

    def __init__(self, loss, *, r1=0, penalty=0, clip=0, d_steps=1):
        keras.utils.set_random_seed(SEED)
        self.d, self.g = networks.point_network(2, 1), networks.point_network(2, 2)
        for player in (self.d, self.g):  # biases, too, are to be seen
            weights = [w + 0.1 * np.random.normal(size=w.shape) for w in player.get_weights()]
            player.set_weights(weights)
        self.clip, self.d_steps = clip, d_steps
        slopes = term(r1, lambda real, fake, step: losses.r1_penalty(self.d, real))
        mixed = term(
            penalty,
            lambda real, fake, step: losses.gradient_penalty(
                self.d, real, fake, seed=SEED, step=step
            ),
        )
        self.play = steps.make_gan_play(
            self.d,
            self.g,
            objective=getattr(losses, loss),
            latent_dim=2,
            seed=SEED,
            d_terms=[*slopes, *mixed],
        )
        name = re.sub(r"_(\w)", lambda match: match[1].upper(), loss)
        self.settings = {"loss": name, "r1": r1, "penalty": penalty, "clip": clip}
        self.settings |= {"dSteps": d_steps, "dRate": 2e-3, "gRate": 1e-3, "fall": 0}
        self.settings |= {"dLearns": True, "gLearns": True, "descent": False}

    def weights(self):
        players = zip("dg", (self.d, self.g), strict=True)
        return {k: np.concatenate([w.ravel() for w in p.get_weights()]) for k, p in players}

    def batches(self, count):
        """What the package draws in so many updates of D, as lists for the page."""
        drawn = []
        for step in range(count):
            real = 2 * data.ring_of_gaussians(BATCH, seed=SEED, step=step, deviation=0.3)
            z = sample_latents(BATCH, 2, seed=SEED, step=step)
            dtype = keras.config.floatx()
            mix = tf.random.stateless_uniform((BATCH, 1), stream(SEED, step, "mix"), dtype=dtype)
            arrays = {"real": real, "z": z, "mix": mix}
            drawn.append({k: np.ravel(v).astype(float).tolist() for k, v in arrays.items()})
        return drawn

    def on_page(self, page, expression, *, updates):
        """Value of an expression in which `game`, `draw` and `settings` are those of this twin."""
        given = {k: v.astype(float).tolist() for k, v in self.weights().items()}
        return page.ask(f"""(() => {{
            const game = makeGame(1), settings = {json.dumps(self.settings)};
            const given = {json.dumps(given)}, batches = {json.dumps(self.batches(updates))};
            for (const name of ["d", "g"]) game[name].parameters.set(given[name]);
            const draw = () => batches.shift();
            {expression}
        }})()""")


OBJECTIVES = ("minimax", "non_saturating", "least_squares", "hinge", "wasserstein")
TERMS = ({}, {"r1": 0.6}, {"penalty": 0.3}, {"r1": 0.5, "penalty": 2.0})


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: "+".join(terms) or "plain")
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_gradients_are_those_of_the_package(page, loss, terms):
    twin = Twin(loss, **terms)
    found = twin.on_page(
        page,
        """
        const batch = draw(), report = playBatch(game, batch, settings);
        const terms = computeDGradient(game, batch, settings);
        computeGGradient(game);
        const list = (network) => [...network.parameters];
        return { ...report, terms, d: list(game.dGradient), g: list(game.gGradient) };
        """,
        updates=1,
    )
    drawn = {k: tf.constant(v, tf.float32) for k, v in twin.batches(1)[0].items()}
    with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
        d_total, g_total, values = twin.play(tf.reshape(drawn["real"], (BATCH, 2)), 0)
    gradients = {
        "d": d_tape.gradient(d_total, twin.d.trainable_variables),
        "g": g_tape.gradient(g_total, twin.g.trainable_variables),
    }
    assert abs(found["dLoss"] - float(values["d_loss"])) < 1e-5
    assert abs(found["dLoss"] + found["terms"] - float(d_total)) < 1e-5
    assert abs(found["gLoss"] - float(g_total)) < 1e-5
    for name, expected in gradients.items():
        expected = np.concatenate([np.ravel(gradient) for gradient in expected])
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)


@pytest.fixture
def double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


GAMES = (
    *[(loss, {}) for loss in OBJECTIVES],
    ("non_saturating", {"r1": 0.6}),
    ("wasserstein", {"penalty": 0.1, "d_steps": 3}),
    ("wasserstein", {"clip": 0.2, "d_steps": 2}),
)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("loss, terms", GAMES, ids=lambda value: str(value))
def test_weights_after_a_few_steps_are_those_of_the_package(page, double_precision, loss, terms):
    # Adam divides a gradient by its own size, which makes rounding errors large: so 64 bits.
    twin, count = Twin(loss, **terms), 5
    before = twin.weights()
    found = twin.on_page(
        page,
        f"""
        for (let i = 0; i < {count}; i++) trainStep(game, draw, settings);
        return {{ d: [...game.d.parameters], g: [...game.g.parameters], step: game.step }};
        """,
        updates=count * twin.d_steps,
    )
    adam = partial(keras.optimizers.Adam, beta_1=0.5, beta_2=0.99)
    train_step = steps.make_step(
        twin.play,
        twin.d.trainable_variables,
        twin.g.trainable_variables,
        d_optimizer=adam(2e-3),
        g_optimizer=adam(1e-3),
        d_steps=twin.d_steps,
        constrain=partial(losses.clip_weights, limit=twin.clip) if twin.clip else None,
    )
    real = np.reshape([b["real"] for b in twin.batches(count * twin.d_steps)], (count, -1, 2))
    for step in range(count):
        train_step(tf.constant(real[step], tf.float64), tf.constant(step, tf.int64))
    assert found["step"] == count
    for name, expected in twin.weights().items():
        assert np.abs(expected - before[name]).max() > 1e-3
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_browser
def test_the_start_is_that_of_keras(page):
    for name, outputs in {"D_SIZES": 1, "G_SIZES": 2}.items():
        kernels = page.ask(f"""(() => {{
            const network = initialize(makeNetwork({name}), makeRandom(1));
            return [...network.kernels, ...network.biases].map((window) => [...window]);
        }})()""")
        theirs = networks.point_network(2, outputs)
        assert sum(map(len, kernels)) == theirs.count_params()
        for kernel, shape in zip(kernels, [w.shape for w in theirs.weights[::2]], strict=False):
            limit = (6 / sum(shape)) ** 0.5
            assert len(kernel) == np.prod(shape)
            assert 0.95 * limit < np.abs(kernel).max() <= limit
            assert abs(np.mean(kernel)) < 4 * limit / (3 * len(kernel)) ** 0.5
        assert not np.concatenate(kernels[4:]).any()


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    "name, modes, deviation", [("ring", data.ring_modes(), 0.01), ("grid", data.grid_modes(), 0.05)]
)
def test_worlds_and_counts_are_those_of_the_package(page, name, modes, deviation):
    drawn, centers = page.ask(f"""(() => {{
        const world = makeWorld("{name}", []);
        return [[...drawReal(world, 2500, makeRandom(1))], world.centers];
    }})()""")
    np.testing.assert_allclose(sorted(centers), sorted(modes.tolist()), atol=1e-6)
    real = np.reshape(drawn, (-1, 2))
    nearest = np.linalg.norm(real[:, None] - np.array(centers), axis=2).argmin(axis=1)
    apart = real - np.array(centers)[nearest]
    assert abs(apart.std() / deviation - 1) < 0.05
    assert np.bincount(nearest).max() < 1.5 * 2500 / len(modes)

    # Half of the modes, and points far from any.
    fake = np.concatenate([real[real[:, 0] > 0.1][:900], real[:300] + 10 * deviation])
    for samples in (real, fake):
        found = page.ask(f"countCoverage({samples.ravel().tolist()}, makeWorld('{name}', []))")
        expected = metrics.mode_coverage(samples, modes, deviation=deviation)
        assert found["modes"] == expected["modes"]
        assert abs(found["inPlace"] - expected["high_quality"]) < 1e-9
    assert 0 < found["modes"] < len(modes)


@pytest.mark.slow
@needs_browser
def test_the_page_plays_without_a_network(fresh_page):
    page = fresh_page
    assert page.ask("byId('message').textContent") == ""
    before = page.ask("byId('plane').toDataURL()")
    page.ask("byId('one').click()")
    page.wait("last.step === 1 && !last.busy && byId('n-step').textContent === '1'")
    page.ask("byId('play').click()")
    page.wait("last.step > 100")
    assert page.ask("byId('plane').toDataURL()") != before
    assert page.ask("curves.modes.values.length") >= 1
    page.ask("byId('play').click()")
    page.wait("!last.busy")
    assert "of 8 modes" in page.ask("byId('live').textContent")
    assert re.search(r"Real points: ring.* \d of 8", page.ask("byId('plane').ariaLabel"))
    assert {address.split(":")[0] for address in page.requests} <= {"file", "blob", "data"}


@pytest.mark.slow
@needs_browser
def test_the_same_seed_gives_the_same_game(fresh_page):
    weights = []
    for seed in (1, 1, 2):
        fresh_page.ask(f"(byId('seed').value = {seed}, readSeed())")
        fresh_page.ask("tell({ steps: 20 })")
        fresh_page.wait("last.round === round && last.step === 20 && !last.busy")
        weights.append(fresh_page.ask("[...last.g]"))
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.slow
@needs_browser
def test_keys_are_enough(fresh_page):
    page = fresh_page
    order = []
    for _ in range(60):
        page.press("Tab", 9)
        order.append(page.ask("document.activeElement.id"))
        if order[-1] == "play":
            break
    page.press("Enter", 13)
    page.wait("last.step > 10")
    assert page.ask("byId('play').textContent") == "Pause"
    page.press("Enter", 13)
    page.wait("!last.busy")
    page.ask("byId('s-r1').focus()")
    page.press("ArrowRight", 39)
    assert page.ask("[settings.r1, byId('s-r1').getAttribute('aria-valuetext')]") == [0.01, "0.01"]

    page.ask(
        "(byId('s-world').value = 'drawing', byId('s-world').dispatchEvent(new Event('input')))"
    )
    page.ask("byId('plane').focus()")
    for key, code in (("ArrowRight", 39), ("Enter", 13), ("ArrowUp", 38), (" ", 32)):
        page.press(key, code)
    drawn = page.ask("drawing")
    np.testing.assert_allclose(drawn, [[0.1, 0], [0.1, 0.1]], atol=1e-9)
    page.ask("byId('play').click()")
    page.wait("last.step > 10")


@pytest.mark.slow
@needs_browser
def test_bad_input_gets_a_message(fresh_page):
    page = fresh_page
    message = "byId('message').textContent"
    page.ask("(settings.world = 'drawing', restart(), byId('play').click())")
    assert "drawing is empty" in page.ask(message)
    assert not page.ask("playing")

    page.ask("(settings.world = 'ring', restart(), byId('seed').value = '1.5', readSeed())")
    assert "whole number" in page.ask(message)
    assert page.ask("[seed, byId('seed').value]") == [1, "1"]

    # Weights that leave the numbers there are.
    page.ask("(settings.dRate = 1e200, restart(), byId('play').click())")
    page.wait("last.broken")
    assert "no longer finite" in page.ask(message)
    page.ask("(settings.dRate = 1e-3, restart(), byId('play').click())")
    page.wait("last.step > 10")
    assert page.ask(message) == ""


@pytest.mark.slow
@needs_browser
def test_a_browser_that_lacks_something_is_told(fresh_page):
    page = fresh_page
    lacking = page.ask("""(() => {
        const before = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = () => null;
        startPage();
        HTMLCanvasElement.prototype.getContext = before;
        return byId("message").textContent;
    })()""")
    assert "lacks a drawing surface" in lacking
    # No thread for the trainer: it plays in the page's.
    page.ask("(Worker = class { constructor() { throw Error(); } }, startTrainer(), play())")
    page.wait("port instanceof MessagePort && last.step > 10")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_small_and_large_screens(fresh_page, width, scheme):
    page = fresh_page
    page.resize(width, scheme=scheme)
    page.wait(f"window.innerWidth === {width}")
    assert page.ask("document.documentElement.scrollWidth") <= width
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
    if width == 1440:  # all in one view
        assert page.ask("byId('coverage').getBoundingClientRect().bottom") <= 900
        assert page.ask("byId('numbers').getBoundingClientRect().bottom") <= 900


@pytest.mark.slow
@needs_browser
def test_ten_experiments_play(fresh_page):
    page = fresh_page
    experiments = page.ask("EXPERIMENTS")
    assert len(experiments) == 10
    notebooks = "".join(experiment["notebook"] for experiment in experiments)
    assert all(f"Notebook {number}" in notebooks for number in (1, 7, 8))
    names = page.ask("Object.keys(DEFAULTS)")
    for number, experiment in enumerate(experiments):
        assert set(experiment["settings"]) <= set(names)
        page.ask(f"(byId('experiment').value = {number}, showExperiment(), setUp(), play())")
        page.wait("last.step > 20")
        for key, value in experiment["settings"].items():
            assert page.ask(f"settings.{key}") == value
        for one in page.ask("CONTROLS.filter(({ name }) => name)"):
            known = one.get("values") or one.get("options") or [False, True]
            assert page.ask(f"settings.{one['name']}") in known
        words = page.ask("byId('words').textContent")
        assert all(experiment[part][:20] in words for part in ("predict", "watch"))
