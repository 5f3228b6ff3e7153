"""How does a run survive a crash? Save all its state; restore all of it, or say what differs."""

import json

import tensorflow as tf


class History(tf.train.experimental.PythonState):
    """Makes a history (dict from name to list of floats) part of a checkpoint, as JSON."""

    def __init__(self, values):
        self.values = values

    def serialize(self):
        return json.dumps(self.values)

    def deserialize(self, string_value):
        self.values.clear()
        self.values.update(json.loads(string_value))


def make_checkpoint(
    discriminator, generator, *, d_optimizer, g_optimizer, step, history, average=None
):
    """Gather the whole state of a run: two networks, two optimizers, the step, the history.

    The optimizers are built here: a restore can fill only variables that exist.

    Args:
        discriminator: model.
        generator: model.
        d_optimizer: Keras optimizer of the discriminator.
        g_optimizer: Keras optimizer of the generator.
        step: integer `tf.Variable`, the number of steps done.
        history: dict from name to list of floats, as `training.train` keeps it.
        average: model that `training.with_average` keeps; None where a run has none.

    Returns:
        `tf.train.Checkpoint` over all six, and the average.
    """
    d_optimizer.build(discriminator.trainable_variables)
    g_optimizer.build(generator.trainable_variables)
    averages = {} if average is None else {"average": average}
    return tf.train.Checkpoint(
        discriminator=discriminator,
        generator=generator,
        d_optimizer=d_optimizer,
        g_optimizer=g_optimizer,
        step=step,
        history=History(history),
        variables=[discriminator.variables, generator.variables],  # shows Dropout's seed states
        **averages,
    )


def resume(manager):
    """Restore the newest checkpoint of a manager, completely; without one, change nothing.

    Args:
        manager: `tf.train.CheckpointManager` over a checkpoint from `make_checkpoint`.

    Returns:
        The step at which the run stands: 0 where nothing was saved yet. The optimizers' step sizes
        are restored too.

    Raises:
        ValueError: the checkpoint is of a run with other networks or optimizers; says what differs.
            The run may be filled in part by then; build it anew.
    """
    path = manager.latest_checkpoint
    try:
        if path:
            manager.checkpoint.restore(path).assert_consumed()
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{path} does not fit this run, which is now filled in part: {error} "
            "Build the run as it was when it was saved, or choose a fresh folder."
        ) from error
    return int(manager.checkpoint.step)


def saver(manager):
    """Make a callback for `training.train` that saves under the number of the step.

    Args:
        manager: `tf.train.CheckpointManager` over a checkpoint from `make_checkpoint`.

    Returns:
        Function of a `training.Progress`.
    """

    def save(progress):
        manager.save(checkpoint_number=progress.step)

    return save
