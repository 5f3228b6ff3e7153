"""Many inputs at every door, most of them bad: each is taken, or refused by name."""

import contextlib
import functools
import gzip
import html
import inspect
import io
import math
import os
import re
import string
import tempfile
from collections import Counter
from pathlib import Path

import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as arrays_of
from PIL import Image

from ganutils import _image_files, data, figures, latents, losses, metrics
from ganutils.families import mode_collapse


class Refused(Exception):
    """An input was refused, by an error of the kinds that are expected."""


def knock(function, *args, says=None, errors=(TypeError, ValueError), **kwargs):
    """Call a function; an expected error must name an argument, or what `says` matches."""
    try:
        return function(*args, **kwargs)
    except errors as error:
        named = says or rf"\b({'|'.join(inspect.signature(function).parameters)})\b"
        assert re.search(named, str(error)), repr(error)
        raise Refused from error


def door(**strategies):
    """Make a test of a check: generated inputs, of which some are taken and some refused."""

    def decorate(check):
        def test():
            outcomes = Counter()

            @settings(
                max_examples=40,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(**strategies)
            def every(**case):
                try:
                    check(**case)
                    outcomes["taken"] += 1
                except Refused:
                    outcomes["refused"] += 1

            every()
            assert outcomes.total() >= 40 and len(outcomes) == 2, outcomes

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


@pytest.fixture(scope="module", autouse=True)
def nothing_kept():
    """What hypothesis keeps of its own stays out of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        set_hypothesis_home_dir(folder)
        yield
        set_hypothesis_home_dir(None)


@pytest.fixture(autouse=True)
def an_empty_place(tmp_path, monkeypatch):
    """An empty folder to work in, another for temporary files; both are as empty afterwards."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "absent"))
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    monkeypatch.delenv("GANUTILS_DATA", raising=False)
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)
    found = {path.name for path in tmp_path.rglob("*")}
    # TensorFlow clears away its own when Python ends.
    left = {name for name in found if not name.startswith("__autograph_generated_file")}
    assert left == {"temporary", "work"}


def listing(folder):
    """Names and sizes of everything below a folder."""
    return sorted((str(path), path.lstat().st_size) for path in Path(folder).rglob("*"))


# What is thrown.

FLOATS = [np.dtype(kind) for kind in ("f2", "f4", "f8", ">f4", "g")]
OTHERS = [np.dtype(kind) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
OTHERS += [np.dtype(kind) for kind in ("c8", "c16", "S3", "U3", "M8[s]", "V4", "i4,f4", "S0")]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -1e-310, 1e-200, 1.0 + 1e-15]
SPECIAL += [-1.0, 1.001, 2.0, 255.0, 65504.0, 1e20, 1e30, 1e31, -1e38, 1e200, -1.7e308]
HUGE = [2**31, 2**63, -(2**63) - 1, 2**64, 10**30]


def filled(seed, shape, dtype, *, low=-1.0, high=1.0):
    """Uniform values in an array of any type."""
    random = np.random.default_rng(seed)
    if dtype.kind in "fc":
        return random.uniform(low, high, shape).astype(dtype)
    raw = random.bytes(math.prod(shape) * dtype.itemsize)
    if dtype.kind == "b":
        return (np.frombuffer(raw, np.uint8) % 2).astype(bool).reshape(shape)
    if dtype.kind == "U":
        return np.full(shape, "abc", dtype)
    return np.ndarray(shape, dtype, raw).copy()


SEEDS = st.integers(0, 2**32 - 1)
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


def uniform(shapes, *, dtypes=FLOATS, low=-1.0, high=1.0):
    """Arrays as they should be, but for their shapes perhaps."""
    make = functools.partial(filled, low=low, high=high)
    return st.builds(make, SEEDS, shapes, st.sampled_from(dtypes))


@st.composite
def spoiled(draw, good):
    """One value of a good array, or all of them, is special."""
    array = draw(good).copy()
    if array.size and array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            value = np.array(draw(st.sampled_from(SPECIAL))).astype(array.dtype)
        where = draw(st.integers(-1, array.size - 1))
        array.reshape(-1)[slice(None) if where < 0 else where] = value
    return array


def as_tensors(arrays):
    return arrays.filter(lambda a: a.dtype.kind == "f" and a.dtype.char in "efd").map(
        lambda a: tf.constant(a.astype(a.dtype.newbyteorder("="), copy=False))
    )


