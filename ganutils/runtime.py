"""How long, and how quietly, does a notebook run?

Import this room before TensorFlow: it imports TensorFlow with the start-up messages of its C++ core
(oneDNN, CUDA probing) kept out of the page. They are written to the process's error stream whatever
the log level says. If the import fails, everything that was held back is printed.
"""

import contextlib
import os
import sys
import tempfile


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


if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
