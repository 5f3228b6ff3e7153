"""How long, how fast, and how quietly does a notebook run?

Import this room before TensorFlow: it imports TensorFlow with the start-up messages of its C++ core
(oneDNN, CUDA probing) kept out of the page. They are written to the process's error stream whatever
the log level says. If the import fails, everything that was held back is printed.
"""

import contextlib
import functools
import os
import platform
import signal
import sys
import tempfile
import threading
from pathlib import Path

# Cores that this process may use.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_CPUINFO = Path("/proc/cpuinfo")  # on Linux


@contextlib.contextmanager
def held_back_stderr():
    """Hold back what is written to file descriptor 2; print it after all if the block fails."""
    sys.stderr.flush()
    try:
        saved, held = os.dup(2), tempfile.TemporaryFile()
    except OSError:  # it is closed, or nothing can be kept anywhere
        yield
        return
    with held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            held.truncate(0)  # all is well
        finally:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(saved, held.read())
            os.close(saved)


if sys.stderr is None:  # closed when Python started: progress bars want a stream all the same
    sys.stderr = open(os.devnull, "w")
if "tensorflow" in sys.modules:  # somebody was first: nothing to keep quiet, nothing left to set
    import tensorflow as tf
else:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        # TensorFlow itself asks for AVX512; with AVX2 alone oneDNN halves the step of a DCGAN, too.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if CORES == 2:
        # Two operations side by side, a core each, are faster than one after the other, both split.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    with held_back_stderr():
        import tensorflow as tf

        tf.config.list_logical_devices()  # the probe for GPUs is what complains, so make it now
import keras  # noqa: E402  Keras imports TensorFlow, which had to come quietly first

# What a keras.json in the reader's home may have changed.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
# Or each new model's `predict` would be called a retracing; a step's own retracing is still told.
tf.get_logger().addFilter(lambda record: "make_predict_function" not in record.getMessage())


def on_gpu():
    """Whether TensorFlow sees a GPU, and so computes there."""
    return bool(tf.config.list_physical_devices("GPU"))


def budget(full, smoke):
    """Choose between a setting of the full run and the one that tests use.

    Returns `smoke` (the same code in seconds) where the environment variable GANUTILS_PROFILE is
    "smoke", `full` (the run whose pictures a notebook discusses) where it is "full" or not set.
    """
    profile = os.environ.get("GANUTILS_PROFILE", "full")
    if profile not in ("full", "smoke"):
        raise ValueError(f'GANUTILS_PROFILE is {profile!r}; set it to "full" or "smoke".')
    return smoke if profile == "smoke" else full


def picture_folder():
    """Where a notebook keeps its pictures: what GANUTILS_PICTURES names, made where it is missing.

    Otherwise a fresh temporary folder, which a line on stderr names. OSError, before a notebook has
    trained for nothing, where the folder cannot be written to.
    """
    named = os.environ.get("GANUTILS_PICTURES")
    if not named:
        folder = Path(tempfile.mkdtemp(prefix="ganutils-"))
        print(f"Pictures are kept in {folder}; GANUTILS_PICTURES names another.", file=sys.stderr)
        return folder
    folder = Path(os.path.expanduser(named))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        said = f"GANUTILS_PICTURES names {folder}, where nothing can be written ({error.strerror})"
        raise OSError(error.errno, f"{said}. Name another folder, or unset it.") from error
    return folder


def results_folder():
    """Where the course's stored results lie, whatever folder the kernel runs in.

    Looked for beside the package, then around the working folder; FileNotFoundError otherwise.
    """
    here = Path.cwd()
    for course in (Path(__file__).parents[1], here, *here.parents):
        folder = course / "notebooks" / "assets" / "results"
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The stored results, notebooks/assets/results, lie neither beside {Path(__file__).parent} "
        f"nor around {here}. Start Jupyter within a copy of the whole course."
    )


