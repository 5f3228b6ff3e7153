"""Cells that are run again and again leave nothing open, and their networks can be collected."""

import gc

import leaks
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(autouse=True)
def quiet():
    level, backend = tf.get_logger().level, plt.get_backend()
    tf.get_logger().setLevel("ERROR")  # TensorFlow advises against a new step each cycle
    plt.switch_backend("Agg")
    yield
    plt.switch_backend(backend)
    tf.get_logger().setLevel(level)


@pytest.mark.parametrize("cycles", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_cycles_leave_no_figure_no_file_and_no_network(cycles):
    parts, points = [], []
    with leaks.as_in_a_notebook() as folder, leaks.forgotten_gradients():
        for number in range(cycles):
            with leaks.forgotten_gradients():
                parts += leaks.cycle(number, folder)
            if cycles == 2 or number % 10 == 9:
                points.append(leaks.now())
        gc.collect()
        alive = [part() for part in parts if part() is not None]
    assert len(parts) == 4 * cycles and alive == []
    assert {point["figures"] for point in points} == {0}, points
    assert len({point["files"] for point in points}) == 1, points
    if cycles == 30:  # a network that stays holds thousands of objects
        assert points[-1]["objects"] - points[0]["objects"] < 10 * cycles, points


@pytest.mark.slow
def test_what_tensorflow_keeps_is_found_and_forgotten(tmp_path):
    def growth(block):
        with leaks.forgotten_gradients():  # in the end
            block(), gc.collect()
            before = len(gc.get_objects())
            for _ in range(5):
                block()
            gc.collect()
            return (len(gc.get_objects()) - before) / 5

    def forgotten():
        with leaks.forgotten_gradients():
            leaks.gradients(1, tmp_path)

    assert growth(lambda: leaks.gradients(1, tmp_path)) > 100
    assert growth(forgotten) < 5


def test_a_curve_that_levels_off_and_one_that_does_not():
    def curve(memory):
        return [{"cycle": 50 * (i + 1), "memory": x} for i, x in enumerate(memory)]

    start = [100, 200, 300, 310]
    assert leaks.rise(curve(start + [310] * 4), "memory") == pytest.approx(0, abs=1e-9)
    assert leaks.rise(curve(start + [310, 315, 320, 325]), "memory") == pytest.approx(0.1)


@pytest.mark.parametrize(
    "open_one, name",
    [(lambda folder: plt.figure(), "figures"), (lambda folder: open(folder / "x", "w"), "files")],
)
def test_a_figure_and_a_file_left_open_are_counted(open_one, name, tmp_path, monkeypatch, capsys):
    kept = []
    monkeypatch.setitem(leaks.RUNS, "leaky", lambda number, _: kept.append(open_one(tmp_path)))
    try:
        result = leaks.measure("leaky", 8, every=2)
    finally:
        plt.close("all")
        for item in kept:
            getattr(item, "close", lambda: None)()
    assert result["left_open"] == {"figures": 0, "files": 0} | {name: 6}
    assert np.shape(result["points"]) == (4,) and "leaky" in capsys.readouterr().out
