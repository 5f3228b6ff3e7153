"""Real samples: what is found, what is refused, and in which order it is served."""

import gzip
import hashlib
import itertools
import math
import os
import re
import struct
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from ganutils import _image_files, _mnist, data, latents

REAL_FOLDER = os.environ.get("GANUTILS_DATA", "")
SMALL = {"train": 30, "test": 20}


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """An empty Keras cache, no data folder, no network; the machine's own are never touched."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("GANUTILS_OFFLINE", "1")
    monkeypatch.delenv("GANUTILS_DATA", raising=False)
    monkeypatch.setattr(_mnist, "_failed_downloads", {})


def idx_bytes(array):
    """The published file format, written independently of the module."""
    magic = {1: 2049, 3: 2051}[array.ndim]
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def small_set(shade=0):
    """Arrays in Keras' layout, 30 and 20 images whose pixels repeat from `shade` on."""
    arrays = {}
    for split, size in SMALL.items():
        pixels = (np.arange(size * 784) + shade) % 256
        arrays[f"x_{split}"] = pixels.reshape(size, 28, 28).astype(np.uint8)
        arrays[f"y_{split}"] = (np.arange(size) % 10).astype(np.uint8)
    return arrays


@pytest.fixture
def small_mnist(monkeypatch):
    """A stand-in for MNIST: 50 images, with sizes and checksums to match."""
    arrays = small_set()
    sums = {key: hashlib.md5(idx_bytes(array)).hexdigest() for key, array in arrays.items()}
    monkeypatch.setattr(_mnist, "_MNIST_MD5", sums)
    monkeypatch.setattr(_mnist, "SPLITS", SMALL)
    return arrays


