"""Thousands of inputs at every door, most of them bad: each is taken, or refused as documented."""

import contextlib
import functools
import gzip
import html
import inspect
import io
import math
import os
import re
import signal
import string
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
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

from ganutils import data, figures, latents, losses, metrics, readers

INPUTS = {}  # how many inputs each test throws


class Refused(Exception):
    """An input was refused, by an error that its function documents."""


def knock(function, *args, says=None, errors=(TypeError, ValueError), **kwargs):
    """Call a function; an error that is documented must name an argument, or what `says` matches."""
    try:
        return function(*args, **kwargs)
    except errors as error:
        documented = inspect.getdoc(function) or ""
        kinds = [kind.__name__ for kind in type(error).__mro__[:-3]]
        assert any(re.search(rf"\b{kind}\b", documented) for kind in kinds), repr(error)
        named = says or rf"\b({'|'.join(inspect.signature(function).parameters)})\b"
        assert re.search(named, str(error)), repr(error)
        raise Refused from error


def door(inputs, **strategies):
    """Make a test of a check: so many generated inputs, of which some are taken and some refused."""

    def decorate(check):
        INPUTS[check.__name__] = inputs

        def test():
            outcomes = Counter()

            @settings(
                max_examples=inputs,
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
            assert outcomes.total() >= inputs and len(outcomes) == 2, outcomes

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
    monkeypatch.delenv("GANUTILS_DATA", raising=False)
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["temporary", "work"]


def listing(folder):
    """Names and sizes of everything below a folder."""
    return sorted((str(path), path.lstat().st_size) for path in Path(folder).rglob("*"))


def test_at_least_two_thousand_inputs():
    assert sum(INPUTS.values()) >= 2000


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
    """Good numbers, as often as all the others."""
    bad = [0, -1, 1.5, 10**7, math.nan, math.inf, -math.inf, None, "3", b"3", [2], (), {}, 1j]
    bad += [np.array([1, 2]), np.float32(0.5), 5e-324, -0.0, 1e300, *HUGE, object()]
    return st.one_of(st.sampled_from(good), st.sampled_from(good + tuple(bad)))


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
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4).map(np.array),
    uniform(st.tuples(st.integers(1, 4)), dtypes=OTHERS[1:9]),
    uniform(SHAPES, dtypes=FLOATS + OTHERS),
)
DAMAGE = st.one_of(
    st.just(("none", 0)),
    st.tuples(st.sampled_from(["flip", "cut", "garble", "append", "drop"]), st.floats(0, 1)),
)


def damaged(raw, kind, where):
    """Raw bytes with one fault at a relative place."""
    raw, place = bytearray(raw), int(where * (len(raw) - 1))
    if kind == "flip":
        raw[place] ^= 1 << int(where * 1e6) % 8
    elif kind == "cut":
        del raw[place:]
    elif kind == "garble":
        raw[place : place + 9] = b"\xff\x00PK\x01\x02[]\n"
    elif kind == "append":
        raw += raw[:place]
    elif kind == "drop":
        del raw[place]
    return bytes(raw)


def fit_images(x):
    """The rule of `load_images` in other words: which arrays are images?"""
    if x.ndim not in (3, 4) or 0 in x.shape or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        return False
    return x.dtype == np.uint8 or (x.dtype.kind == "f" and bool((np.abs(x) <= 1).all()))


def fit_labels(y, count):
    if y is None:
        return True
    small = y.dtype.kind in "iu" and all(-(2**31) <= int(v) < 2**31 for v in y.flat)
    return small and y.shape in ((count,), (count, 1))


def check_loaded(images, labels, x, y):
    """What comes out is float32 in [-1, 1] and the very arrays that were put in."""
    assert images.dtype == np.float32 and labels.dtype == np.int32
    assert images.shape == (*x.shape, 1)[:4] and labels.shape == x.shape[:1]
    assert images.min() >= -1 and images.max() <= 1
    expected = x / 127.5 - 1.0 if x.dtype == np.uint8 else x
    np.testing.assert_allclose(images.reshape(x.shape), expected.astype(np.float64), atol=1e-6)
    np.testing.assert_array_equal(labels, 0 if y is None else y.reshape(-1))


