from ganutils import runtime  # noqa: F401  first: it sets TensorFlow up before it is imported

# isort: split
import keras
import pytest


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)
    yield
    keras.config.set_dtype_policy("float32")  # the benchmarks change it