def save(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def save_idx(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for part, split in (("train", "train"), ("t10k", "test")):
        for kind, key in (("images-idx3", "x"), ("labels-idx1", "y")):
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(idx_bytes(arrays[f"{key}_{split}"]))


def fetcher(monkeypatch, code, seconds=30):
    """Let the download run `code` instead of Keras' loader, in the same child process."""
    monkeypatch.delenv("GANUTILS_OFFLINE")
    monkeypatch.setattr(_mnist, "_FETCH", code)
    monkeypatch.setattr(_mnist, "_FETCH_SECONDS", seconds)


def copies(source):
    """Code that leaves a copy of `source` where Keras' loader would leave its download."""
    return (
        "import os, shutil; home = os.path.join(os.environ['KERAS_HOME'], 'datasets');"
        f"shutil.copytree({str(source)!r}, home)"
    )


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Built-in sets


def test_digits_are_scikit_learns_in_mnists_frame():
    images, labels, name = data.load_images("digits")
    held_out, held_labels, _ = data.load_images("digits", split="test")
    assert name == "scikit-learn digits"
    assert images.shape == (1500, 28, 28, 1) and held_out.shape == (297, 28, 28, 1)
    assert images.dtype == held_out.dtype == np.float32
    assert labels.dtype == held_labels.dtype == np.int32
    assert images.min() == -1 and 0.9 < images.max() <= 1

    digits = load_digits()
    together = np.bincount(labels) + np.bincount(held_labels)
    np.testing.assert_array_equal(together, np.bincount(digits.target))
    assert set(np.bincount(held_labels)) <= {29, 30, 31}  # stratified
    seen = {image.tobytes() for image in images}
    assert not any(image.tobytes() in seen for image in held_out)

    margin = np.ones((28, 28), bool)
    margin[4:24, 4:24] = False
    assert (images[:, margin] == -1).all()
    # Each one, made small again, is nearest to the 8x8 original with the same label.
    for image, label in zip(held_out[:20], held_labels[:20], strict=True):
        small = Image.fromarray(image[4:24, 4:24, 0]).resize((8, 8), Image.Resampling.BOX)
        far = np.abs(digits.images / 8 - 1 - np.asarray(small)).mean((1, 2))
        assert far.min() < 0.2 and digits.target[far.argmin()] == label


def test_idx_checksum_agrees_with_an_independent_writer():
    for array in (small_set()["x_train"], small_set()["y_train"]):
        assert _image_files.idx_md5(array) == hashlib.md5(idx_bytes(array)).hexdigest()
        assert _image_files.idx_md5(array) != _image_files.idx_md5(array[::-1])
    wide = np.zeros((2, 3, 4), np.uint8)
    assert _image_files.idx_md5(wide) != _image_files.idx_md5(wide.reshape(2, 4, 3))


def test_mnist_itself_or_a_named_absence(monkeypatch):
    if not Path(REAL_FOLDER or "nowhere", "mnist.npz").exists():
        with pytest.raises(FileNotFoundError, match="MNIST not found"):
            data.load_images("mnist")
        return
    monkeypatch.setenv("GANUTILS_DATA", REAL_FOLDER)
    for split, zeros, ones in (("train", 5923, 6742), ("test", 980, 1135)):
        images, labels, name = data.load_images("mnist", split=split)
        assert name == "MNIST" and images.shape == (_mnist.SPLITS[split], 28, 28, 1)
        assert list(np.bincount(labels)[:2]) == [zeros, ones]
        assert images.min() == -1 and images.max() == 1
        assert abs((images.mean() + 1) / 2 - 0.1315) < 0.002  # 0.1307 and 0.1325


def flip_a_pixel(pixels):
    pixels = pixels.copy()
    pixels[3, 4, 5] ^= 1
    return pixels


@pytest.mark.parametrize(
    ("key", "damage", "named"),
    [
        ("x_train", lambda x: x[::-1], "another checksum"),
        ("x_train", flip_a_pixel, "another checksum"),
        ("y_train", lambda y: y[::-1], "another checksum"),
        ("x_train", lambda x: x[:-1], r"\(29, 28, 28\); expected .*\(30, 28, 28\)"),
        ("x_train", lambda x: x / 255, "float64"),
        ("y_train", None, "nothing; expected uint8"),
    ],
)
def test_a_damaged_mnist_is_named(tmp_path, monkeypatch, small_mnist, capfd, key, damage, named):
    array = small_mnist.pop(key)
    path = save(tmp_path / "mnist.npz", small_mnist | ({key: damage(array)} if damage else {}))
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"MNIST is damaged.*{key}: found .*{named}") as caught:
        data.load_images("mnist")
    assert str(path) in str(caught.value) and "Replace the file" in str(caught.value)
    assert len(data.load_images("mnist", split="test")[0]) == 20  # only what is asked for
    digits = np.zeros((2, 28, 28, 1), np.float32), np.zeros(2, np.int32)
    monkeypatch.setattr(_image_files, "read_digits", lambda split: digits)
    assert data.load_images() == (*digits, "scikit-learn digits")
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "damaged" in err and str(path) in err


def test_order_of_search(tmp_path, monkeypatch):
    monkeypatch.setattr(_mnist, "SPLITS", SMALL)
    mine = save(tmp_path / "mine" / "fashion_mnist.npz", small_set(10))
    monkeypatch.setenv("GANUTILS_DATA", str(mine.parent))
    cache = tmp_path / "keras" / "datasets" / "fashion-mnist"
    save_idx(cache, small_set(20))
    save_idx(tmp_path / "net" / "fashion-mnist", small_set(30))
    fetcher(monkeypatch, copies(tmp_path / "net"))

    def first_pixel(split="train"):
        images, labels, name = data.load_images("fashion_mnist", split=split)
        assert name == "Fashion-MNIST" and images.shape == (SMALL[split], 28, 28, 1)
        np.testing.assert_array_equal(labels, np.arange(SMALL[split]) % 10)
        return round((images[0, 0, 0, 0].item() + 1) * 127.5)

    assert first_pixel() == 10
    mine.unlink()
    assert first_pixel() == 20 and first_pixel("test") == 20
    (cache / "t10k-labels-idx1-ubyte.gz").unlink()  # one of four missing: not there
    assert first_pixel() == 30
    monkeypatch.setenv("GANUTILS_OFFLINE", "1")
    assert first_pixel("test") == 30  # the download stays in the cache
    assert len(files_below(tmp_path / "keras")) == 4


@pytest.mark.parametrize("damage", ["cut", "not gzip", "other sizes", "label 10"])
def test_a_damaged_fashion_mnist_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(_mnist, "SPLITS", SMALL)
    arrays = small_set()
    cache = tmp_path / "keras" / "datasets" / "fashion-mnist"
    path = cache / "train-images-idx3-ubyte.gz"
    if damage == "label 10":
        arrays["y_train"][7] = 10
        path = cache / "train-labels-idx1-ubyte.gz"
    save_idx(cache, arrays)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "not gzip":
        path.write_bytes(b"<html>")
    elif damage == "other sizes":
        path.write_bytes(gzip.compress(idx_bytes(arrays["x_test"])))
    with pytest.raises(ValueError, match="Fashion-MNIST is damaged") as caught:
        data.load_images("fashion_mnist")
    assert str(path) in str(caught.value)


def test_kerass_loaders_use_the_files_that_are_looked_for(tmp_path, monkeypatch, small_mnist):
    save(tmp_path / "keras" / "datasets" / "mnist.npz", small_mnist)
    save_idx(tmp_path / "keras" / "datasets" / "fashion-mnist", small_mnist)
    asked = []

    def get_file(fname, cache_subdir="datasets", **_):
        asked.append(Path(cache_subdir, fname))
        return str(tmp_path / "keras" / cache_subdir / fname)

    for name in ("mnist", "fashion_mnist"):
        load_data = getattr(keras.datasets, name).load_data
        monkeypatch.setitem(load_data.__globals__, "get_file", get_file)
        asked.clear()
        (x_train, y_train), (x_test, y_test) = load_data()
        assert {file.as_posix() for file in asked} == {
            f"datasets/{member}" for member in _mnist.SETS[name][2]
        }
        for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
            images, labels, _ = data.load_images(name, split=split)
            np.testing.assert_allclose(images[..., 0], x / 127.5 - 1.0, atol=1e-6)
            np.testing.assert_array_equal(labels, y)
            assert images.dtype == np.float32 and labels.dtype == np.int32


def test_the_cache_follows_kerass_rule(tmp_path, monkeypatch):
    assert _mnist._keras_home() == tmp_path / "keras"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert _mnist._keras_home() == tmp_path / ".keras"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, nobody by that number
    assert _mnist._keras_home() == Path("/tmp/.keras")


# Downloads


def test_a_download_moves_into_the_cache_whole(tmp_path, monkeypatch, small_mnist, capfd):
    save(tmp_path / "net" / "mnist.npz", small_mnist)
    fetcher(monkeypatch, "print('a progress bar');" + copies(tmp_path / "net"))
    assert len(data.load_images("mnist")[0]) == 30
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "Downloading MNIST" in err
    assert files_below(tmp_path / "keras") == ["mnist.npz"]
    monkeypatch.setattr(_mnist, "_FETCH", "raise SystemExit(1)")
    assert len(data.load_images("mnist", split="test")[0]) == 20  # from the cache
    assert data.load_images()[2] == "MNIST"
    assert capfd.readouterr() == ("", "")  # in silence


HALF_A_FILE = (
    "import os; home = os.path.join(os.environ['KERAS_HOME'], 'datasets'); os.makedirs(home);"
    "open(os.path.join(home, 'mnist.npz'), 'wb').write(b'PK half');"
)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (HALF_A_FILE + "raise OSError('URL failure: 403')", "OSError: URL failure: 403"),
        (HALF_A_FILE + "os._exit(3)", "exit status 3"),
        (HALF_A_FILE, "not a zip file"),
        ("pass", "No such file"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch, code, reason):
    fetcher(monkeypatch, code)
    with pytest.raises(FileNotFoundError, match=reason):
        data.load_images("mnist")
    assert list((tmp_path / "keras").iterdir()) == [tmp_path / "keras" / "datasets"]
    assert files_below(tmp_path / "keras") == []


def test_a_hanging_download_is_given_up(tmp_path, monkeypatch, capsys):
    assert 0 < _mnist._FETCH_SECONDS < 60
    fetcher(monkeypatch, HALF_A_FILE + "import time; time.sleep(60)", seconds=1)
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError, match="not complete after 1 s"):
        data.load_images("mnist")
    assert 1 <= time.monotonic() - begin < 10
    assert files_below(tmp_path / "keras") == []
    # "auto" does not wait a second time, and an explicit name does.
    capsys.readouterr()
    monkeypatch.setattr(_mnist, "_FETCH", "raise SystemExit('no route')")
    assert data.load_images("auto")[2] == "scikit-learn digits"
    assert "not tried again after: not complete after 1 s" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no route"):
        data.load_images("mnist")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    fetcher(monkeypatch, "pass")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file" / "keras"))
    with pytest.raises(FileNotFoundError, match="download: .*Not a directory.*file"):
        data.load_images("mnist")


