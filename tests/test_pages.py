"""The pages that open from disk: whole in themselves, and their mathematics is the package's.

What needs a browser is slow, and is skipped only where no Chromium is on the machine.
"""

from ganutils import runtime  # noqa: F401, I001  # first: TensorFlow without its messages

import base64
import importlib.util
import json
import re
import time
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
    """A generator whose weights are all at random, and count, statistics included.

    float16 holds them exactly; a factor of batch normalization is still rounded.
    """
    keras.utils.set_random_seed(SEED)
    sizes = {"widths": (16, 9, 5)} | design
    generator = networks.dcgan_generator(latent_dim + classes, shape, **sizes)
    for weight in generator.weights:
        values = np.random.randint(512, 1537, weight.shape) / 1024
        weight.assign(values if weight.path.endswith("variance") else values - 1)
    return generator


def directions_of(latent_dim):
    return {name: np.eye(latent_dim)[i] for i, name in enumerate(("slant", "stroke width"))}


def write(generator, path, *, latent_dim=6, classes=10, template=DIGITS, **directions):
    directions = directions or directions_of(latent_dim)
    write_digits_page(generator, directions, path, classes=classes, template=template)
    return path


def blocks_of(path):
    """What a page says of its generator, and its weights, float16 (count,)."""
    found = re.findall(r'(?s)<script id="\w+" type="[a-z/]+">(.*?)</script>', path.read_text())
    model, weights = found
    return json.loads(model), np.frombuffer(base64.b64decode(weights), "<f2")


def test_weights_are_kept_as_float16(tmp_path):
    generator = conditional_generator(after_dense=leaky, after_conv=leaky, use_bias=True)
    generator.set_weights([1.1 * weight for weight in generator.get_weights()])
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
@pytest.mark.parametrize("columns, quick", [(16, True), (48, True), (1, False), (40, False)])
def test_webassembly_adds_what_the_loops_add(page, columns, quick):
    """To the last bit, if it takes the product on: a multiple of 16 columns."""
    taken, same = page.ask(f"""(() => {{
        const fill = (length) => fillNormal(new Float64Array(length), makeRandom(length));
        const A = fill(5 * 7), B = fill(7 * {columns}), C = fill(5 * {columns}), D = C.slice();
        const taken = addQuickly(C, A, B, 7, {columns}), kept = machine;
        machine = null;
        addProduct(D, A, B, 5, 7, {columns});
        machine = kept;
        return [taken, C.every((sum, i) => sum === D[i])];
    }})()""")
    assert [taken, same] == [quick, quick]


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
def test_a_browser_without_webassembly_plays_too(fresh_page):
    page = fresh_page
    lost = page.send("Page.addScriptToEvaluateOnNewDocument", source="delete window.WebAssembly")
    page.open(PLAYGROUND)
    page.send("Page.removeScriptToEvaluateOnNewDocument", **lost)
    page.wait("last !== null")
    page.ask("(Worker = class { constructor() { throw Error(); } }, startTrainer(), play())")
    page.wait("port instanceof MessagePort && last.step > 10")
    assert page.ask("machine") is None


def check_fit(page, width, scheme, *lowest):
    """The page is as wide as its window and of the right ground; on a large screen, all in view."""
    page.resize(width, scheme=scheme)
    page.wait(f"window.innerWidth === {width}")
    assert page.ask("document.documentElement.scrollWidth") <= width
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
    if width == 1440:
        for name in lowest:
            assert page.ask(f"byId('{name}').getBoundingClientRect().bottom") <= 900


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_small_and_large_screens(fresh_page, width, scheme):
    check_fit(fresh_page, width, scheme, "coverage", "numbers")


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


# The page that draws digits, in a browser.


@pytest.fixture(scope="module")
def digits_browser():
    with browser.open_browser() as opened:
        yield opened


def open_digits(page, path=DIGITS):
    """Open a page of digits, and wait until its pictures, or a message, are there."""
    page.requests.clear()
    page.errors.clear()
    page.resize(1440)
    page.open(path)
    page.wait("byId('message').textContent || (generator && stale.size === 0)")


