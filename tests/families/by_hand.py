"""A play against its definition: totals, what is reported, and the gradients of both players."""

import keras
import numpy as np
import tensorflow as tf
from helpers import step_at

STEP = 7


def bce(label, logits):
    """Mean binary cross-entropy of one label: Keras' formula, not the course's."""
    labels = tf.fill(tf.shape(logits), float(label))
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


def game_values(real_logits, fake_logits):
    """The part of the report that most games share, of the non-saturating losses."""
    return {
        "d_loss": bce(1, real_logits) + bce(0, fake_logits),
        "g_loss": bce(1, fake_logits),
        "d_real": tf.reduce_mean(tf.sigmoid(real_logits)),
        "d_fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
    }


def variables_of(*models):
    return [variable for model in models for variable in model.trainable_variables]


def played(compute, d_variables, g_variables):
    with tf.GradientTape(persistent=True) as tape:
        d_total, g_total, values = compute()
    gradients = tape.gradient(d_total, d_variables), tape.gradient(g_total, g_variables)
    totals = {"d_total": d_total, "g_total": g_total}
    dense = [[tf.convert_to_tensor(g).numpy() for g in player] for player in gradients]
    return {name: float(value) for name, value in (totals | values).items()}, dense


def check_play(play, define, real, d_variables, g_variables):
    """`define` computes what play(real, STEP) returns from the definition, without the course."""
    found, gradients = played(lambda: play(real, step_at(STEP)), d_variables, g_variables)
    wanted, right = played(define, d_variables, g_variables)
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)
    for player, expected in zip(gradients, right, strict=True):
        assert max(np.abs(gradient).max() for gradient in player) > 1e-4
        for one, other in zip(player, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    later, _ = played(lambda: play(real, step_at(STEP + 1)), d_variables, g_variables)
    assert later["d_total"] != found["d_total"]  # another step, another draw