def test_offline_never_starts_a_download(tmp_path, monkeypatch, capfd):
    mine = tmp_path / "mine"
    monkeypatch.setenv("GANUTILS_DATA", str(mine))
    monkeypatch.setattr(_mnist.subprocess, "run", lambda *_, **__: pytest.fail("tried"))
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(FileNotFoundError) as caught:
            data.load_images(name)
        parts = ["GANUTILS_OFFLINE is set", str(mine / f"{name}.npz"), "(1) put", "(3) allow"]
        assert all(part in str(caught.value) for part in [*parts, str(tmp_path / "keras")])
    assert not (tmp_path / "keras").exists()
    images, labels, name = data.load_images(split="test")
    assert name == "scikit-learn digits" and len(images) == len(labels) == 297
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("digits instead.\n")
    assert "MNIST not found" in err and "GANUTILS_DATA" in err


def test_offline_zero_means_online(monkeypatch):
    fetcher(monkeypatch, "raise SystemExit('was tried')")
    monkeypatch.setenv("GANUTILS_OFFLINE", "0")
    with pytest.raises(FileNotFoundError, match="was tried"):
        data.load_images("mnist")


# The user's own arrays

ZEROS = np.zeros((3, 4, 4), np.uint8)
FLOATS = ZEROS - 1.0


@pytest.mark.parametrize("shape", [(5, 9, 7), (5, 9, 7, 1), (5, 9, 7, 3)])
def test_an_npz_keeps_its_size(tmp_path, shape):
    pixels = np.linspace(0, 255, np.prod(shape)).astype(np.uint8).reshape(shape)
    path = save(tmp_path / "mine.npz", {"x_train": pixels, "y_train": np.arange(5)[:, None]})
    images, labels, name = data.load_images(path)
    np.testing.assert_array_equal(images, data.load_images(str(path))[0])
    assert name == "mine.npz" and images.dtype == np.float32
    assert images.shape == (*shape, 1)[:4]
    np.testing.assert_allclose(images.reshape(shape), pixels / 127.5 - 1.0, atol=1e-6)
    assert labels.dtype == np.int32 and list(labels) == [0, 1, 2, 3, 4]


def test_floats_are_taken_as_they_are(tmp_path):
    values = np.linspace(-1, 1, 2 * 16).reshape(2, 4, 4)
    images, labels, _ = data.load_images(save(tmp_path / "a.npz", {"x_train": values}))
    np.testing.assert_array_equal(images[..., 0], values.astype(np.float32))
    assert list(labels) == [0, 0]  # y may be missing


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x_test": ZEROS}, r"x_test.*one named x_train"),
        ({"x_train": ZEROS[:0]}, r"\(0, 4, 4\); expected one image or more"),
        ({"x_train": ZEROS[0]}, r"shape \(4, 4\)"),
        ({"x_train": ZEROS[..., None, None]}, r"shape \(3, 4, 4, 1, 1\)"),
        ({"x_train": np.zeros((3, 4, 4, 4), np.uint8)}, r"shape \(3, 4, 4, 4\)"),
        ({"x_train": ZEROS.astype(int)}, "int64; expected uint8 in 0..255"),
        ({"x_train": ZEROS + 255.0}, "255 to 255.*divide|Divide"),
        ({"x_train": ZEROS + 0.5}, "nothing below 0.*by 2 and subtract 1"),
        ({"x_train": FLOATS - 0.001}, "-1.001"),
        ({"x_train": FLOATS + np.nan}, "NaN"),
        ({"x_train": ZEROS, "y_train": np.arange(2)}, r"\(3,\), not \(2,\)"),
        ({"x_train": ZEROS, "y_train": np.zeros(3)}, "integers, not float64"),
        ({"x_train": ZEROS, "y_train": np.eye(3, dtype=int)}, r"not \(3, 3\)"),
        ({"x_train": ZEROS, "y_train": np.array([0, -1, 10**6])}, "-1 to 1000000"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, named):
    path = save(tmp_path / "mine.npz", arrays)
    with pytest.raises((TypeError, ValueError), match=named) as caught:
        data.load_images(path)
    assert str(path) in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    whole = save(tmp_path / "whole.npz", small_set()).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 0xFF
    np.save(tmp_path / "single.npy", ZEROS)
    single = (tmp_path / "single.npy").read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "empty": b"", "page": b"<html>", "npy": single}
    for name, content in {**bad, "flipped": bytes(flipped)}.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a web page.*expected a whole .npz") as caught:
            data.load_images(path)
        assert str(path) in str(caught.value)