@pytest.fixture
def digits(digits_browser):
    """The course's page as it opens; whatever its scripts throw fails the test."""
    open_digits(digits_browser)
    assert digits_browser.ask("byId('message').textContent") == ""
    yield digits_browser
    assert digits_browser.errors == []


def drawn_by_page(page, z, labels):
    """The page's own images of latents, float32 (count, height, width, 1) in [-1, 1]."""
    images = []
    for rows in np.split(np.arange(len(z)), range(100, len(z), 100)):
        text = page.ask(f"""(() => {{
            const labels = {labels[rows].tolist()};
            const images = {z[rows].tolist()}.map((z, i) => generator.draw(z, labels[i]));
            const bytes = images.map((image) => [...new Uint8Array(image.buffer)]).flat();
            return btoa(bytes.map((byte) => String.fromCharCode(byte)).join(""));
        }})()""")
        images.append(np.frombuffer(base64.b64decode(text), np.float32))
    sides = page.ask("[generator.height, generator.width]")
    return np.concatenate(images).reshape(len(z), *sides, 1)


def largest_difference(page, generator, count, *, latent_dim=6):
    """Largest difference of a gray value, 0 to 1, between Keras and the page; and Keras' images."""
    z = sample_latents(count, latent_dim, seed=SEED, step=0).numpy()
    labels = np.arange(count) % 10
    expected = generator.predict(join_classes(z, labels, 10), batch_size=500, verbose=0)
    return np.abs(drawn_by_page(page, z, labels) - expected).max() / 2, expected


def course_generator(random):
    """A generator in float32, rounding error and all, that the course's page may have come from."""
    model, weights = blocks_of(DIGITS)
    within = weights + random.uniform(-0.5, 0.5, weights.shape) * np.spacing(np.abs(weights))
    generator = networks.dcgan_generator(model["latent_dim"] + 10, tuple(model["image_shape"]))
    taken, values = 0, []
    for weight in generator.weights:
        if weight.path.endswith(("moving_mean", "moving_variance")):
            values.append(np.full(weight.shape, 1 - 1e-3 if "variance" in weight.path else 0))
            continue
        part = within[taken : taken + weight.numpy().size]
        taken += len(part)
        values.append(part.reshape(weight.shape))
    assert taken == len(weights)
    generator.set_weights(values)
    return generator


@pytest.mark.slow
@needs_browser
def test_a_thousand_latents_are_drawn_as_by_keras(digits_browser, tmp_path):
    generator = course_generator(np.random.default_rng(SEED))
    path = write(generator, tmp_path / "page.html", latent_dim=32)
    same = blocks_of(path)[1] == blocks_of(DIGITS)[1]
    assert same.mean() > 0.99
    open_digits(digits_browser, path)
    difference, images = largest_difference(digits_browser, generator, 1000, latent_dim=32)
    assert 0 < difference < 1 / 255
    assert images.max() > 0.9 and images.std(axis=0).max() > 0.5


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("design", DESIGNS)
def test_each_design_is_drawn_as_by_keras(digits_browser, tmp_path, design):
    generator = conditional_generator(**DESIGNS[design])
    open_digits(digits_browser, write(generator, tmp_path / "page.html"))
    assert digits_browser.ask("byId('message').textContent") == ""
    difference, images = largest_difference(digits_browser, generator, 50)
    assert difference < min(1 / 255, 0.02 * images.std(axis=0).max())


@pytest.mark.slow
@needs_browser
def test_nothing_but_the_file_is_asked_for(digits):
    for control in ("new-start", "new-end", "new-many", "save-one", "reset"):
        digits.ask(f"byId('{control}').click()")
    digits.wait("stale.size === 0")
    assert {address.split(":")[0] for address in digits.requests} <= {"file", "blob"}
    assert sum(address.startswith("file:") for address in digits.requests) == 1


