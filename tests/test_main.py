"""`python -m ganutils`: all is well, or what is wrong is said by name, and never as a traceback."""

from ganutils import __main__ as command  # isort: skip  # first: it imports TensorFlow quietly

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import ganutils
from ganutils import _mnist, classifier, latents, networks, steps

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch, tmp_path):
    """No MNIST, no wish for a precision; the dtype policy is put back."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ("GANUTILS_DATA", "GANUTILS_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def honest():
    """The losses that TensorFlow tells in a self-test that finds nothing wrong."""
    told, real = [], command.tensorflow_losses

    def listen(*args):
        told.append(real(*args))
        return told[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "tensorflow_losses", listen)
        assert command.self_test() is None
    return told[0]


def tell(monkeypatch, losses):
    monkeypatch.setattr(command, "tensorflow_losses", lambda *_: losses)


def test_where_all_is_well_it_says_what_is_here(monkeypatch, capfd, tmp_path, honest):
    tell(monkeypatch, honest)
    assert command.main() == 0
    told, errors = capfd.readouterr()
    for words in (
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, NumPy {np.__version__}",
        "Cores: ",
        "GPU: none",
        f"no {tmp_path}/datasets/mnist.npz",
        "1,797 digits",
        f"kept in {classifier.cache_folder()}",
        "Networks compute in ",
        "Self-test: ",
    ):
        assert words in told
    assert "FAILED" not in told and errors == ""


def test_the_map_names_every_room():
    folder = Path(ganutils.__file__).parent
    rooms = {
        ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")
    }
    heads = re.findall(r"^- (.+?):", ganutils.__doc__, re.MULTILINE)
    assert sorted(", ".join(heads).split(", ")) == sorted(rooms - {"__init__", "families.__init__"})


EVERY = slice(None)


@pytest.mark.parametrize(
    "place, lie, words",
    [
        ((0, 2, 0), np.nan, "not finite"),
        ((1, 2, 1), np.inf, "not finite"),
        ((1, 0, 0), 1e-6, "the same steps gave"),
        ((EVERY, 0, 0), 0.002, "networks compute wrongly.* step 0 .*0.002"),
        ((EVERY, 1, 1), 0.002, "gradients or updates.* step 1 .*0.002"),
    ],
    ids=["NaN", "infinite at last", "other numbers", "forward", "backward"],
)
def test_losses_that_lie_are_named(monkeypatch, capfd, honest, place, lie, words):
    losses = honest.copy()
    losses[place] += lie
    tell(monkeypatch, losses)
    assert command.main() == 1
    told, errors = capfd.readouterr()
    assert re.search(f"Self-test FAILED on the processor: .*{words}", told) and errors == ""


def test_a_gpu_is_named_and_may_add_in_any_order(monkeypatch, capfd, honest):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    details = {"device_name": "Metal 3"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    losses = honest.copy()
    losses[1] += 1e-6
    tell(monkeypatch, losses)
    assert command.main() == 0 and "GPU: Metal 3." in capfd.readouterr().out
    losses[1] += 1e-4
    assert command.main() == 1
    assert re.search("FAILED on Metal 3: .*\n.*CUDA_VISIBLE_DEVICES", capfd.readouterr().out)


def test_an_error_is_named_without_a_traceback(monkeypatch, capfd):
    def broken(*args, **kwargs):
        raise tf.errors.InternalError(None, None, "cuDNN is not initialized")

    monkeypatch.setattr(steps, "make_train_step", broken)
    assert command.main() == 1
    told, errors = capfd.readouterr()
    assert "InternalError: cuDNN is not initialized" in told and errors == ""


def test_noise_that_is_none_is_noticed(monkeypatch, honest):
    tell(monkeypatch, honest)
    monkeypatch.setattr(latents, "sample_latents", lambda count, size, **_: np.ones((count, size)))
    assert "a spread of 0" in command.self_test()


def test_a_step_that_tells_nan_is_noticed(monkeypatch):
    make = steps.make_train_step

    def make_broken(*args, **kwargs):
        train_step = make(*args, **kwargs)
        return lambda real, step: train_step(real, step) | {"g_loss": np.nan}

    monkeypatch.setattr(steps, "make_train_step", make_broken)
    assert "not finite" in command.self_test()


def test_slopes_that_are_off_by_a_twentieth_are_noticed(monkeypatch):
    sgd = keras.optimizers.SGD
    monkeypatch.setattr(keras.optimizers, "SGD", lambda rate: sgd(1.05 * rate))
    assert "gradients or updates are wrong" in command.self_test()


def test_an_activation_that_is_another_one_is_noticed(monkeypatch):
    real = networks.dcgan_discriminator
    broken = {"after_conv": lambda x: keras.ops.leaky_relu(x, negative_slope=0.1)}
    monkeypatch.setattr(networks, "dcgan_discriminator", lambda *a, **k: real(*a, **k, **broken))
    assert "the networks compute wrongly" in command.self_test()


def test_where_mnist_is_or_what_is_wrong_with_it(monkeypatch, tmp_path):
    file = tmp_path / "mnist.npz"
    file.write_bytes(b"no MNIST")
    monkeypatch.setenv("GANUTILS_DATA", str(tmp_path))
    monkeypatch.setenv("GANUTILS_OFFLINE", "1")
    assert re.search(f"1,797.*MNIST is damaged.*{file}", command.mnist_said())
    monkeypatch.setattr(_mnist, "find", lambda name, split: (None, np.zeros(60_000)))
    assert command.mnist_said() == f"MNIST, 60,000 images to train, in {file}"


def run(**environment):
    return subprocess.run(
        [sys.executable, "-m", "ganutils"],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_package_that_is_missing_is_named_without_a_traceback(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('tensorflow is not here')")
    done = run(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert re.match("tensorflow is not here.*requirements.txt", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_itself():
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "Self-test: three steps" in done.stdout