# Folders of pictures


def paint(path, shade, *, mode="L", size=(28, 28)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade).save(path)


def shades(images):
    return [round((value + 1) * 127.5) for value in images[:, 14, 14, 0]]


def test_a_flat_folder_splits_nine_to_one(tmp_path):
    for number in range(20):
        paint(tmp_path / "faces" / f"{number:02}.png", 10 * number)
    paint(tmp_path / "faces" / "._00.png", 255)
    (tmp_path / "faces" / "notes.txt").write_text("not a picture")
    images, labels, name = data.load_images(tmp_path / "faces")
    assert name == "faces" and images.shape == (18, 28, 28, 1) and images.dtype == np.float32
    assert shades(images) == [10 * number for number in range(20) if number not in (9, 19)]
    assert labels.dtype == np.int32 and not labels.any()
    assert shades(data.load_images(tmp_path / "faces", split="test")[0]) == [90, 190]


def test_class_folders_give_labels(tmp_path):
    for label, animal in enumerate(("cat", "dog")):
        for number in range(10):
            paint(tmp_path / animal / f"{number}.PNG", 100 * label + number)
    (tmp_path / "aside").mkdir()  # holds no picture: no class
    images, labels, _ = data.load_images(tmp_path)
    assert list(labels) == [0] * 9 + [1] * 9
    assert shades(images) == [*range(9), *range(100, 109)]
    images, labels, _ = data.load_images(tmp_path, split="test")
    assert list(labels) == [0, 1] and shades(images) == [9, 109]


def test_train_and_test_folders_are_the_splits(tmp_path):
    paint(tmp_path / "train" / "cat" / "a.png", 1)
    paint(tmp_path / "train" / "dog" / "a.png", 2)
    paint(tmp_path / "test" / "dog" / "a.png", 3)
    images, labels, _ = data.load_images(tmp_path)
    assert list(labels) == [0, 1] and shades(images) == [1, 2]
    images, labels, _ = data.load_images(tmp_path, split="test")
    assert list(labels) == [1] and shades(images) == [3]  # dog is 1 in both splits


def test_pictures_become_28_by_28_gray(tmp_path):
    board = np.indices((280, 280)).sum(0) % 2 * 255  # far finer than 28 pixels
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "0.png")
    paint(tmp_path / "1.jpg", (255, 0, 0), mode="RGB", size=(64, 48))
    paint(tmp_path / "2.png", (0, 0, 0, 0), mode="RGBA")
    paint(tmp_path / "3.gif", 200)
    paint(tmp_path / "4.bmp", 50, size=(9, 9))
    paint(tmp_path / "5.webp", (90, 90, 90), mode="RGB")
    wide = np.zeros((28, 84), np.uint8)
    wide[:, 28:56] = 255  # only the middle third is white
    Image.fromarray(wide).save(tmp_path / "6.png")
    images = data.load_images(tmp_path)[0]
    assert np.abs(images[0, 3:-3, 3:-3]).max() < 0.1  # antialiased, not picked out
    found = shades(images)
    assert abs(found[1] - 76) <= 2  # red's luma: 0.299 * 255
    assert found[2] == 255  # transparent: on white
    assert found[3:5] == [200, 50] and abs(found[5] - 90) <= 2
    assert (images[6, :, 3:-3] > 0.9).all()  # the central square


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14] = 250  # light above
    exif = Image.Exif()
    exif[274] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    (image,) = data.load_images(tmp_path)[0]
    assert (image[:14] == -1).all() and (image[14:] > 0.9).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("shade", "ground"), [(255, 0), (0, 255)])
def test_an_icon_does_not_vanish_on_its_ground(tmp_path, mode, shade, ground):
    icon = np.zeros((28, 28, 4), np.uint8)
    icon[7:21, 7:21] = (shade, shade, shade, 255)
    Image.fromarray(icon).convert(mode).save(tmp_path / "a.png")
    (image,) = data.load_images(tmp_path)[0]
    assert (image[7:21, 7:21] == shade / 127.5 - 1).all()
    assert (image[:5] == ground / 127.5 - 1).all()


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("train", "val"), ("TRAIN", "VALIDATION"), ("Training", "Testing")]
    + [("training_set", "test_set")],
)
def test_splits_are_found_by_any_of_their_names(tmp_path, train, test):
    paint(tmp_path / train / "cat" / "a.png", 1)
    paint(tmp_path / test / "cat" / "a.png", 2)
    paint(tmp_path / ".thumbnails" / "a.png", 3)
    assert shades(data.load_images(tmp_path)[0]) == [1]
    assert shades(data.load_images(tmp_path, split="test")[0]) == [2]
    assert data.class_names(tmp_path) == ["cat"]
    paint(tmp_path / f"{train}-images" / "cat" / "a.png", 4)
    if "_" not in train:
        with pytest.raises(ValueError, match="one of training pictures beside one of test"):
            data.load_images(tmp_path)