NO_ARRAYS = st.sampled_from(
    [None, "digits", b"\x00", 3, 2.5, 1j, True, [], [[1.0], [2.0, 3.0]], {}, {"a": 1}, object()]
    + [np.array(None), np.array([[{}]]), print, np.float32, iter(()), [None, 1.0], ["a", 1.0]]
    + [tf.constant("text"), tf.constant([True]), tf.constant([[1.0]], tf.bfloat16), range(3)]
    + [tf.ragged.constant([[1.0], []]), tf.sparse.from_dense([[1.0, 0.0]])]
)
WILD = st.one_of(
    uniform(SHAPES, dtypes=FLOATS + OTHERS, low=-2, high=2), spoiled(uniform(SHAPES)), NO_ARRAYS
)


def mostly(good):
    """Three good arrays, one of them a tensor, to one with a special value and one of any kind."""
    return st.one_of(good, good, as_tensors(good), spoiled(good), WILD)


def numbers(*good):
    """Five good numbers, about, to one of any kind."""
    bad = [0, -1, 1.5, 10**7, math.nan, math.inf, -math.inf, None, "3", b"3", [2], (), {}, 1j]
    bad += [np.array([1, 2]), np.float32(0.5), 5e-324, -0.0, 1e300, *HUGE, object()]
    return st.one_of(*[st.sampled_from(good)] * 4, st.sampled_from(good + tuple(bad)))


def floats(value):
    """Whether numpy takes something as an array of ordinary floats."""
    with contextlib.suppress(Exception):
        return np.asarray(value).dtype.kind == "f"
    return False


# Files: arrays.

PIXELS = st.one_of(
    uniform(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))),
    uniform(
        st.tuples(st.integers(1, 4), *[st.integers(1, 4)] * 2, st.sampled_from([1, 3])),
        dtypes=[np.dtype(np.uint8), *FLOATS],
    ),
)
LABELS = st.one_of(
    st.none(),
    st.lists(st.integers(-1, 10**6), min_size=1, max_size=4).map(np.array),
    uniform(SHAPES, dtypes=FLOATS + OTHERS),
)
CUT = st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1, exclude_max=True))


def fit_images(x):
    """The rule of `load_images` in other words: which arrays are images?"""
    if x.ndim not in (3, 4) or 0 in x.shape or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        return False
    return x.dtype == np.uint8 or (x.dtype.kind == "f" and -1 <= x.min() < 0 and x.max() <= 1)


def fit_labels(y, count):
    if y is None:
        return True
    small = y.dtype.kind in "iu" and all(0 <= int(label) < 10**6 for label in y.flat)
    return small and y.shape in ((count,), (count, 1))


@door(
    x=st.one_of(PIXELS, PIXELS, PIXELS, spoiled(PIXELS), uniform(SHAPES, dtypes=FLOATS + OTHERS)),
    y=LABELS,
    match=st.booleans(),
    key=st.sampled_from(["train"] * 9 + ["test", "", "Train"]),
    pack=st.sampled_from([np.savez, np.savez_compressed]),
    by_columns=st.booleans(),
    cut=CUT,
)
def test_npz_files(x, y, match, key, pack, by_columns, cut):
    if match and x.ndim:  # labels of the right number, or few would be
        y = np.arange(len(x)) if y is None else np.resize(y, (len(x), 1)[: 1 + y.size % 2])
    arrays = {f"x_{key}": np.asfortranarray(x) if by_columns else x, "x_other": np.arange(3)}
    arrays |= {} if y is None else {f"y_{key}": y}
    whole = io.BytesIO()
    pack(whole, **arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.npz")
        path.write_bytes(whole.getvalue()[: int(cut * len(whole.getvalue()))])
        fit = cut == 1 and key == "train" and fit_images(x) and fit_labels(y, len(x))
        try:
            images, labels, name = knock(data.load_images, path, says=re.escape(str(path)))
        except Refused:
            assert not fit
            raise
    assert fit and name == "mine.npz"
    # What comes out is float32 in [-1, 1] and the very arrays that were put in.
    assert images.dtype == np.float32 and labels.dtype == np.int32
    assert images.shape == (*x.shape, 1)[:4] and labels.shape == x.shape[:1]
    expected = x / 127.5 - 1.0 if x.dtype == np.uint8 else x
    np.testing.assert_allclose(images.reshape(x.shape), expected.astype(np.float64), atol=1e-6)
    np.testing.assert_array_equal(labels, 0 if y is None else y.reshape(-1))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["x_train", "y_train", "x_test", "bare pickle", "field"])