@contextlib.contextmanager
def stop_button():
    """Hold back Ctrl-C, and a notebook's stop button, so that a loop can end between two steps.

    Yields a function of no argument: whether the loop was asked to stop. The first Ctrl-C is only
    noted: at the end of the block one line says how to go on, and the KeyboardInterrupt follows, so
    that the cells after this one wait. A second one interrupts at once. Always False outside the
    main thread, and where the program ignores interrupts.
    """
    pressed, before = [], signal.getsignal(signal.SIGINT)

    def press(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        print("Stopped between two steps, as asked. Run the same cell once more to go on.")
        raise KeyboardInterrupt


def _native_type():
    """The fastest type that keeps float32's range on this machine, and by what that was seen."""
    for gpu in tf.config.list_physical_devices("GPU"):
        known = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        seen = f"the GPU has compute capability {known[0]}.{known[1]}"
        return "bfloat16" if known >= (8, 0) else "float32", seen
    try:
        flags = set(_CPUINFO.read_text().split())
    except OSError:
        return "float32", "this system does not tell what its processor can do"
    found = sorted(flags & {"avx512_bf16", "amx_bf16"})
    seen = f"the processor has {' and '.join(found) or 'no bfloat16 instructions'}"
    return "bfloat16" if found else "float32", seen


def fast_precision():
    """Let the networks built from here on compute in bfloat16, where the machine is fast at it.

    bfloat16 is float32 with 8 instead of 24 bits of precision and the same range, so gradients
    need no scaling. Weights, gradients of weights and optimizer slots stay float32, and so do the
    last layers of `networks` and the losses. The choice, and why, is printed as one line; the
    environment variable GANUTILS_PRECISION, "float32" or "bfloat16", overrides it.

    Returns:
        Name of Keras' dtype policy from here on, "mixed_bfloat16" or "float32".

    Kalamkar et al. 2019, arXiv 1905.12322.
    """
    wish = os.environ.get("GANUTILS_PRECISION")
    if wish not in (None, "float32", "bfloat16"):
        raise ValueError(f'GANUTILS_PRECISION is {wish!r}; set it to "float32" or "bfloat16".')
    name, reason = (wish, "GANUTILS_PRECISION says so") if wish else _native_type()
    policy = "mixed_bfloat16" if name == "bfloat16" else "float32"
    keras.config.set_dtype_policy(policy)
    print(f"Networks compute in {name}: {reason}.")
    return policy


@contextlib.contextmanager
def full_float32():
    """Compute in all digits of float32, for comparisons.

    Otherwise GPUs of compute capability 8.0 on round what they multiply to TF32, to 10 bits.
    """
    switch = tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    switch.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        switch.enable_tensor_float_32_execution(before)


def in_float32(model):
    """Copy a model of any dtype policy as one that computes in float32, for sampling and metrics.

    Models and layers within it do so, too. The weights are copies: the copy stays as it is when the
    model learns on.
    """

    def exact(value):
        """A configuration, however nested, with float32 for every other type of floats."""
        if isinstance(value, list | tuple):
            return type(value)(map(exact, value))
        if not isinstance(value, dict):
            return value
        floats = {name for name in value if name == "dtype" and "float" in str(value[name])}
        return {k: "float32" if k in floats else exact(v) for k, v in value.items()}

    def new_input(x):
        return keras.Input(batch_shape=x.shape, name=x.name, **exact({"dtype": x.dtype}))

    @functools.cache  # what two models share, their copies share
    def rebuilt(layer):
        if not isinstance(layer, keras.Model) or not getattr(layer, "inputs", None):
            return type(layer).from_config(exact(layer.get_config()))
        inputs = layer.inputs if isinstance(layer, keras.Sequential) else layer.input
        inputs = keras.tree.map_structure(new_input, inputs)
        return keras.models.clone_model(layer, inputs, clone_function=rebuilt)

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that a layer makes by itself
    try:
        copy = rebuilt(model)
    finally:
        keras.config.set_dtype_policy(before)
    copy.set_weights(model.get_weights())
    return copy