def pictures(page):
    """What the two canvases show, gray values (height, width) each."""
    page.wait("stale.size === 0")
    shown = []
    for name in ("one", "many"):
        address = page.ask(f"byId('{name}').toDataURL('image/png')")
        picture = imageio.imread(base64.b64decode(address.partition(",")[2]))
        shown.append(picture[..., 0].astype(int))
    return shown


def tiles(many, side=28):
    starts = range(0, 4 * (side + 1), side + 1)
    return [many[y : y + side, x : x + side] for y in starts for x in starts]


def slide(page, name, value):
    """Move the slider, or choose the option, of this name, as a reader does; what is shown then."""
    label = f"[...document.querySelectorAll('label')].find((x) => x.textContent === '{name}')"
    page.ask(f"""(() => {{
        const input = byId({label}.htmlFor);
        input.value = "{value}";
        input.dispatchEvent(new Event("input"));
    }})()""")
    return pictures(page)


def measures(images):
    images = np.float32(images)[..., None] / 127.5 - 1
    return stroke_attributes.stroke_slant(images), stroke_attributes.stroke_width(images)


@pytest.mark.slow
@needs_browser
def test_each_slider_moves_the_picture(digits):
    one, many = pictures(digits)
    before = {"Slant": measures(tiles(many))[0], "Stroke width": measures(tiles(many))[1]}
    for name, values in before.items():
        which = list(before).index(name)
        means = [measures(tiles(slide(digits, name, value)[1]))[which].mean() for value in (-2, 2)]
        assert means[0] < values.mean() - 0.05 < values.mean() + 0.05 < means[1]
        assert not np.array_equal(pictures(digits)[0], one)
        slide(digits, name, 0)
        np.testing.assert_array_equal(pictures(digits)[0], one)
    for name, value in (("Truncation", 0.5), ("Start to end", 0.5)):
        changed = slide(digits, name, value)
        assert np.abs(changed[0] - one).max() > 50
        digits.ask("byId('reset').click()")
        np.testing.assert_array_equal(pictures(digits)[0], one)


@pytest.mark.slow
@needs_browser
def test_truncation_0_gives_one_image(digits):
    one, many = pictures(digits)
    assert len({tile.tobytes() for tile in tiles(many)}) == 16
    one, many = slide(digits, "Truncation", 0)
    assert {tile.tobytes() for tile in tiles(many)} == {one.tobytes()}
    assert one.max() > 200


@pytest.mark.slow
@needs_browser
def test_a_walk_leads_from_start_to_end(digits):
    latents = digits.ask("latents")
    found = digits.ask("[0, 0.3, 1].map((share) => slerp(latents.start, latents.end, share))")
    expected = [slerp(latents["start"], latents["end"], share) for share in (0, 0.3, 1)]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    start, _ = pictures(digits)
    end, many = slide(digits, "Start to end", 1)
    walk = tiles(slide(digits, "Show", "walk")[1])
    np.testing.assert_array_equal(walk[0], start)
    np.testing.assert_array_equal(walk[15], end)
    steps = [np.abs(a - b).mean() for a, b in zip(walk, walk[1:], strict=False)]
    assert 0 < max(steps) < np.abs(start - end).mean()

    digits.ask("byId('new-start').click()")
    assert not np.array_equal(pictures(digits)[0], start)
    assert digits.ask("[settings.walk, byId('walk').value]") == [0, "0"]
    digits.ask("byId('new-end').click()")
    assert not np.array_equal(pictures(digits)[0], end)
    digits.ask("(byId('what').value = 'latents', byId('what').dispatchEvent(new Event('input')))")
    digits.ask("byId('new-many').click()")
    assert not np.array_equal(pictures(digits)[1], many)