@door(
    500,
    x=st.one_of(PIXELS, PIXELS, spoiled(PIXELS), uniform(SHAPES, dtypes=FLOATS + OTHERS)),
    y=LABELS,
    match=st.booleans(),
    key=st.sampled_from(["train"] * 9 + ["test", "", "train.npy", "Train", "\n", "../../train"]),
    pack=st.sampled_from([np.savez, np.savez_compressed]),
    by_columns=st.booleans(),
    damage=DAMAGE,
)
def test_npz_files(x, y, match, key, pack, by_columns, damage):
    if match and y is not None and x.ndim:  # labels of the right number, or few would be
        y = np.resize(y, (len(x), 1)[: 1 + y.size % 2])
    arrays = {f"x_{key}": np.asfortranarray(x) if by_columns else x, "x_other": np.arange(3)}
    arrays |= {} if y is None else {f"y_{key}": y}
    whole = io.BytesIO()
    pack(whole, **arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.npz")
        path.write_bytes(damaged(whole.getvalue(), *damage))
        before = listing(folder)
        fit = key == "train" and fit_images(x) and fit_labels(y, len(x))
        try:
            images, labels, name = knock(data.load_images, path, says=re.escape(str(path)))
        except Refused:
            assert not fit or damage[0] != "none"
            raise
        finally:
            assert listing(folder) == before
    # A flipped bit is found, or it is where nothing depends on it.
    assert fit and name == "mine.npz"
    check_loaded(images, labels, x, y)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@door(
    100,
    layers=st.lists(st.sampled_from([list, tuple, dict, set, "array"]), max_size=4),
    shape=arrays_of.array_shapes(min_dims=0, max_dims=4, max_side=3),
    where=st.sampled_from(["x_train", "y_train", "x_test", "bare pickle", "field"]),
)
def test_pickles_are_not_executed(layers, shape, where):
    """In images, labels, a member that nobody asks for, a file without a zip, a structured type."""
    with tempfile.TemporaryDirectory() as folder:
        marker, path = Path(folder, "marker"), Path(folder, "trap.npz")
        trap = Trap(str(marker))
        for layer in layers:
            trap = {"a": trap} if layer is dict else trap
            trap = [trap] if layer is list else trap
            trap = (trap,) if layer in (tuple, set) else trap
        array = np.empty(shape, [("a", "i4"), ("b", object)] if where == "field" else object)
        for index in np.ndindex(shape):
            array[index] = (1, trap) if where == "field" else [trap]
        good = {"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.arange(2)}
        if where == "bare pickle":
            with path.open("wb") as file:
                array.dump(file)
        else:
            np.savez(path, **good | {"x_train" if where == "field" else where: array})
        try:
            knock(data.load_images, path, says=r"pickle|zip")
            assert where == "x_test"
        finally:
            assert not marker.exists()
        with np.load(path, allow_pickle=True) as file, contextlib.suppress(Exception):
            file["x_test"]
        assert marker.exists()  # so the trap was armed


# Files: pictures.

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".tiff": "TIFF"}
NAMES = st.text(string.printable.replace("/", "") + "äß漢字🙂\u202e\ud800", min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: name not in (".", ".."))
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # Pillow would run a program
KINDS = ["picture"] * 12 + ["hidden", "text", "page", "empty", "cut", "folder", "loop", "dangling"]
KINDS += ["pipe", "postscript", "deep", "class folder"]


def as_picture(seed, suffix, mode, size):
    pixels = filled(seed, (*size, 3), np.dtype(np.uint8))
    with io.BytesIO() as file:
        Image.fromarray(pixels).convert(mode).save(file, FORMATS[suffix])
        return file.getvalue()


@contextlib.contextmanager
def no_waiting(seconds=60):
    """End what hangs, such as the reading of a pipe that nobody writes to."""

    def end(*_):
        raise AssertionError("It hangs.")

    old = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@door(
    250,
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
    faults=st.one_of(st.just([]), st.just([]), st.lists(DAMAGE, max_size=2)),
)
def test_folders_of_pictures(files, split, faults):
    with tempfile.TemporaryDirectory() as folder:
        shown = Counter()
        for number, (kind, name, suffix, mode, size) in enumerate(files):
            raw = as_picture(number, suffix, mode, size)
            name = ("." if kind == "hidden" else f"{number}") + name + suffix
            path = Path(folder, name)
            shown[kind] += 1
            if kind in ("picture", "hidden"):
                fault = faults[number] if number < len(faults) else ("none", 0)
                path.write_bytes(damaged(raw, *fault))
            elif kind == "text":
                path.with_name(name + ".txt").write_text("no picture")
            elif kind in ("page", "empty", "cut", "postscript"):
                path.write_bytes(
                    {"page": b"<html>", "empty": b"", "cut": raw[:25]}.get(kind, POSTSCRIPT)
                )
            elif kind == "folder":
                path.mkdir()
            elif kind == "loop":
                path.symlink_to(path)
            elif kind == "dangling":
                path.symlink_to("nowhere.png")
            elif kind == "pipe":
                os.mkfifo(path)
            else:  # pictures one folder down, or two
                inner = Path(folder, f"class {number}", *(["deeper"] if kind == "deep" else []))
                inner.mkdir(parents=True)
                (inner / "0.png").write_bytes(raw)
        before = listing(folder)
        try:
            with no_waiting():
                says = re.escape(folder) + r".*; expected"
                images, labels, name = knock(data.load_images, folder, split=split, says=f"(?s){says}")
        finally:
            assert listing(folder) == before
    loose, classes = shown["picture"], shown["class folder"]
    assert not set(KINDS[13:]) & set(shown) - {"text", "deep", "class folder"}
    assert (loose == 0) != (classes == 0) and split == "train" and name == Path(folder).name
    assert images.shape == (loose + classes, 28, 28, 1) and images.dtype == np.float32
    assert images.min() >= -1 and images.max() <= 1
    assert labels.dtype == np.int32 and labels.tolist() == [0] * loose + [*range(classes)]


# Paths.

ODD = ["a b.npz", "a\nb.npz", "-rf.npz", "--help", "100%s%d.npz", "~.npz", "~", "~root", "~nobody"]
ODD += ["..", ".", "../..", "a/../b.npz", "x.npz.", "x.npz ", " .npz", ".npz", "\x00.npz", "a\x00"]
ODD += ["\ud800.npz", "\udcff.npz", "漢字.npz", "a\u202eznp.npz", "e\u0301.npz", "🙂.NPZ", "a" * 251]
ODD += ["a" * 251 + ".npz", "a" * 252 + ".npz", "a" * 5000, "a/" * 3000, "/", "//", "", "$HOME"]
ODD += ["*.npz", "x.npz/", "file:///x.npz", "http://x/y.npz", "C:\\x.npz", "con.npz", "Mnist"]
ODD += ["/dev/null", "/dev/zero", "/proc/self/mem", "/proc/self/fd/0", "{name}.npz", "'\".npz"]


class Bytes(os.PathLike):
    def __fspath__(self):
        return b"mine.npz"


@door(
    300,
    source=st.one_of(
        st.sampled_from(ODD),
        st.sampled_from(ODD),
        NAMES,
        NAMES.map(lambda name: name + ".npz"),
        st.sampled_from(["auto", "digits", "mnist", "fashion_mnist"]),
        st.sampled_from([None, 3, b"digits", ["digits"], ("digits",), {}, Bytes(), print]),
    ),
    as_path=st.booleans(),
    kind=st.sampled_from(["file"] * 4 + ["absent", "pipe", "link", "loop", "folder", "text"]),
    split=st.one_of(
        *[st.just("train")] * 4,
        st.sampled_from(["Train", "", None, 0, [], {}, np.array(["train", "test"]), b"train"]),
    ),
)
def test_paths(source, as_path, kind, split):
    names = ("auto", "digits", "mnist", "fashion_mnist")
    named, made = isinstance(source, str) and source in names, False
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        file = None
        if isinstance(source, str) and not named:
            # Only here, whatever is asked for.
            with contextlib.suppress(OSError, ValueError):
                file = Path(source)
                if Path(folder) == Path(os.path.abspath(file)).parent and not file.exists():
                    make_file(file, kind)
                    made = kind in ("file", "link")
            if as_path:
                with contextlib.suppress(ValueError):
                    source = Path(source)
        before = listing(folder)
        try:
            errors = (TypeError, ValueError, FileNotFoundError)
            with no_waiting(), contextlib.redirect_stderr(io.StringIO()):
                says = re.escape(str(source)) if isinstance(source, os.PathLike) else "."
                says = rf"(?s)source|split|MNIST|{says}"
                images, labels, name = knock(
                    data.load_images, source, split=split, errors=errors, says=says
                )
        except Refused:
            plain = not str(source).startswith("~") and str(source).lower().endswith(".npz")
            assert not (made and plain and split == "train")
            raise
        finally:
            assert listing(folder) == before
    assert split == "train" and (named or made)
    assert images.dtype == np.float32 and labels.dtype == np.int32 and len(images) == len(labels)
    assert isinstance(name, str) and (named or name == "target" or name == Path(source).name)


def make_file(path, kind):
    """A good file, or what looks like one."""
    if kind == "file":
        with path.open("wb") as file:
            np.savez(file, x_train=np.zeros((2, 3, 3), np.uint8))
    elif kind == "link":
        make_file(Path("target"), "file")
        path.symlink_to("target")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no images")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
@pytest.mark.parametrize("name", ["mine.npz", "0.png", "folder"])
def test_what_may_not_be_read_is_named(tmp_path, name):
    path = tmp_path / "temporary" / name
    make_file(path, "folder" if name == "folder" else "file")
    path.chmod(0)
    with pytest.raises(ValueError, match=f"{name}.*[Pp]ermission"):
        data.load_images(path if name != "0.png" else path.parent)
    path.chmod(0o700)
    path.rmdir() if name == "folder" else path.unlink()


# Files: idx, and what unfolds to more than anybody has.


def idx(array):
    return struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


@door(
    150,
    array=uniform(SHAPES, dtypes=[np.dtype(np.uint8)]),
    inside=DAMAGE,
    outside=DAMAGE,
)
def test_idx_files(array, inside, outside):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gz")
        path.write_bytes(damaged(gzip.compress(damaged(idx(array), *inside)), *outside))
        found = knock(readers.read_idx, path, says=re.escape(str(path)))
    assert found.dtype == np.uint8
    if inside[0] == "none":  # then the checksum stands for all
        np.testing.assert_array_equal(found, array)


@contextlib.contextmanager
def little_memory():
    """What is refused is refused before it takes memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


ZEROS = zlib.compressobj(9, zlib.DEFLATED, -15)
ZEROS = ZEROS.compress(bytes(2**20)) + ZEROS.flush(zlib.Z_FULL_FLUSH)  # a MiB in a kB, repeatable


def deflated(start, mebibytes):
    """A deflate stream of some bytes and then zeros, far smaller than them."""
    begin = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = begin.compress(start) + begin.flush(zlib.Z_FULL_FLUSH)
    return head + ZEROS * mebibytes + b"\x03\x00"  # an empty last block


def npy_header(shape, descr="|u1"):
    with io.BytesIO() as file:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()


def zip_bomb(path, name, *, shape, mebibytes, declared=None, method=zipfile.ZIP_DEFLATED):
    """An npz of one member whose stored size and compression may be a lie."""
    head = npy_header(shape)
    raw = deflated(head, mebibytes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x_test.npy", head + bytes(16))
        archive.writestr(name, raw)
        entry = archive.getinfo(name)
        entry.compress_type = method
        entry.file_size = len(head) + mebibytes * 2**20 if declared is None else declared
    return path


@pytest.mark.parametrize(
    ("shape", "mebibytes", "declared", "says"),
    [
        ((5 * 2**10, 1024, 1024), 5 * 2**10, None, "bytes in one array; the limit is 1,073,741,824"),
        ((5 * 2**10, 1024, 1024), 5 * 2**10, 1000, "unreadable data|complete zip"),
        ((1, 4, 4), 5 * 2**10, 144, "unreadable data|complete zip"),
        ((1, 4, 4), 0, 2**40, "bytes in one array"),
        ((2**40, 1024, 1024), 1, None, "size that its shape"),
        ((2**62, 2**62, 4), 1, None, "size that its shape"),
        ((-4, -4, 4), 0, 128 + 64, "size that its shape|negative|unreadable"),
    ],
    ids=["honest", "says little", "a small image", "says much", "shape", "overflow", "negative"],
)
def test_zip_bombs_are_refused_unopened(tmp_path, shape, mebibytes, declared, says):
    path = tmp_path / "temporary" / "bomb.npz"
    zip_bomb(path, "x_train.npy", shape=shape, mebibytes=mebibytes, declared=declared)
    with little_memory(), pytest.raises(ValueError, match=says) as caught:
        data.load_images(path)
    assert str(path) in str(caught.value)
    path.unlink()


def test_a_bomb_in_the_other_split_is_not_touched(tmp_path):
    path = tmp_path / "temporary" / "bomb.npz"
    zip_bomb(path, "x_train.npy", shape=(1, 4, 4), mebibytes=5 * 2**10)
    with little_memory():
        assert data.load_images(path, split="test")[0].shape == (1, 4, 4, 1)
    path.unlink()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_knows_no_bounds_is_refused(tmp_path, method):
    path = tmp_path / "temporary" / "bomb.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x_train.npy", npy_header((1, 4, 4)) + bytes(2**24))
    with pytest.raises(ValueError, match="not compressed as np.savez_compressed"):
        data.load_images(path)
    path.unlink()


@pytest.mark.parametrize(
    ("shape", "mebibytes"),
    [((5 * 2**10, 1024, 1024), 5 * 2**10), ((1, 4, 4), 5 * 2**10), ((2**32 - 1,) * 9, 1)],
    ids=["honest", "says little", "says much"],
)
def test_gz_bombs_are_refused_unopened(tmp_path, shape, mebibytes):
    path = tmp_path / "temporary" / "bomb.gz"
    head = struct.pack(f">2xBB{len(shape)}I", 8, len(shape), *shape)
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated(head, mebibytes) + bytes(8))
    with little_memory(), pytest.raises(ValueError, match="1,073,741,824") as caught:
        readers.read_idx(path)
    assert str(path) in str(caught.value)
    path.unlink()


@pytest.mark.parametrize(("side", "says"), [(9_500, "decompression bomb"), (60_000, "bomb")])
def test_pictures_of_too_many_pixels_are_refused_unopened(tmp_path, side, says):
    """Just above Pillow's limit, where by itself it only warns; and far above."""
    path = tmp_path / "temporary" / "0.png"
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b"")]
    raw = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        raw += struct.pack(">I", len(body)) + kind + body
        raw += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(raw)
    with little_memory(), pytest.raises(ValueError, match=says) as caught:
        data.load_images(path.parent)
    assert str(path) in str(caught.value)
    path.unlink()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pictures_of_more_than_8_bits_are_refused(tmp_path, dtype):
    """Pillow would make everything above 255 white."""
    path = tmp_path / "temporary" / "0.tiff"
    Image.fromarray(np.full((9, 9), 200, dtype)).save(path)
    with pytest.raises(ValueError, match="more than 8 bits a pixel, mode [IF]"):
        data.load_images(path.parent)
    path.unlink()
