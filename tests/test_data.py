"""Real samples: what is found, what is refused, and in which order it is served."""

import contextlib
import gzip
import hashlib
import itertools
import math
import os
import struct
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from ganutils import data, latents, published, readers

REAL_FOLDER = os.environ.get("GANUTILS_DATA", "")
SMALL = {"train": 30, "test": 20}


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """An empty Keras cache, no data folder, no network; the machine's own are never touched."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("GANUTILS_OFFLINE", "1")
    monkeypatch.delenv("GANUTILS_DATA", raising=False)
    monkeypatch.setattr(published, "_failed_downloads", {})


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
    monkeypatch.setattr(published, "_MNIST_MD5", sums)
    monkeypatch.setattr(published, "SPLITS", SMALL)
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
    monkeypatch.setattr(published, "_FETCH", code)
    monkeypatch.setattr(published, "_FETCH_SECONDS", seconds)


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
    np.testing.assert_array_equal(images, data.load_images("digits")[0])


def test_idx_checksum_agrees_with_an_independent_writer(tmp_path):
    for array in (small_set()["x_train"], small_set()["y_train"]):
        file = tmp_path / "idx"
        file.write_bytes(idx_bytes(array))
        assert readers.idx_md5(array) == hashlib.md5(file.read_bytes()).hexdigest()
        assert readers.idx_md5(array) != readers.idx_md5(array[::-1])
    wide = np.zeros((2, 3, 4), np.uint8)
    assert readers.idx_md5(wide) != readers.idx_md5(wide.reshape(2, 4, 3))


def test_mnist_itself_or_a_named_absence(monkeypatch):
    if Path(REAL_FOLDER or "nowhere", "mnist.npz").exists():
        monkeypatch.setenv("GANUTILS_DATA", REAL_FOLDER)
        for split, zeros, ones in (("train", 5923, 6742), ("test", 980, 1135)):
            images, labels, name = data.load_images("mnist", split=split)
            assert name == "MNIST" and images.shape == (published.SPLITS[split], 28, 28, 1)
            assert list(np.bincount(labels)[:2]) == [zeros, ones]
            assert images.min() == -1 and images.max() == 1
            assert abs((images.mean() + 1) / 2 - 0.1315) < 0.002  # 0.1307 and 0.1325
    else:
        with pytest.raises(FileNotFoundError, match="MNIST not found"):
            data.load_images("mnist")


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_from_the_data_folder(tmp_path, monkeypatch, small_mnist, split):
    save(tmp_path / "mine" / "mnist.npz", small_mnist)
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path / "mine"))
    images, labels, name = data.load_images("mnist", split=split)
    assert name == "MNIST"
    assert images.shape == (SMALL[split], 28, 28, 1) and images.dtype == np.float32
    pixels = small_mnist[f"x_{split}"].astype(np.float64)
    np.testing.assert_allclose(images[..., 0], pixels / 127.5 - 1, atol=1e-6)
    assert images.min() == -1 and images.max() == 1
    np.testing.assert_array_equal(labels, small_mnist[f"y_{split}"])
    assert labels.dtype == np.int32


def swap_images(arrays):
    return {**arrays, "x_train": arrays["x_train"][::-1]}


def flip_a_pixel(arrays):
    pixels = arrays["x_train"].copy()
    pixels[3, 4, 5] ^= 1
    return {**arrays, "x_train": pixels}


def swap_labels(arrays):
    return {**arrays, "y_train": arrays["y_train"][::-1]}


def cut_short(arrays):
    return {**arrays, "x_train": arrays["x_train"][:-1]}


def as_floats(arrays):
    return {**arrays, "x_train": arrays["x_train"] / 255}


def without_labels(arrays):
    return {key: array for key, array in arrays.items() if key != "y_train"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (swap_images, "x_train: found checksum .* expected MNIST's"),
        (flip_a_pixel, "x_train: found checksum"),
        (swap_labels, "y_train: found checksum"),
        (cut_short, r"x_train: found uint8 of shape \(29, 28, 28\); expected .*\(30, 28, 28\)"),
        (as_floats, "x_train: found float64"),
        (without_labels, "y_train: found nothing"),
    ],
)
def test_a_damaged_mnist_is_named(tmp_path, monkeypatch, small_mnist, damage, named):
    path = save(tmp_path / "mnist.npz", damage(small_mnist))
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=named) as caught:
        data.load_images("mnist")
    assert str(path) in str(caught.value) and "Replace the file" in str(caught.value)
    assert len(data.load_images("mnist", split="test")[0]) == 20  # only what is asked for


def test_order_of_search(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "SPLITS", SMALL)
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
    monkeypatch.setattr(published, "SPLITS", SMALL)
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
            f"datasets/{member}" for member in published.SETS[name][2]
        }
        for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
            images, labels, _ = data.load_images(name, split=split)
            np.testing.assert_array_equal(np.round((images[..., 0] + 1) * 127.5), x)
            np.testing.assert_array_equal(labels, y)


def test_the_cache_follows_kerass_rule(tmp_path, monkeypatch):
    assert published._keras_home() == tmp_path / "keras"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert published._keras_home() == tmp_path / ".keras"


# Downloads


def test_a_download_moves_into_the_cache_whole(tmp_path, monkeypatch, small_mnist, capfd):
    save(tmp_path / "net" / "mnist.npz", small_mnist)
    fetcher(monkeypatch, "print('a progress bar');" + copies(tmp_path / "net"))
    assert len(data.load_images("mnist")[0]) == 30
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "Downloading MNIST (11 MB)" in err
    assert files_below(tmp_path / "keras") == ["mnist.npz"]
    monkeypatch.setattr(published, "_FETCH", "raise SystemExit(1)")
    assert len(data.load_images("mnist", split="test")[0]) == 20  # from the cache


HALF_A_FILE = (
    "import os; home = os.path.join(os.environ['KERAS_HOME'], 'datasets'); os.makedirs(home);"
    "open(os.path.join(home, 'mnist.npz'), 'wb').write(b'PK half');"
)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            HALF_A_FILE + "raise OSError('URL fetch failure: 403')",
            "OSError: URL fetch failure: 403",
        ),
        (HALF_A_FILE + "os._exit(3)", "exit status 3"),
        (HALF_A_FILE, "no complete zip archive"),
        ("pass", "found no file"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch, code, reason):
    fetcher(monkeypatch, code)
    with pytest.raises(FileNotFoundError, match=reason):
        data.load_images("mnist")
    assert list((tmp_path / "keras").iterdir()) == [tmp_path / "keras" / "datasets"]
    assert files_below(tmp_path / "keras") == []


def test_a_hanging_download_is_given_up(tmp_path, monkeypatch, capsys):
    assert 0 < published._FETCH_SECONDS < 60
    fetcher(monkeypatch, HALF_A_FILE + "import time; time.sleep(60)", seconds=1)
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError, match="not complete after 1 s"):
        data.load_images("mnist")
    assert 1 <= time.monotonic() - begin < 10
    assert files_below(tmp_path / "keras") == []
    # "auto" does not wait a second time, and an explicit name does.
    capsys.readouterr()
    monkeypatch.setattr(published, "_FETCH_SECONDS", 60)
    assert data.load_images("auto")[2] == "scikit-learn digits"
    assert "not tried again after: not complete after 1 s" in capsys.readouterr().err
    monkeypatch.setattr(published, "_FETCH", "raise SystemExit('no route')")
    with pytest.raises(FileNotFoundError, match="no route"):
        data.load_images("mnist")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    fetcher(monkeypatch, "pass")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file" / "keras"))
    with pytest.raises(FileNotFoundError, match="cache folder .* is not writable"):
        data.load_images("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_offline_never_starts_a_download(tmp_path, monkeypatch, name):
    monkeypatch.setattr(published.subprocess, "run", lambda *_, **__: pytest.fail("tried"))
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError) as caught:
        data.load_images(name)
    for part in (
        "GANUTILS_OFFLINE is set",
        str(tmp_path / "mine" / f"{name}.npz"),
        str(tmp_path / "keras" / "datasets"),
        "(1) put",
        "(2) put",
        "(3) allow",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "keras").exists()


def test_offline_zero_means_online(monkeypatch):
    fetcher(monkeypatch, "raise SystemExit('was tried')")
    monkeypatch.setenv("GANUTILS_OFFLINE", "0")
    with pytest.raises(FileNotFoundError, match="was tried"):
        data.load_images("mnist")


# The automatic choice


def test_auto_takes_mnist_in_silence(tmp_path, small_mnist, capfd):
    save(tmp_path / "keras" / "datasets" / "mnist.npz", small_mnist)
    images, _, name = data.load_images()
    assert name == "MNIST" and len(images) == 30
    assert capfd.readouterr() == ("", "")


def test_auto_falls_back_in_one_line(tmp_path, capfd):
    images, labels, name = data.load_images(split="test")
    assert name == "scikit-learn digits"
    expected = data.load_images("digits", split="test")
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    for part in ("MNIST not found", str(tmp_path / "keras"), "GANUTILS_DATA", "digits instead"):
        assert part in err


def test_auto_names_a_damaged_mnist(tmp_path, monkeypatch, small_mnist, capfd):
    path = save(tmp_path / "mnist.npz", flip_a_pixel(small_mnist))
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path))
    monkeypatch.setattr(data, "load_images", lambda source, *, split: f"{source} {split}")
    assert data._mnist_or_digits("train") == "digits train"
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "damaged" in err and str(path) in err and "found checksum" in err


# The user's own arrays


@pytest.mark.parametrize("shape", [(5, 9, 7), (5, 9, 7, 1), (5, 9, 7, 3)])
@pytest.mark.parametrize("as_text", [True, False])
def test_an_npz_keeps_its_size(tmp_path, shape, as_text):
    pixels = np.linspace(0, 255, np.prod(shape)).astype(np.uint8).reshape(shape)
    path = save(tmp_path / "mine.npz", {"x_train": pixels, "y_train": np.arange(5)[:, None]})
    images, labels, name = data.load_images(str(path) if as_text else path)
    assert name == "mine.npz" and images.dtype == np.float32
    assert images.shape == (*shape, 1)[:4]
    np.testing.assert_allclose(images.reshape(shape), pixels / 127.5 - 1.0, atol=1e-6)
    assert labels.dtype == np.int32 and list(labels) == [0, 1, 2, 3, 4]


def test_floats_are_taken_as_they_are(tmp_path):
    values = np.linspace(-1, 1, 2 * 16).reshape(2, 4, 4)
    images, labels, _ = data.load_images(save(tmp_path / "a.npz", {"x_train": values}))
    np.testing.assert_array_equal(images[..., 0], values.astype(np.float32))
    assert list(labels) == [0, 0]  # y may be missing
    halves = save(tmp_path / "b.npz", {"x_train": values / 2 + 0.5})
    assert data.load_images(halves)[0].min() == 0  # [0, 1] lies in [-1, 1]: not stretched


ZEROS = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x_test": ZEROS}, r"found arrays \['x_test'\]; expected one named x_train"),
        ({"x_train": ZEROS[:0]}, r"shape \(0, 4, 4\); expected one image or more"),
        ({"x_train": ZEROS[0]}, r"shape \(4, 4\)"),
        ({"x_train": ZEROS[..., None, None]}, r"shape \(3, 4, 4, 1, 1\)"),
        ({"x_train": np.zeros((3, 4, 4, 4), np.uint8)}, r"shape \(3, 4, 4, 4\)"),
        ({"x_train": ZEROS.astype(int)}, "found int64 .* expected uint8"),
        ({"x_train": ZEROS.astype(bool)}, "found bool"),
        ({"x_train": ZEROS.astype(complex)}, "found complex"),
        ({"x_train": ZEROS + 255.0}, "from 255.0 to 255.0; expected floats already in"),
        ({"x_train": ZEROS - 1.001}, "from -1.001"),
        ({"x_train": ZEROS + np.nan}, "from nan"),
        ({"x_train": ZEROS + np.inf}, "to inf"),
        ({"x_train": ZEROS, "y_train": np.arange(2)}, r"shape \(2,\); expected .*\(3,\)"),
        ({"x_train": ZEROS, "y_train": np.zeros(3)}, "found float64 .* expected integers"),
        ({"x_train": ZEROS, "y_train": np.eye(3, dtype=int)}, r"shape \(3, 3\)"),
        ({"x_train": ZEROS, "y_train": np.array([0, 1, 2**31])}, "from 0 to 2147483648; .* 2..31"),
        ({"x_train": ZEROS, "y_train": np.array([-(2**31) - 1, 0, 1])}, "from -2147483649 to 1"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, named):
    path = save(tmp_path / "mine.npz", arrays)
    with pytest.raises(ValueError, match=named) as caught:
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
        with pytest.raises(ValueError, match="expected") as caught:
            data.load_images(path)
        assert str(path) in str(caught.value)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_never_executed(tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.empty(1, object)
    trap[0] = Trap(str(sprung))
    path = save(tmp_path / "trap.npz", {"x_train": trap})
    with pytest.raises(ValueError, match="unreadable data") as caught:
        data.load_images(path)
    assert str(path) in str(caught.value) and not sprung.exists()
    with np.load(path, allow_pickle=True) as file, contextlib.suppress(TypeError):
        file["x_train"]
    assert sprung.exists()  # so the trap was armed


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
    for source in ("MNIST", "cifar", "", str(tmp_path / "absent.npz"), tmp_path / "absent"):
        with pytest.raises(ValueError, match="'auto', 'digits', 'mnist', 'fashion_mnist'"):
            data.load_images(source)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="expected an .npz file or a folder"):
        data.load_images(tmp_path / "a.txt")
    for split in ("validation", None, "Train", ["train"], np.array(["train", "test"])):
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
    whole = served(23, 5, 30, seed=7)
    np.testing.assert_array_equal(whole, served(23, 5, 30, seed=7))
    for start in (1, 3, 4, 5, 19):
        np.testing.assert_array_equal(served(23, 5, 6, seed=7, start=start), whole[start:][:6])
    stream = data.batches(numbered(23), 5, seed=7)
    for _ in range(2):  # and each iteration begins anew
        np.testing.assert_array_equal(next(iter(stream))[:, 0], whole[0])


def test_a_far_step_is_reached_at_once():
    far = 4 * 10**12
    begin = time.monotonic()
    late = served(23, 5, 4, start=far + 2)
    assert time.monotonic() - begin < 10
    np.testing.assert_array_equal(late[:2], served(23, 5, 2, start=far + 2))
    np.testing.assert_array_equal(late[2:], served(23, 5, 2, start=far + 4))
    assert (late[2:] != served(23, 5, 2)).any()


def test_seeds_differ():
    seeds = (0, 1, -1, 2**32, 2**32 + 1, 2**62, -(2**63), 2**63 - 1)
    orders = {tuple(served(50, 50, 1, seed=seed)[0]) for seed in seeds}
    assert len(orders) == len(seeds)
    # A seed is no offset in epochs: seed 1 does not replay seed 0's orders one epoch late.
    first, second = served(50, 50, 6, seed=0), served(50, 50, 6, seed=1)
    assert not any((a == b).all() for a in first for b in second)
    assert tuple(served(50, 50, 1, seed=np.int64(1))[0]) == tuple(second[0])


def chi_squared(orders):
    """Of how often each index stood at each position; orders has shape (epochs, N)."""
    epochs, count = orders.shape
    table = np.zeros((count, count))
    for order in orders:
        table[np.arange(count), order] += 1
    return ((table - epochs / count) ** 2).sum() * count / epochs


def test_orders_are_uniform_and_independent():
    # 81 degrees of freedom: mean 81, standard deviation 12.7. Too even is as wrong as uneven.
    epochs, count = 1000, 10
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


@pytest.mark.parametrize("shape", [(2,), (28, 28, 1), (4, 3, 2, 1)])
def test_batches_are_full_static_and_unaltered(shape):
    images = np.random.RandomState(0).normal(size=(11, *shape)).astype(np.float32)
    original = images.copy()
    stream = data.batches(images, 4, seed=1)
    images[:] = 0  # the copy was made: what the caller does later changes nothing
    assert stream.element_spec == tf.TensorSpec((4, *shape), tf.float32)
    for batch, index in zip(stream.take(5), served(11, 4, 5, seed=1), strict=True):
        np.testing.assert_array_equal(batch, original[index])


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (np.zeros((4, 2)), TypeError),
        (np.zeros((4, 2), np.uint8), TypeError),
        (np.zeros(4, np.float32), ValueError),
        (np.zeros((0, 2), np.float32), ValueError),
        (np.zeros((4, 0), np.float32), ValueError),
        (np.array([[0, np.nan]], np.float32), ValueError),
        (np.array([[0, -np.inf]], np.float32), ValueError),
    ],
)
def test_wrong_images_are_refused_at_once(images, kind):
    with pytest.raises(kind, match="images"):
        data.batches(images, 1, seed=0)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("batch_size", 0, ValueError),
        ("batch_size", -1, ValueError),
        ("batch_size", 5, ValueError),
        ("batch_size", 2.0, TypeError),
        ("batch_size", "2", TypeError),
        ("start", -1, ValueError),
        ("start", 1.5, TypeError),
        ("seed", None, TypeError),
        ("seed", 2**63, ValueError),
    ],
)
def test_wrong_numbers_are_refused_at_once(name, value, kind):
    with pytest.raises(kind, match=name):
        data.batches(numbered(4), **{"batch_size": 2, "seed": 0, name: value})


def test_labels_go_with_their_images_in_the_order_of_batches():
    images = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    labels = (np.arange(10) % 4).astype(np.int64)
    pairs = data.labeled_batches(images, labels, 3, classes=4, seed=5, start=2)
    plain = data.batches(images, 3, seed=5, start=2)
    for (image, label), alone in zip(pairs.take(5), plain.take(5), strict=True):  # two epochs
        np.testing.assert_array_equal(image, alone)
        np.testing.assert_array_equal(label, image[:, 0, 0, 0].numpy().astype(int) % 4)
        assert label.dtype == tf.int32 and label.shape == (3,)


@pytest.mark.parametrize(
    "labels, classes, kind, named",
    [
        ([0, 1, 2], 2, ValueError, "from 0 to 1; found 0 to 2"),
        ([0, -1, 1], 2, ValueError, "found -1 to 1"),
        ([0, 1], 2, ValueError, r"shape \(3,\), not \(2,\)"),
        (np.eye(3), 3, TypeError, "integers, not float64"),
        (np.eye(3, dtype=int), 3, ValueError, r"not \(3, 3\)"),
        ([0, 1, 1], 1, ValueError, "classes"),
        ([0, 1, 1], 2.5, TypeError, "classes"),
    ],
)
def test_wrong_labels_are_refused_at_once(labels, classes, kind, named):
    with pytest.raises(kind, match=named):
        data.labeled_batches(np.zeros((3, 2), np.float32), labels, 1, classes=classes, seed=0)


# Toy distributions

RING, GRID = data.ring_of_gaussians, data.grid_of_gaussians
TOYS = [(RING, data.ring_modes(), 0.01), (GRID, data.grid_modes(), 0.05)]


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


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize(("draw", "centers", "deviation"), TOYS)
def test_a_toy_sample_has_the_shares_means_and_covariances(draw, centers, deviation, jit_compile):
    def sample(step):
        return draw(40_000, seed=3, step=step)

    if jit_compile is not None:
        sample = tf.function(sample, jit_compile=jit_compile)
    check_mixture(sample(tf.constant(5, tf.int64)).numpy(), centers, deviation)


def test_a_toy_sample_follows_its_arguments():
    ring = RING(20_000, seed=1, step=0, modes=3, radius=2.0, deviation=0.1).numpy()
    check_mixture(ring, data.ring_modes(3, 2.0), 0.1)
    grid = GRID(20_000, seed=1, step=0, side=2, spacing=10.0, deviation=1).numpy()
    check_mixture(grid, data.grid_modes(2, 10.0), 1)
    one = RING(1, seed=1, step=0)
    assert one.shape == (1, 2) and one.dtype == tf.float32


@pytest.mark.parametrize("draw", [RING, GRID])
def test_a_toy_sample_depends_on_seed_and_step_alone(draw):
    first = draw(50, seed=5, step=7).numpy()
    tf.random.set_seed(99)
    draw(50, seed=6, step=7)
    tf.random.normal((3,))
    np.testing.assert_array_equal(draw(50, seed=5, step=7), first)
    for kind in (tf.int32, tf.int64):
        for step in (tf.constant(7, kind), tf.Variable(7, dtype=kind), np.array(7)[()]):
            np.testing.assert_array_equal(draw(50, seed=5, step=step), first)
            np.testing.assert_array_equal(draw(50, seed=tf.constant(5, kind), step=step), first)
    pairs = [(s, k) for s in (-1, 0, 1, 2**40) for k in (0, 1, 2, 2**40)]
    draws = np.concatenate([draw(50, seed=seed, step=step) for seed, step in pairs])
    assert len(np.unique(draws, axis=0)) == len(draws)  # no draw repeats a part of another


@pytest.mark.parametrize("draw", [RING, GRID])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_program_draws_by_step_and_is_traced_once(draw, jit_compile):
    traces = []

    @tf.function(jit_compile=jit_compile)
    def sample(step):
        traces.append("Python runs only while tracing")
        return draw(40, seed=5, step=step)

    @tf.function(jit_compile=jit_compile)
    def chunk(start):
        parts = tf.zeros((3, 40, 2))
        for i in tf.range(3):
            part = draw(40, seed=5, step=start + tf.cast(i, tf.int64))
            parts = tf.tensor_scatter_nd_update(parts, [[i]], part[None])
        return parts

    steps = [tf.constant(step, tf.int64) for step in (4, 5, 6)]
    singles = np.stack([sample(step) for step in steps])
    assert len(traces) == 1
    np.testing.assert_array_equal(singles, np.stack([sample(step) for step in steps]))
    # A loop is compiled as another program: the same draws, up to rounding.
    np.testing.assert_allclose(chunk(steps[0]), singles, rtol=1e-5, atol=1e-6)
    assert len(np.unique(singles.reshape(-1, 2), axis=0)) == 120
    if not jit_compile:
        eager = np.stack([draw(40, seed=5, step=step) for step in steps])
        np.testing.assert_array_equal(singles, eager)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_toy_noise_is_independent_of_other_steps_and_of_the_latents(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def both(seed, step):
        z = latents.sample_latents(20_000, 2, seed=seed, step=step)
        return RING(20_000, seed=seed, step=step), z

    noises = []
    for seed, step in ((1, 0), (1, 1), (0, 1)):
        points, z = both(tf.constant(seed, tf.int64), tf.constant(step, tf.int64))
        noises += [check_mixture(points.numpy(), data.ring_modes(), 0.01).ravel(), z.numpy()]
    correlations = np.corrcoef([noise.ravel() for noise in noises]) - np.eye(6)
    assert np.abs(correlations).max() < 5 / math.sqrt(40_000)


@pytest.mark.parametrize(
    ("draw", "name", "value", "kind"),
    [
        *((d, "count", v, ValueError) for d in (RING, GRID) for v in (0, -1)),
        *((d, "count", v, TypeError) for d in (RING, GRID) for v in (2.0, None)),
        *((d, "deviation", v, ValueError) for d in (RING, GRID) for v in (0, -0.1, math.nan)),
        (GRID, "deviation", math.inf, ValueError),
        (RING, "modes", 1, ValueError),
        (RING, "modes", 8.0, TypeError),
        (RING, "radius", 0.0, ValueError),
        (RING, "radius", math.inf, ValueError),
        (GRID, "side", 1, ValueError),
        (GRID, "side", "5", TypeError),
        (GRID, "spacing", -2.0, ValueError),
        (RING, "radius", 1e31, ValueError),
        (GRID, "spacing", 1e-31, ValueError),
        (RING, "deviation", "0.1", TypeError),
        (RING, "count", 10**8 + 1, ValueError),
        *((d, n, v, TypeError) for d in (RING, GRID) for n in ("seed", "step") for v in (0.5, "1")),
        (RING, "step", tf.constant(0.5), TypeError),
        (GRID, "seed", tf.constant([1, 2]), TypeError),
        (GRID, "seed", 2**63, ValueError),
    ],
)
def test_wrong_toys_are_refused(draw, name, value, kind):
    with pytest.raises(kind, match=f"^{name} must be"):
        draw(**{"count": 4, "seed": 0, "step": 0, name: value})