def test_pickles_are_not_executed(tmp_path, where):
    """In images, labels, a member that nobody asks for, a file without a zip, a structured type."""
    marker, path = tmp_path / "temporary" / "marker", tmp_path / "temporary" / "trap.npz"
    array = np.empty((1, 2, 2), [("a", "i4"), ("b", object)] if where == "field" else object)
    for index in np.ndindex(array.shape):
        array[index] = (1, Trap(str(marker))) if where == "field" else [Trap(str(marker))]
    good = {"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.arange(2)}
    if where == "bare pickle":
        with path.open("wb") as file:
            array.dump(file)
    else:
        np.savez(path, **good | {"x_train" if where == "field" else where: array})
    if where == "x_test":
        assert len(data.load_images(path)[0]) == 2
    else:
        with pytest.raises(ValueError, match="trap.npz.*(allow_pickle|not a zip).*expected"):
            data.load_images(path)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # a bare pickle is opened here already
        np.load(path, allow_pickle=True)["x_train" if where == "field" else where]
    assert marker.exists()  # so the trap was armed
    marker.rmdir()
    path.unlink()


@door(array=uniform(SHAPES, dtypes=[np.dtype(np.uint8)]), cut=CUT)
def test_idx_files(array, cut):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    whole = gzip.compress(header + array.tobytes())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gz")
        path.write_bytes(whole[: int(cut * len(whole))])
        found = knock(_image_files.read_idx, path, array.shape, says=re.escape(str(path)))
        with pytest.raises(ValueError, match="x.gz.*damaged"):
            _image_files.read_idx(path, (*array.shape, 2))
    assert cut == 1 and found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


# Files: pictures.

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".tiff": "TIFF"}
NAMES = st.text(string.printable.replace("/", "") + "äß漢字🙂\u202e", min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: name not in (".", ".."))
TAKEN = ["picture", "hidden", "text", "deep", "class folder", "folder"]
KINDS = TAKEN + ["picture"] * 9 + ["page", "empty", "cut", "dangling"]


def as_picture(seed, suffix, mode, size):
    pixels = filled(seed, (*size, 3), np.dtype(np.uint8))
    with io.BytesIO() as file:
        mode = "L" if (mode, suffix) == ("P", ".jpg") else mode
        Image.fromarray(pixels).convert(mode).save(file, FORMATS[suffix])
        return file.getvalue()


@door(
    files=st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            NAMES,
            st.sampled_from(list(FORMATS)),
            st.sampled_from(["L", "RGB", "1", "P"]),
            st.tuples(st.integers(1, 40), st.integers(1, 40)),
        ),
        max_size=5,
        unique_by=lambda file: file[1],
    ),
    split=st.sampled_from(["train"] * 5 + ["test"]),
)
def test_folders_of_pictures(files, split):
    with tempfile.TemporaryDirectory() as folder:
        shown = Counter()
        for number, (kind, name, suffix, mode, size) in enumerate(files):
            raw = as_picture(number, suffix, mode, size)
            name = ("." if kind == "hidden" else f"{number}") + name + suffix
            path = Path(folder, name)
            shown[kind] += 1
            if kind in ("picture", "hidden"):
                path.write_bytes(raw)
            elif kind == "text":
                path.with_name(name + ".txt").write_text("no picture")
            elif kind in ("page", "empty", "cut"):
                path.write_bytes({"page": b"<html>", "empty": b"", "cut": raw[:25]}[kind])
            elif kind == "folder":
                path.mkdir()
            elif kind == "dangling":
                path.symlink_to("nowhere.png")
            else:  # pictures one folder down, or two
                inner = Path(folder, f"class {number}", *(["deeper"] if kind == "deep" else []))
                inner.mkdir(parents=True)
                (inner / "0.png").write_bytes(raw)
        says = rf"(?s){re.escape(folder)}.*; expected"
        images, labels, name = knock(data.load_images, folder, split=split, says=says)
    loose, classes = shown["picture"], shown["class folder"]
    assert set(shown) <= set(TAKEN)
    assert (loose == 0) != (classes == 0) and split == "train" and name == Path(folder).name
    assert images.shape == (loose + classes, 28, 28, 1) and images.dtype == np.float32
    assert images.min() >= -1 and images.max() <= 1
    assert labels.dtype == np.int32 and labels.tolist() == [0] * loose + [*range(classes)]


# Paths.

ODD = ["a b.npz", "a\nb.npz", "-rf.npz", "100%s%d.npz", "~.npz", "~nobody.npz", ".", "a/../b.npz"]
ODD += ["x.npz ", "\x00.npz", "\ud800.npz", "漢字.npz", "🙂.NPZ", "a" * 5000, "", "*.npz", "x.npz/"]
ODD += ["file:///x.npz", "C:\\x.npz", "Mnist", "/dev/null", "{name}.npz", "'\".npz"]