def test_what_is_drawn_faintly_or_in_the_middle_does_not_vanish_either(tmp_path):
    icon = np.zeros((28, 280, 4), np.uint8)
    icon[..., 3] = 255  # black to the left and to the right
    icon[:, 126:154] = 255, 255, 255, 0
    icon[8:20, 130:150, 3] = 100
    Image.fromarray(icon).save(tmp_path / "a.png")
    (image,) = data.load_images(tmp_path)[0]
    assert image[0, 0] == -1 and image[14, 14] > -0.3


def test_what_is_not_read_is_counted(tmp_path, capsys):
    paint(tmp_path / "cat" / "a.png", 1)
    paint(tmp_path / "cat" / "deeper" / "b.png", 2)
    for name in ("cat/c.heic", "cat/d.HEIC", "cat/Thumbs.db", "cat/.hidden", "notes.txt"):
        (tmp_path / name).write_bytes(b"?")
    assert len(data.load_images(tmp_path)[0]) == 1
    assert "not read: 2 .heic, 1 .txt, folder cat/deeper." in capsys.readouterr().err


def test_what_is_not_read_is_said_in_one_short_line(tmp_path, capsys):
    paint(tmp_path / "train" / "cat" / "a.png", 1)
    paint(tmp_path / "val" / "cat" / "a.png", 2)
    paint(tmp_path / "Test" / "dog" / "a.png", 3)
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "b.heic").write_bytes(b"?")  # a class of unread pictures only
    for number in range(30):
        (tmp_path / "train" / "cat" / f"no\nsuffix {number}").write_bytes(b"?")
        (tmp_path / "train" / "cat" / f"x.{number}").write_bytes(b"?")
    images, labels, _ = data.load_images(tmp_path)
    assert shades(images) == [1] and data.class_names(tmp_path) == ["cat", "dog"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 400 and re.search(r"not read: .*\d+ more\.", err)
    images, labels, _ = data.load_images(tmp_path, split="test")
    assert shades(images) == [3] and list(labels) == [1]
    assert "not read: folder val." in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"found 0 pictures.*unread: 1 \.heic"):
        data.load_images(tmp_path / "train" / "dog")


def test_a_very_large_picture_is_called_large(tmp_path, monkeypatch):
    paint(tmp_path / "a.png", 1, size=(300, 300))
    for limit in (1000, 80_000):  # an error to Pillow, and a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="a.png.*very large.*smaller copy"):
            data.load_images(tmp_path)


def test_a_link_to_a_picture_is_one_and_a_link_to_nowhere_is_unreadable(tmp_path):
    paint(tmp_path / "elsewhere" / "a.png", 7)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "b.PNG").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert shades(data.load_images(tmp_path / "own")[0]) == [7]
    (tmp_path / "elsewhere" / "a.png").unlink()
    with pytest.raises(ValueError, match="b.PNG: found an unreadable file"):
        data.load_images(tmp_path / "own")


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (9, 1), (None, 3), (64, None)])
def test_size_and_channels_of_pictures_are_the_readers_choice(tmp_path, size, channels):
    paint(tmp_path / "a.png", (10, 20, 30), mode="RGB", size=(50, 40))
    (image,) = data.load_images(tmp_path, size=size, channels=channels)[0]
    assert image.shape == (size or 28, size or 28, channels or 1)
    if channels == 3:
        assert np.rint(127.5 * (image[4, 4] + 1)).tolist() == [10, 20, 30]


def test_size_and_channels_of_other_sources_are_what_they_are(tmp_path):
    assert data.load_images("digits", size=28, channels=1)[0].shape == (1500, 28, 28, 1)
    for wrong in ({"size": 32}, {"channels": 3}):
        with pytest.raises(ValueError, match="folder of pictures only"):
            data.load_images("digits", **wrong)
    np.savez(tmp_path / "wide.npz", x_train=np.zeros((3, 9, 7), np.uint8))
    assert data.load_images(tmp_path / "wide.npz", channels=1)[0].shape == (3, 9, 7, 1)
    for side in (7, 9):
        with pytest.raises(ValueError, match="folder of pictures only"):
            data.load_images(tmp_path / "wide.npz", size=side)
    for wrong in ({"size": 0}, {"channels": 2}):
        with pytest.raises(ValueError, match="size|channels"):
            data.load_images("digits", **wrong)