@pytest.mark.slow
@needs_browser
def test_what_is_measured_is_what_the_package_measures(digits):
    z = sample_latents(20, 32, seed=SEED, step=1).numpy()
    images = drawn_by_page(digits, z, np.arange(20) % 10)
    lists = images.reshape(20, -1).astype(float).tolist()
    slants = digits.ask(f"{lists}.map((image) => measureSlant(image, 28))")
    widths = digits.ask(f"{lists}.map((image) => measureWidth(image, 28))")
    np.testing.assert_allclose(slants, stroke_attributes.stroke_slant(images), atol=1e-5)
    np.testing.assert_allclose(widths, stroke_attributes.stroke_width(images), rtol=1e-5)
    slant, width = digits.ask("[measured.one.slant, measured.one.width]")
    words = digits.ask("byId('one').ariaLabel").replace("−", "-")
    assert words == f"A generated 3, slant {slant:+.2f}, strokes {width:.1f} pixels wide."


@pytest.mark.slow
@needs_browser
def test_latents_are_normal_and_repeat(digits):
    drawn = np.array(digits.ask("[1, 1, 2].map((seed) => drawLatent(50000, seed))"))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert abs(np.corrcoef(drawn[0], drawn[2])[0, 1]) < 0.02
    assert abs(drawn[0].mean()) < 0.02 and abs(drawn[0].std() - 1) < 0.02
    assert abs((np.abs(drawn[0]) < 1).mean() - 0.6827) < 0.01


@pytest.mark.slow
@needs_browser
def test_keys_are_enough_for_digits(digits):
    order = []
    while not order or order[-1] not in order[:-1]:
        digits.press("Tab", 9)
        order.append(digits.ask("document.activeElement.id"))
    controls = ["digit-3", "direction-0", "direction-1", "truncation", "walk", "new-start"]
    controls += ["new-end", "reset", "save-one", "what", "new-many", "save-many"]
    assert [name for name in order if name][: len(controls)] == controls

    one, _ = pictures(digits)
    digits.ask("byId('digit-3').focus()")
    digits.press("ArrowRight", 39)
    assert digits.ask("[settings.digit, document.activeElement.id]") == [4, "digit-4"]
    assert np.abs(pictures(digits)[0] - one).max() > 50
    digits.ask("byId('direction-0').focus()")
    digits.press("ArrowRight", 39)
    said = digits.ask("[settings.steps.slant, byId('direction-0').getAttribute('aria-valuetext')]")
    assert said == [0.1, "+0.1 steps"]
    digits.ask("byId('truncation').focus()")
    digits.press("Home", 36)
    assert digits.ask("settings.truncation") == 0
    digits.ask("byId('reset').focus()")
    digits.press("Enter", 13)
    assert digits.ask("[settings.truncation, settings.steps.slant, settings.digit]") == [1, 0, 4]
    digits.wait("byId('live').textContent.startsWith('A 4, slant ')")
    assert re.fullmatch(r"\d+\.\d ms", digits.ask("byId('time').textContent"))


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name, index", [("one", 0), ("many", 1)])
def test_a_picture_is_saved(digits, tmp_path, name, index):
    shown = pictures(digits)[index]
    digits.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    digits.ask(f"byId('save-{name}').click()")
    digits.wait("byId('live').textContent.startsWith('Saved as ')")
    saved = tmp_path / digits.ask("byId('live').textContent").split()[-1].rstrip(".")
    end = time.monotonic() + 30
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
        digits.ask("1")
    image = imageio.imread(saved)
    assert saved.suffix == ".png" and saved.read_bytes().startswith(b"\x89PNG")
    large = np.kron(shown, np.ones((10, 10), int))
    np.testing.assert_array_equal(image[..., 0] if image.ndim == 3 else image, large)


def changed(path, change):
    """The course's page with its text changed, at another place."""
    path.write_text(change(DIGITS.read_text()))
    return path


def cut_at(share):
    return lambda page: page[: round(share * len(page))]


def with_weights(text):
    return lambda page: re.sub(r'(?s)(id="weights".*?>\n).*?(?=</script>)', rf"\1{text}", page)