@door(
    source=st.one_of(
        st.sampled_from(ODD),
        NAMES.map(lambda name: name + ".npz"),
        st.sampled_from(["auto", "digits", "mnist", "fashion_mnist"]),
        st.sampled_from([None, 3, b"digits", ["digits"], {}, print]),
    ),
    as_path=st.booleans(),
    kind=st.sampled_from(["file"] * 4 + ["absent", "folder", "text"]),
    split=st.sampled_from(["train"] * 8 + ["Train", None, [], b"train"]),
)
def test_paths(source, as_path, kind, split):
    named = isinstance(source, str) and source in ("auto", "digits", "mnist", "fashion_mnist")
    made, errors = False, (TypeError, ValueError, FileNotFoundError)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if isinstance(source, str) and not named:
            # Only here, whatever is asked for.
            with contextlib.suppress(OSError, ValueError):
                file = Path(source)
                if Path(folder) == Path(os.path.abspath(file)).parent and not file.exists():
                    make_file(file, kind)
                    made = kind == "file" and source.lower().endswith(".npz")
            source = Path(source) if as_path else source
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                case = {"split": split, "errors": errors, "says": r"(?s)source|split|MNIST|\.npz"}
                images, labels, name = knock(data.load_images, source, **case)
        except Refused:
            assert not (made and str(split) == "train")
            raise
    assert split == "train" and (named or made)
    assert images.dtype == np.float32 and labels.dtype == np.int32 and len(images) == len(labels)
    assert isinstance(name, str) and (named or name == Path(source).name)


def make_file(path, kind):
    """A good file, or what looks like one."""
    if kind == "file":
        with path.open("wb") as file:
            np.savez(file, x_train=np.zeros((2, 3, 3), np.uint8))
    elif kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no images")


# Batches, toys and latents.

COUNTS = st.integers(1, 6)
POINTS = uniform(st.tuples(COUNTS, st.integers(1, 4)), dtypes=FLOATS[1:2], low=-1e9, high=1e9)
IMAGES4 = st.tuples(COUNTS, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]))


@door(
    images=mostly(st.one_of(POINTS, uniform(IMAGES4, dtypes=FLOATS[1:2]))),
    labels=st.one_of(st.none(), st.none(), st.integers(0, 9), WILD),
    batch_size=numbers(1, 2, np.int8(1), 3),
    seed=numbers(0, -1, 2**63 - 1, np.uint32(7)),
    start=numbers(0, 1, 2**40, 2**62),
)
def test_batches(images, labels, batch_size, seed, start):
    if isinstance(labels, int):
        labels = np.full(np.shape(images)[:1], labels) if floats(images) else labels
    arrays = images if labels is None else (images, labels)
    stream = knock(data.batches, arrays, batch_size, seed=seed, start=start)
    for batch in stream.take(2):
        arrays, batch = tf.nest.flatten(arrays), tf.nest.flatten(batch)
        for served, array in zip(batch, map(np.asarray, arrays), strict=True):
            kind = np.float32 if array.dtype.kind == "f" else np.int32
            rows = {row.tobytes() for row in array.astype(kind)}
            assert served.dtype == kind and served.shape == (int(batch_size), *array.shape[1:])
            assert np.isfinite(array).all() and {row.tobytes() for row in served.numpy()} <= rows


STEPS = numbers(0, 1, -1, 2**40, np.int16(3), tf.constant(3), tf.constant(3, tf.int64))
FROM_TENSORFLOW = (TypeError, ValueError, AttributeError, OverflowError, tf.errors.OpError)


@door(
    toy=st.sampled_from([data.ring_of_gaussians, data.grid_of_gaussians]),
    count=numbers(1, 2, 50, np.int32(3)),
    modes=numbers(2, 3, 8),
    size=numbers(1.0, 2, 1e-30, 1e30, np.float32(0.5), np.array(3.0)),
    deviation=numbers(0.01, 1e30, 1e-30, 1),
)
def test_toys(toy, count, modes, size, deviation):
    ring = toy is data.ring_of_gaussians
    names = ("modes", "radius") if ring else ("side", "spacing")
    layout = dict(zip(names, (modes, size), strict=True))
    centers = knock(data.ring_modes if ring else data.grid_modes, **layout)
    assert centers.dtype == np.float32 and np.isfinite(centers).all()
    assert len(np.unique(centers, axis=0)) == (modes if ring else modes**2)
    points = knock(toy, count, seed=1, step=2, deviation=deviation, **layout)
    assert points.dtype == tf.float32 and points.shape == (int(count), 2)
    assert np.isfinite(points).all()