def test_classes_have_names(tmp_path):
    assert data.class_names("auto") == data.class_names("digits") == list("0123456789")
    data.class_names("fashion_mnist").clear()  # the caller's own list
    assert len(set(data.class_names("fashion_mnist"))) == 10
    x = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "three.npz", x_train=x, y_train=np.array([0, 2, 2]))
    np.savez(tmp_path / "none.npz", x_train=x)
    assert data.class_names(tmp_path / "three.npz") == ["0", "1", "2"]
    paint(tmp_path / "loose" / "a.png", 1)
    assert data.class_names(tmp_path / "loose") == data.class_names(tmp_path / "none.npz") == ["0"]
    paint(tmp_path / "loose" / "cat" / "a.png", 1)
    with pytest.raises(ValueError, match="beside class folders"):
        data.class_names(tmp_path / "loose")


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"count": 31}, "31 images, and there are 30"),
        ({"classes": 3}, "3 classes, and there are 2"),
        ({"shape": (28, 28, 1)}, r"shape \(28, 28, 1\), and these are \(8, 12, 3\)"),
        ({"divisor": 8}, "multiples of 8, and these are 8 by 12"),
    ],
)
def test_a_notebook_says_what_it_needs(needs, said):
    images, labels = np.full((30, 8, 12, 3), -1, np.float32), np.arange(30) % 2
    data.require(images, labels, count=30, classes=2, shape=[8, 12, 3], divisor=4)
    data.require(images)
    for unfit in ([images + 1], [images[..., 0]], [images, labels[1:]]):
        with pytest.raises(ValueError, match="^(images|labels) must"):
            data.require(*unfit)
    with pytest.raises(ValueError, match=f"This notebook needs .*{said}.*another SOURCE"):
        data.require(images, labels, **needs)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pictures_of_more_than_8_bits_are_refused(tmp_path, dtype):
    """Pillow would make everything above 255 white."""
    Image.fromarray(np.full((9, 9), 200, dtype)).save(tmp_path / "0.tiff")
    with pytest.raises(ValueError, match="0.tiff.*more than 8 bits a pixel .mode [IF]"):
        data.load_images(tmp_path)


def test_wrong_folders_are_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="found 0 pictures"):
        data.load_images(empty)
    paint(tmp_path / "few" / "a.png", 1)
    assert len(data.load_images(tmp_path / "few")[0]) == 1
    with pytest.raises(ValueError, match="1 pictures, too few to give the test split one"):
        data.load_images(tmp_path / "few", split="test")
    paint(tmp_path / "few" / "cat" / "a.png", 1)
    with pytest.raises(ValueError, match="a.png beside class folders"):
        data.load_images(tmp_path / "few")
    for content in (b"not a picture", b"\x89PNG\r\n\x1a\n" + b"0" * 30, b""):
        broken = tmp_path / "broken" / "b.png"
        paint(tmp_path / "broken" / "a.png", 1)
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="damaged data") as caught:
            data.load_images(tmp_path / "broken")
        assert str(broken) in str(caught.value)


def test_wrong_requests_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for source in ("MNIST", "cifar", "", tmp_path / "absent.npz", tmp_path / "a.txt"):
        with pytest.raises(ValueError, match="'auto', 'digits', 'mnist', 'fashion_mnist'"):
            data.load_images(source)
    for split in ("validation", None, "Train", ["train"]):
        with pytest.raises(ValueError, match="'train' or 'test'"):
            data.load_images("digits", split=split)
    for source in (None, 3, ZEROS):
        with pytest.raises(TypeError, match="a name or a path"):
            data.load_images(source)


# Batches


def numbered(count):
    """Points that carry their own index."""
    return np.arange(count, dtype=np.float32)[:, None]


def served(count, batch_size, steps, *, seed=0, start=0):
    """Indices in the order served, shape (steps, batch_size)."""
    stream = data.batches(numbered(count), batch_size, seed=seed, start=start).take(steps)
    return np.array([batch[:, 0] for batch in stream.as_numpy_iterator()], int)


def test_an_epoch_visits_distinct_images_in_an_order_of_its_own():
    epochs = served(23, 5, 4 * 40).reshape(40, 20)
    for order in epochs:
        assert len(set(order)) == 20 and set(order) <= set(range(23))
    assert len({tuple(order) for order in epochs}) == 40
    assert not any((order == np.sort(order)).all() for order in epochs)
    # Each image sits out 3 of 23 epochs, not always the same three.
    assert set(epochs.ravel()) == set(range(23))
    assert set(served(20, 20, 1)[0]) == set(range(20))  # nothing is dropped that fits


def test_a_batch_depends_on_seed_and_step_alone():
    whole = served(23, 5, 12, seed=7)
    for start in (1, 4, 6):
        np.testing.assert_array_equal(served(23, 5, 6, seed=7, start=start), whole[start:][:6])
    stream = data.batches(numbered(23), 5, seed=7)
    for _ in range(2):  # and each iteration begins anew
        np.testing.assert_array_equal(next(iter(stream))[:, 0], whole[0])
    far = 4 * 10**12  # is reached at once, too
    late = served(23, 5, 4, seed=7, start=far + 2)
    np.testing.assert_array_equal(late[2:], served(23, 5, 2, seed=7, start=far + 4))
    assert (late[2:] != whole[:2]).any()


def test_the_order_is_the_one_that_stored_runs_were_trained_in():
    assert served(7, 3, 4, seed=5).tolist() == [[0, 5, 4], [6, 1, 2], [3, 4, 6], [5, 1, 0]]


def test_seeds_differ():
    seeds = (0, 1, -1, 2**32, 2**32 + 1, -(2**63), np.int64(2**63 - 1))
    orders = [served(50, 50, 4, seed=seed) for seed in seeds]
    # A seed is no offset in epochs, either: seed 1 does not replay seed 0's orders one epoch late.
    assert len({tuple(order) for epochs in orders for order in epochs}) == 4 * len(seeds)


def chi_squared(orders):
    """Of how often each index stood at each position; orders has shape (epochs, N)."""
    epochs, count = orders.shape
    table = np.zeros((count, count))
    for order in orders:
        table[np.arange(count), order] += 1
    return ((table - epochs / count) ** 2).sum() * count / epochs


