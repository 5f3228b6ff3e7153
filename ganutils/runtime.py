"""How long, how fast, and how quietly does a notebook run?

Import this room before TensorFlow: it imports TensorFlow with the start-up messages of its C++ core
(oneDNN, CUDA probing) kept out of the page. They are written to the process's error stream whatever
the log level says. If the import fails, everything that was held back is printed.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")  # on Linux


@contextlib.contextmanager
def _held_back_stderr():
    """Hold back what is written to file descriptor 2; print it after all if the block fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


if "tensorflow" in sys.modules:  # somebody was first: nothing to keep quiet, nothing left to set
    import tensorflow as tf
else:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) == 2:
        # Two operations side by side, a core each, are faster than one after the other, both split.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    with _held_back_stderr():
        import tensorflow as tf

        tf.config.list_logical_devices()  # the probe for GPUs is what complains, so make it now


def budget(full, smoke):
    """Choose between a setting of the full run and the one that tests use.

    Args:
        full: value for a reader: the run whose pictures the notebook discusses.
        smoke: value for the smoke profile: the same code in seconds.

    Returns:
        `smoke` where the environment variable GANUTILS_PROFILE is "smoke", else `full`.

    Raises:
        ValueError: GANUTILS_PROFILE is neither "full" nor "smoke".
    """
    profile = os.environ.get("GANUTILS_PROFILE", "full")
    if profile not in ("full", "smoke"):
        raise ValueError(f'GANUTILS_PROFILE is {profile!r}; set it to "full" or "smoke".')
    return smoke if profile == "smoke" else full


@contextlib.contextmanager
def stop_button():
    """Hold back Ctrl-C, and a notebook's stop button, so that a loop can end between two steps.

    The first one is only noted, and one line printed at the end says so. A second one interrupts at
    once, wherever the program is.

    Yields:
        Function of no argument: whether the loop was asked to stop. Always False outside the main
        thread, and where the program ignores interrupts.
    """
    pressed = []

    def press(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(before):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        print("Stopped between two steps, as asked. Run the same once more to go on.")


def _native_bfloat16():
    """Whether this machine computes in bfloat16 itself, and by what that was seen."""
    for gpu in tf.config.list_physical_devices("GPU"):
        known = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return known >= (8, 0), f"the GPU has compute capability {known[0]}.{known[1]}"
    try:
        flags = set(_CPUINFO.read_text().split())
    except OSError:
        return False, "this system does not tell what its processor can do"
    found = sorted(flags & {"avx512_bf16", "amx_bf16"})
    return bool(found), f"the processor has {' and '.join(found) or 'no bfloat16 instructions'}"


def fast_precision():
    """Let the networks built from here on compute in bfloat16, where the machine is fast at it.

    bfloat16 is float32 with 8 instead of 24 bits of precision and the same range, so gradients
    need no scaling. Weights, gradients of weights and optimizer slots stay float32, and so do the
    last layers of `networks` and the losses. The choice, and why, is printed as one line.

    The environment variable GANUTILS_PRECISION, "float32" or "bfloat16", overrides the choice.

    Returns:
        Name of Keras' dtype policy from here on, "mixed_bfloat16" or "float32".

    Raises:
        ValueError: GANUTILS_PRECISION is neither "float32" nor "bfloat16".

    Source: Kalamkar et al. 2019, arXiv 1905.12322.
    """
    import keras  # here, because Keras imports TensorFlow, which this room does quietly first

    wish = os.environ.get("GANUTILS_PRECISION")
    if wish not in (None, "float32", "bfloat16"):
        raise ValueError(f'GANUTILS_PRECISION is {wish!r}; set it to "float32" or "bfloat16".')
    native, reason = _native_bfloat16()
    if wish:
        native, reason = wish == "bfloat16", "GANUTILS_PRECISION says so"
    policy, name = ("mixed_bfloat16", "bfloat16") if native else ("float32", "float32")
    keras.config.set_dtype_policy(policy)
    print(f"Networks compute in {name}: {reason}.")
    return policy


def in_float32(model):
    """Copy a model as one that computes in float32, for sampling and metrics.

    Args:
        model: Keras model of any dtype policy.

    Returns:
        Model of the same layers and weights, all float32. The weights are copies: it stays as it
        is when the model learns on.
    """
    import keras

    def rebuilt(layer):
        if not isinstance(layer, keras.layers.Layer):  # a bare operation has no type of its own
            return type(layer).from_config(layer.get_config())
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=rebuilt)
    copy.set_weights(model.get_weights())
    return copy