@door(
    count=numbers(1, 2, tf.constant(3)).filter(lambda n: not (isinstance(n, int) and n > 10**6)),
    latent_dim=numbers(1, 2, 100).filter(lambda n: not (isinstance(n, int) and n > 10**6)),
    seed=STEPS,
    step=STEPS,
)
def test_latents(count, latent_dim, seed, step):
    case = {"seed": seed, "step": step, "errors": FROM_TENSORFLOW, "says": "."}
    z = knock(latents.sample_latents, count, latent_dim, **case)
    assert z.dtype == tf.float32 and len(z.shape) == 2 and np.isfinite(z).all()


@door(
    start=mostly(uniform(st.tuples(st.just(2), st.integers(1, 3)))),
    end=mostly(uniform(st.tuples(st.just(2), st.integers(1, 3)))),
    fraction=numbers(0.0, 1.0, 0.25, np.float32(0.5)),
)
def test_slerp(start, end, fraction):
    z = knock(latents.slerp, start, end, fraction, errors=FROM_TENSORFLOW, says=".")
    assert z.dtype == tf.float32


# Metrics.

FEATURES = uniform(st.tuples(st.sampled_from([6, 9, 30]), st.sampled_from([1, 2, 2, 2, 3])))
NUMBER_OF = {"kernel_distance": "subsets", "precision_recall": "k", "density_coverage": "neighbors"}


@door(
    real=mostly(FEATURES),
    fake=mostly(FEATURES),
    metric=st.sampled_from([*NUMBER_OF, "frechet_distance"]),
    number=numbers(2, 3, None),
)
def test_metrics_of_features(real, fake, metric, number):
    keyword = NUMBER_OF.get(metric)
    number = {} if number is None or keyword is None else {keyword: number}
    found = knock(getattr(metrics, metric), real, fake, **number)
    assert np.isfinite(found).all() and floats(real) and floats(fake)
    if metric == "frechet_distance":
        assert isinstance(found, float) and found >= 0
    else:
        assert isinstance(found, tuple) and all(isinstance(value, float) for value in found)
        shares = {"precision_recall": found, "density_coverage": found[1:]}.get(metric, ())
        assert all(0 <= share <= 1 for share in shares)
        assert metric != "density_coverage" or found[0] >= 0


@door(
    samples=mostly(uniform(st.tuples(st.sampled_from([20, 30, 45]), st.integers(1, 3)))),
    threshold=numbers(0.1, 0.5, np.float64(1e-9), 5),
    batch_size=numbers(2, 3),
    seed=numbers(0, 1, 2**40),
)
def test_support_size(samples, threshold, batch_size, seed):
    case = {"threshold": threshold, "batch_size": batch_size, "seed": seed}
    found = knock(metrics.support_size, samples, **case, says=".")
    middle, low, high = found
    assert all(isinstance(value, float) for value in found) and 0 <= low <= middle <= high


def normalized(array):
    array = np.abs(array.astype(np.float64)) + 1e-6
    return array / array.sum(axis=-1, keepdims=True)


ROWS = st.tuples(st.sampled_from([4, 6, 30]), st.sampled_from([2, 2, 3]))
PROBABILITIES = uniform(ROWS, dtypes=FLOATS[2:3]).map(normalized)
ONE_HOT = st.lists(st.integers(0, 2), min_size=4, max_size=9).map(lambda i: np.eye(3)[i])


@door(
    probabilities=mostly(st.one_of(PROBABILITIES, PROBABILITIES, ONE_HOT)),
    metric=st.sampled_from([metrics.classifier_score, metrics.class_shares]),
    splits=numbers(2, 3),
)
def test_metrics_of_probabilities(probabilities, metric, splits):
    number = {"splits": splits} if metric is metrics.classifier_score else {}
    found = knock(metric, probabilities, **number)
    classes = np.shape(probabilities)[1]
    if number:
        assert 1 - 1e-9 <= found[0] <= classes + 0.1 and 0 <= found[1] < math.inf
    else:
        assert found.dtype == np.float64 and found.shape == (classes,)
        assert found.min() >= 0 and found.sum() == pytest.approx(1)


SHARES = uniform(st.tuples(st.sampled_from([1, 3, 3, 3])), dtypes=FLOATS[2:3]).map(normalized)
EDGE = st.sampled_from([[1.0, 0, 0], [0, 1.0, 0], [1.0, 5e-324, 0], [5e-324, 1.0, 1e-310]])


@door(
    real=mostly(st.one_of(SHARES, EDGE.map(np.array))),
    fake=mostly(SHARES | EDGE.map(np.array)),
)
def test_class_divergence(real, fake):
    found = knock(metrics.class_divergence, real, fake, says="real|fake")
    assert isinstance(found, float) and found >= 0