def test_orders_are_uniform_and_independent():
    # 81 degrees of freedom: mean 81, standard deviation 12.7. Too even is as wrong as uneven.
    epochs, count = 500, 10
    rotation = (np.arange(epochs)[:, None] + np.arange(count)) % count
    assert chi_squared(rotation) == 0
    assert chi_squared(np.tile(np.arange(count), (epochs, 1))) > 1000
    orders = served(count, count, epochs)
    assert 81 - 50 < chi_squared(orders) < 81 + 50
    # From one epoch to the next, on average one position keeps its image.
    kept = (orders[1:] == orders[:-1]).sum(1)
    assert abs(kept.mean() - 1) < 4 / np.sqrt(epochs)

    # At MNIST's size, where a weak permutation shows: neighbors in time are uncorrelated.
    large = served(60_000, 60_000, 4)
    for order, following in itertools.pairwise(large):
        assert abs(np.corrcoef(order, following)[0, 1]) < 5 / np.sqrt(60_000)
        assert abs(np.corrcoef(order, np.arange(60_000))[0, 1]) < 5 / np.sqrt(60_000)


@pytest.mark.parametrize("shape", [(2,), (4, 3, 2, 1)])
def test_batches_are_full_static_and_unaltered(shape):
    images = np.random.RandomState(0).normal(size=(11, *shape)).astype(np.float32)
    original = images.copy()
    stream = data.batches(images, 4, seed=1)
    images[:] = 0  # the copy was made: what the caller does later changes nothing
    assert stream.element_spec == tf.TensorSpec((4, *shape), tf.float32)
    for batch, index in zip(stream.take(3), served(11, 4, 3, seed=1), strict=True):
        np.testing.assert_array_equal(batch, original[index])


def test_the_arrays_of_a_tuple_go_together_in_the_order_of_one():
    labels = (np.arange(10) % 4).astype(np.int64)
    pairs = data.batches((numbered(10), labels, numbered(10) + 1), 3, seed=5, start=2)
    for (image, label, more), rows in zip(pairs.take(5), served(10, 3, 7, seed=5)[2:], strict=True):
        assert image[:, 0].numpy().tolist() == (more[:, 0] - 1).numpy().tolist() == rows.tolist()
        assert label.numpy().tolist() == (rows % 4).tolist()
        assert label.dtype == tf.int32 and label.shape == (3,)
    (alone,) = data.batches((numbered(10),), 3, seed=5).take(1)
    assert isinstance(alone, tuple) and len(alone) == 1
    assert data.batches(labels, 3, seed=5).element_spec == tf.TensorSpec((3,), tf.int32)


@pytest.mark.parametrize(
    ("arrays", "kind", "named"),
    [
        (np.zeros((4, 2)), TypeError, "float32.*not float64"),
        (np.zeros((4, 2), np.uint8), TypeError, "not uint8; convert images to float32"),
        (np.zeros(4, np.float32), ValueError, r"\(N, ...\)"),
        (np.zeros((0, 2), np.float32), ValueError, "empty"),
        (np.zeros((4, 0), np.float32), ValueError, "empty"),
        (np.array([[0, np.nan]], np.float32), ValueError, "NaN"),
        (np.full((2, 4, 4, 1), 0.5, np.float32), ValueError, "arrays .*nothing below 0"),
        (np.full((2, 4, 4, 1), 255, np.float32), ValueError, "arrays .*255 to 255"),
        (np.array([[0, -np.inf]], np.float32), ValueError, "infinite"),
        ((numbered(3), np.arange(2)), ValueError, r"as many rows each, not \[3, 2\]"),
        ((numbered(3), np.array([0, -1, 1])), ValueError, "found -1 to 1"),
        ((numbered(3), np.eye(3, dtype=int)), TypeError, "not int64"),
        ([numbered(3), np.arange(3)], TypeError, "arrays must be an array"),
        ((), ValueError, r"not \[\]"),
    ],
)
def test_wrong_arrays_are_refused_at_once(arrays, kind, named):
    with pytest.raises(kind, match=named):
        data.batches(arrays, 1, seed=0)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("batch_size", 0, ValueError),
        ("batch_size", 5, ValueError),
        ("batch_size", 2.0, TypeError),
        ("start", -1, ValueError),
        ("seed", None, TypeError),
        ("seed", 2**63, ValueError),
    ],
)
def test_wrong_numbers_are_refused_at_once(name, value, kind):
    with pytest.raises(kind, match=name):
        data.batches(numbered(4), **{"batch_size": 2, "seed": 0, name: value})


# Toy distributions

RING, GRID = data.ring_of_gaussians, data.grid_of_gaussians


def test_centers_are_where_they_are_said_to_be():
    for modes, radius in ((2, 1.0), (8, 1.0), (5, 3.5)):
        centers = data.ring_modes(modes, radius)
        assert centers.dtype == np.float32 and centers.shape == (modes, 2)
        # The roots of z^modes = radius^modes, counterclockwise from the real one.
        z = centers.astype(np.float64) @ [1, 1j]
        np.testing.assert_allclose(z**modes, radius**modes, rtol=1e-5, atol=1e-4)
        turn = math.tau / modes
        np.testing.assert_allclose(
            np.angle(z * np.exp(-1j * turn / 2)) % math.tau,
            ((np.arange(modes) - 0.5) * turn % math.tau),
            atol=1e-6,
        )
    grid = data.grid_modes()
    assert grid.dtype == np.float32
    assert grid.tolist() == [list(p) for p in itertools.product((-4, -2, 0, 2, 4), repeat=2)]
    assert data.grid_modes(2, 3).tolist() == [[-1.5, -1.5], [-1.5, 1.5], [1.5, -1.5], [1.5, 1.5]]