DAMAGES = {
    "a cut script": (cut_at(0.02), "script has not started.*cut off"),
    "cut before the model": (lambda page: page.split('<script id="model"')[0], "cut off"),
    "a cut model": (lambda page: page.split('"directions":')[0], "description.*damaged or cut off"),
    "no weights": (lambda page: page.split('<script id="weights"')[0], "has 0: it is damaged or"),
    "half of the weights": (cut_at(0.5), "cut off"),
    "nearly all weights": (cut_at(0.999), "cut off"),
    "no base64": (with_weights("???"), "weights cannot be read"),
    "not a number": (with_weights("/////w=="), "not a number: this file is damaged"),
    "an unknown layer": (
        lambda page: page.replace('"kind": "dense"', '"kind": "attention"'),
        "does not know the layer “attention”. It knows dense, ",
    ),
    "an inherited name": (
        lambda page: page.replace('"kind": "dense"', '"kind": "toString"'),
        "does not know the layer “toString”",
    ),
    "an unknown size": (
        lambda page: re.sub(r'("image_shape": \[)[^]]*', r"\g<1>28, 28, 3", page),
        "does not know images of the size 28 × 28 × 3",
    ),
    "a size that is too large": (
        lambda page: re.sub(r'("image_shape": \[)[^]]*', r"\g<1>128, 128, 1", page),
        "128 × 128 × 1.*at most 64",
    ),
    "another size": (
        lambda page: re.sub(r'("image_shape": \[)[^]]*', r"\g<1>32, 32, 1", page),
        "layers make 28 × 28 × 1 numbers, not 32 × 32 × 1",
    ),
}


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_page_says_so(digits_browser, tmp_path, damage):
    change, said = DAMAGES[damage]
    page = digits_browser
    page.open(changed(tmp_path / "page.html", change))
    message = "document.getElementById('message')"
    assert re.search(said, page.ask(f"{message}.textContent").replace("\n", " "))
    assert page.ask(f"{message}.getBoundingClientRect().height") > 20
    assert page.errors == []


@pytest.mark.slow
@needs_browser
def test_an_older_browser_draws_too(digits_browser):
    lost = "Float16Array DecompressionStream CompressionStream Worker OffscreenCanvas fetch".split()
    script = f"for (const name of {lost}) delete window[name];"
    script += "delete Math.f16round; delete DataView.prototype.getFloat16;"
    added = digits_browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    open_digits(digits_browser)
    assert digits_browser.ask("typeof Float16Array + typeof DecompressionStream") == 2 * "undefined"
    digits_browser.send("Page.removeScriptToEvaluateOnNewDocument", **added)
    assert digits_browser.ask("byId('message').textContent") == ""
    assert pictures(digits_browser)[0].max() > 200


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    "lost, said",
    [
        ("HTMLCanvasElement.prototype.getContext = () => null", "a drawing surface"),
        ("delete HTMLCanvasElement.prototype.toBlob", "pictures as files"),
        ("delete Object.hasOwn", "a recent JavaScript"),
    ],
)
def test_a_browser_that_cannot_draw_is_told(digits_browser, lost, said):
    added = digits_browser.send("Page.addScriptToEvaluateOnNewDocument", source=lost)
    digits_browser.open(DIGITS)
    digits_browser.send("Page.removeScriptToEvaluateOnNewDocument", **added)
    message = digits_browser.ask("byId('message').textContent")
    assert f"This browser lacks {said}" in message and "no digit can be drawn" in message


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1440])
def test_digits_fit_small_and_large_screens(digits, width, scheme):
    check_fit(digits, width, scheme, "save-many")


AXE = importlib.util.find_spec("axe_core_python")


@pytest.mark.slow
@needs_browser
@pytest.mark.skipif(AXE is None, reason="no axe (pip install axe-core-python)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("path", [PLAYGROUND, DIGITS], ids=lambda path: path.stem)
def test_axe_finds_no_violation(digits_browser, path, width, scheme):
    page = digits_browser
    page.resize(width, scheme=scheme)
    page.open(path)
    page.wait("byId('message').textContent === ''")
    page.ask((Path(AXE.origin).parent / "axe.min.js").read_text() + "; 1")
    found = page.ask("axe.run()")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 15