@door(
    samples=mostly(uniform(st.tuples(st.integers(1, 9), st.sampled_from([2, 2, 2, 1])))),
    modes=mostly(uniform(st.tuples(st.integers(1, 5), st.just(2)))),
    deviation=numbers(0.01, 1, np.float32(2)),
    radius=numbers(3.0, 1),
)
def test_mode_coverage(samples, modes, deviation, radius):
    found = knock(metrics.mode_coverage, samples, modes, deviation=deviation, radius=radius)
    assert list(found) == ["modes", "high_quality", "reverse_kl"]
    assert isinstance(found["modes"], int) and 0 <= found["modes"] <= np.shape(modes)[0]
    assert 0 <= found["high_quality"] <= 1
    assert 0 <= found["reverse_kl"] <= math.log(np.shape(modes)[0]) + 1e-9


SMALL_IMAGES = uniform(st.tuples(COUNTS, st.just(2), st.sampled_from([2, 2, 3]), st.just(1)))


@door(images=mostly(SMALL_IMAGES), training=mostly(SMALL_IMAGES), count=numbers(1, 2))
def test_nearest_neighbors(images, training, count):
    says = "images|training|count"
    distances, indices = knock(metrics.nearest_neighbors, images, training, count=count, says=says)
    assert distances.shape == indices.shape == (len(images), int(count))
    assert distances.dtype == np.float64 and (distances >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all() and indices.max() < len(training)


@st.composite
def classified(draw):
    """Features and probabilities of 20 samples, or of what is not quite that."""
    rows = draw(st.sampled_from([20, 20, 20, 40]))
    good = filled(rows, (rows, 2), FLOATS[1]), normalized(filled(rows, (rows, 3), FLOATS[1]))
    bad = draw(st.one_of(st.none(), st.none(), st.none(), WILD))
    if bad is None:
        return good
    return draw(st.sampled_from([(bad, good[1]), (good[0], bad)]))


@door(real=classified(), fake=classified(), held_out=classified())
def test_tables_of_scores(real, fake, held_out):
    scores = knock(metrics.score_samples, real, fake, held_out=held_out, says=".")
    assert np.isfinite([*scores.values()]).all()
    table = knock(metrics.format_scores, {"ours": scores, "theirs": scores})
    assert len(table.splitlines()) == 1 + len(scores)
    for floor in (math.nan, 1.0):  # of another run
        other = {"ours": scores, "theirs": dict.fromkeys(scores, (1.0, floor))}
        with pytest.raises(ValueError, match="same floor"):
            metrics.format_scores(other)


# Losses: TensorFlow's own doors.

LOSSES = [*losses.non_saturating, *losses.minimax, *losses.least_squares, *losses.hinge]
LOSSES += [*losses.wasserstein, mode_collapse.smoothed_discriminator_loss]
NATIVE = [np.dtype(kind) for kind in ("f4", "f4", "f8", "f2")]
LOGITS = st.one_of(
    uniform(st.tuples(COUNTS, st.just(1)), dtypes=NATIVE[:1], low=-99, high=99),
    uniform(SHAPES, dtypes=NATIVE, low=-1e4, high=1e4),
)


@door(
    loss=st.sampled_from(LOSSES),
    real=mostly(LOGITS),
    fake=mostly(LOGITS),
    smoothing=numbers(0.1, 0, 0.5),
)
def test_losses(loss, real, fake, smoothing):
    logits = (real, fake) if "real" in str(inspect.signature(loss)) else (fake,)
    extra = {"smoothing": smoothing} if "smoothing" in str(inspect.signature(loss)) else {}
    with np.errstate(all="ignore"):  # numpy's, at infinity in float16; TensorFlow has none
        value = knock(loss, *logits, **extra, errors=FROM_TENSORFLOW, says=".")
    assert value.shape == ()
    single = all(floats(x) and np.asarray(x).dtype == np.float32 and np.size(x) for x in logits)
    if single and all((np.abs(x) <= 100).all() for x in logits):
        assert value.dtype == tf.float32 and np.isfinite(value)
        kind = loss.__name__
        assert value <= 0 or not kind.startswith("saturating")
        assert value >= 0 or kind in (
            "saturating_generator_loss",
            "critic_loss",
            "wasserstein_generator_loss",
        )


BATCHES = uniform(st.tuples(st.just(3), st.just(2)), dtypes=NATIVE[:1])


def steep(samples, training=None):
    return tf.reduce_sum(tf.square(samples), axis=-1, keepdims=True)


@door(
    penalty=st.sampled_from(["gradient_penalty", "r1_penalty", "feature_matching"]),
    real=mostly(st.one_of(BATCHES, BATCHES, uniform(SHAPES, dtypes=NATIVE))),
    fake=mostly(BATCHES),
    seed=STEPS,
    step=STEPS,
)
def test_penalties(penalty, real, fake, seed, step):
    case = {"errors": FROM_TENSORFLOW, "says": "."}
    if penalty == "gradient_penalty":
        value = knock(losses.gradient_penalty, steep, real, fake, seed=seed, step=step, **case)
    elif penalty == "r1_penalty":
        value = knock(losses.r1_penalty, steep, real, **case)
    else:
        value = knock(mode_collapse.feature_matching, steep, real, fake, **case)
    assert value.shape == () and (value.dtype.is_complex or not value < 0)
    if all(floats(x) and np.size(x) and (np.abs(x) <= 2).all() for x in (real, fake)):
        assert np.isfinite(value)  # and of nothing the mean is NaN


@door(
    values=mostly(st.one_of(BATCHES, LOGITS)),
    limit=numbers(0.01, 1, np.float32(0.5), 100.0),
)
def test_clip_weights(values, limit):
    try:
        variable = tf.Variable(values)
    except Exception as error:  # TensorFlow's affair
        raise Refused from error
    case = {"errors": FROM_TENSORFLOW, "says": "."}
    knock(losses.clip_weights, [variable], limit, **case)
    kept = np.asarray(variable)
    assert kept.shape == variable.shape and not (np.abs(kept) > np.float64(limit) * 1.001).any()


# Figures.


@door(images=mostly(st.one_of(uniform(SHAPES), uniform(IMAGES4))))
def test_to_uint8(images):
    pixels = knock(figures.to_uint8, images)
    assert pixels.dtype == np.uint8 and pixels.shape == np.shape(images)
    expected = (np.asarray(images).astype(np.float64) + 1) * 127.5
    assert (np.abs(pixels - expected) <= 0.7).all()  # a half is one more or less in float16


TILED = st.one_of(
    uniform(IMAGES4), uniform(IMAGES4), uniform(IMAGES4), WILD, spoiled(uniform(IMAGES4))
)


@door(
    images=TILED,
    columns=st.one_of(st.none(), numbers(1, 2, 5, np.int64(3))),
    gap=numbers(0, 1, 3),
)
def test_tile(images, columns, gap):
    picture = knock(figures.tile, images, columns=columns, gap=gap)
    count, height, width, channels = images.shape
    across = int(math.ceil(math.sqrt(count)) if columns is None else columns)
    down = -(-count // across)
    expected = (down * (height + gap) - gap, across * (width + gap) - gap)
    assert picture.dtype == np.uint8
    assert picture.shape == (expected if channels == 1 else (*expected, 3))


CURVES = st.one_of(
    st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=9),
    st.lists(st.floats(-1e3, 1e3), max_size=9),
    st.sampled_from([[], [1, 2], np.arange(3), [[1.0]], 3.0, "text", ["a"], [1j], [None], [True]]),
    st.sampled_from([[math.inf, -math.inf, 1.0], [[1.0], [1.0, 2.0]], None]),
)
HISTORIES = st.dictionaries(st.sampled_from(["d_loss", "g_loss", "d_real"]), CURVES)


@door(
    history=HISTORIES,
    names=st.one_of(
        st.sampled_from([("d_loss", "g_loss"), ["d_loss"], [], ("d_loss", "absent")]),
        st.sampled_from(["d_loss", list("abcde"), 3, None, [["d_loss"]], {"d_loss"}]),
    ),
    lines=st.one_of(
        st.lists(st.tuples(numbers(0.5, 1, -2.0), st.text("ab ", max_size=3)), max_size=2),
        st.sampled_from([(), (), (), 3, [3], [(1, 2, 3)], ["ab"], None]),
    ),
    window=numbers(1, 2, 50),
)
def test_draw_curves(history, names, lines, window):
    with drawing() as axes:
        says = r"names|values|lines|window|d_loss|g_loss|number|unpack|iterable|unhashable"
        case = {"lines": lines, "window": window, "says": says}
        knock(figures.draw_curves, axes, history, names, **case)
        assert len(axes.lines) == len(names) + len(lines)
        for name, line in zip(names, axes.lines, strict=False):
            steps = len(history.get(name, ()))
            assert len(line.get_xdata()) == (max(1, steps - window + 1) if steps else 0)


@contextlib.contextmanager
def drawing():
    """Axes that nothing else draws in, closed afterwards."""
    figure, axes = plt.subplots()
    try:
        yield axes
    finally:
        plt.close(figure)
        assert plt.get_fignums() == []


@door(history=HISTORIES)
def test_draw_history(history):
    with drawing() as axes:
        other = axes.twinx()
        knock(figures.draw_history, axes, other, history, says="d_loss|g_loss|d_real")
        assert [line.get_label() for line in axes.lines[:2]] == ["d_loss", "g_loss"]
        assert other.get_ylim() == (0, 1)


@door(
    images=TILED,
    columns=st.one_of(st.none(), numbers(1, 2)),
    title=st.one_of(st.none(), st.text("ab %{}\n\\", max_size=9)),
    zoom=st.one_of(st.none(), numbers(1.5, 10)),
)
def test_draw_images_and_show_images(images, columns, title, zoom):
    if zoom is None:
        with drawing() as axes:
            says = "images|columns|gap"
            knock(figures.draw_images, axes, images, columns=columns, title=title, says=says)
            assert axes.get_title() == (title or "")
            expected = figures.tile(images, columns=columns)
            np.testing.assert_array_equal(axes.images[0].get_array(), expected)
    else:
        case = {"columns": columns, "title": title, "zoom": zoom, "alt": "a grid of pictures"}
        try:
            knock(figures.show_images, images, **case, says="images|columns|gap|zoom")
        finally:
            plt.close("all")


@pytest.mark.parametrize("zoom", [0, -1, math.nan, math.inf, "3", 1j])
def test_a_page_has_a_size(zoom):
    with pytest.raises((TypeError, ValueError), match="^zoom"):
        figures.show_images(np.zeros((1, 2, 2, 1)), alt="one picture", zoom=zoom)


@pytest.mark.parametrize("shape", [(2, 0, 3, 1), (2, 3, 0, 3), (0, 2, 2, 1), (2, 2, 2, 0)])
def test_images_of_no_pixels_are_refused(shape):
    with pytest.raises(ValueError, match="^images must be"):
        figures.tile(np.zeros(shape))


def test_a_short_curve_leaves_the_others_their_window():
    with drawing() as axes:
        history = {"d_loss": [1.0], "g_loss": [1.0] * 9}
        figures.draw_curves(axes, history, ("d_loss", "g_loss"), window=4)
        assert [len(line.get_xdata()) for line in axes.lines] == [1, 6]


FRAMES = st.lists(
    uniform(st.just((4, 5)), dtypes=[np.dtype(np.uint8)])
    | uniform(st.just((4, 5, 3)), dtypes=[np.dtype(np.uint8)]),
    max_size=3,
)


@door(
    frames=st.one_of(FRAMES, FRAMES.map(lambda f: f[:1] * 3), st.lists(WILD, max_size=2)),
    name=st.sampled_from(["x.gif", "y.GIF", "x.gif", "x.mp4"]) | NAMES.map(lambda n: n + ".gif"),
    milliseconds=st.sampled_from([20, 100]) | numbers(20, 100, 50),
    hold=st.sampled_from([20, 1500]) | numbers(20, 1500),
    older=st.booleans(),
)
def test_write_gif(frames, name, milliseconds, hold, older):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        if older:
            with contextlib.suppress(OSError, ValueError):
                path.write_bytes(b"an older file")
        before = listing(folder)
        try:
            errors = (TypeError, ValueError, OSError)
            case = {"milliseconds": milliseconds, "hold": hold, "errors": errors}
            found = knock(figures.write_gif, path, frames, **case, says=".")
            assert found == path and listing(folder) == [(str(path), path.stat().st_size)]
            with Image.open(path) as gif:
                assert gif.format == "GIF" and gif.size == (5, 4)
                assert gif.info.get("loop") == 0
        except Refused:
            assert listing(folder) == before
            raise


@door(
    raw=st.binary(max_size=20),
    alt=st.text(string.printable + "<>&\"'äß漢字🙂", max_size=12),
    kind=st.sampled_from(["file"] * 4 + ["absent", "folder"]),
)
def test_show_gif(raw, alt, kind):
    shown = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPython.display, "display", shown.append)
        path = Path(folder, "x.gif")
        if kind != "absent":
            path.write_bytes(raw) if kind == "file" else path.mkdir()
        before = listing(folder)
        try:
            knock(figures.show_gif, path, alt=alt, errors=(ValueError, OSError), says="x.gif")
        finally:
            assert listing(folder) == before
    (page,) = shown
    (described,) = re.findall(r'alt="([^"]*)"', page.data)
    assert html.unescape(described) == alt and page.data.count("<") == 1