def check_mixture(samples, centers, deviation):
    """Shares, means and covariances of a mixture whose Gaussians hardly overlap."""
    assert samples.dtype == np.float32 and samples.shape[1:] == (2,)
    offsets = samples[:, None].astype(np.float64) - centers
    nearest = (offsets**2).sum(2).argmin(1)
    counts, expected = np.bincount(nearest, minlength=len(centers)), len(samples) / len(centers)
    # Degrees of freedom k: mean k, variance 2k. Exactly equal shares would be no chance, either.
    k, statistic = len(centers) - 1, ((counts - expected) ** 2 / expected).sum()
    assert 0 < statistic < k + 5 * math.sqrt(2 * k)
    noise = offsets[np.arange(len(samples)), nearest] / deviation
    for mode, n in enumerate(counts):
        of_mode = noise[nearest == mode]
        # Five standard errors: variances 1/n of a mean, 2/n and 1/n of the covariance's elements.
        np.testing.assert_allclose(of_mode.mean(0), 0, atol=5 / math.sqrt(n))
        np.testing.assert_allclose(np.cov(of_mode.T), np.eye(2), atol=5 * math.sqrt(2 / n))
    n = noise.size
    assert abs((noise**4).mean() - 3) < 5 * math.sqrt(96 / n)  # normal, not only of that variance
    within, share = ((noise**2).sum(1) <= 9).mean(), 1 - math.exp(-4.5)
    assert abs(within - share) < 5 * math.sqrt(share * (1 - share) / len(noise))
    # A sample's mode says nothing of the next one's, nor its noise of its mode.
    kept = (nearest[1:] == nearest[:-1]).mean()
    assert abs(kept - 1 / len(centers)) < 5 / math.sqrt(len(samples) * len(centers))
    return noise


def test_a_toy_sample_has_the_shares_means_and_covariances_of_its_arguments():
    step = tf.constant(5, tf.int64)
    check_mixture(GRID(40_000, seed=3, step=step).numpy(), data.grid_modes(), 0.05)
    ring = RING(20_000, seed=1, step=0, modes=3, radius=2.0, deviation=0.1).numpy()
    check_mixture(ring, data.ring_modes(3, 2.0), 0.1)
    grid = GRID(20_000, seed=1, step=0, side=2, spacing=10.0, deviation=1).numpy()
    check_mixture(grid, data.grid_modes(2, 10.0), 1)
    assert RING(1, seed=1, step=0).shape == (1, 2)


def test_a_toy_sample_depends_on_seed_and_step_alone():
    first = RING(50, seed=5, step=7).numpy()
    tf.random.set_seed(99)
    tf.random.normal((3,))
    for kind in (tf.int32, tf.int64):
        step = tf.Variable(7, dtype=kind)
        np.testing.assert_array_equal(RING(50, seed=tf.constant(5, kind), step=step), first)
    pairs = [(s, k) for s in (-1, 0, 1, 2**40) for k in (0, 1, 2**40)]
    draws = np.concatenate([RING(50, seed=seed, step=step) for seed, step in pairs])
    assert len(np.unique(draws, axis=0)) == len(draws)  # no draw repeats a part of another


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_program_draws_by_step_independently_of_other_steps_and_of_the_latents(jit_compile):
    traces = []

    def both(seed, step):
        traces.append("Python runs only while tracing")
        z = latents.sample_latents(20_000, 2, seed=seed, step=step)
        return RING(20_000, seed=seed, step=step), z

    program, noises = tf.function(both, jit_compile=jit_compile), []
    for pair in ((1, 0), (1, 1), (0, 1)):
        seed, step = (tf.constant(value, tf.int64) for value in pair)
        points, z = program(seed, step)
        np.testing.assert_array_equal(points, program(seed, step)[0])
        noises += [check_mixture(points.numpy(), data.ring_modes(), 0.01).ravel(), z.numpy()]
    correlations = np.corrcoef([noise.ravel() for noise in noises]) - np.eye(6)
    assert np.abs(correlations).max() < 5 / math.sqrt(40_000)
    assert len(traces) == 1
    if not jit_compile:
        np.testing.assert_array_equal(points, both(seed, step)[0])


def test_a_loop_draws_what_single_steps_draw():
    @tf.function
    def chunk(start):
        parts = tf.zeros((3, 40, 2))
        for i in tf.range(3):
            part = RING(40, seed=5, step=start + i)
            parts = tf.tensor_scatter_nd_update(parts, [[i]], part[None])
        return parts

    singles = [RING(40, seed=5, step=step) for step in (4, 5, 6)]
    np.testing.assert_array_equal(chunk(tf.constant(4)), np.stack(singles))


@pytest.mark.parametrize(
    ("draw", "name", "value"),
    [
        *((RING, "count", value) for value in (0, -1, 2.0, None)),
        *((GRID, "deviation", value) for value in (0, -0.1, math.nan, math.inf, "0.1")),
        *((RING, "modes", value) for value in (1, 8.0)),
        *((RING, "radius", value) for value in (0.0, 1e31)),
        *((GRID, "side", value) for value in (1, "5")),
        *((GRID, "spacing", value) for value in (-2.0, 1e-31)),
    ],
)
def test_wrong_toys_are_refused(draw, name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        draw(**{"count": 4, "seed": 0, "step": 0, name: value})
