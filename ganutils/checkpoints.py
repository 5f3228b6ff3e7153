"""How does a run survive a crash? Save all its state; restore all of it, or say what differs."""

import json
import shutil
import warnings
from pathlib import Path

import keras
import tensorflow as tf

from ganutils.training import Progress, train
from ganutils.updates import with_weight_norms


class History(tf.train.experimental.PythonState):
    """Makes a history (dict from name to list of floats) part of a checkpoint, as JSON."""

    def __init__(self, values):
        self.values = values

    def serialize(self):
        return json.dumps(self.values)

    def deserialize(self, string_value):
        self.values.clear()
        self.values.update(json.loads(string_value))


def numbered(variables):
    """Give variables names that two builds of one network agree on.

    Args:
        variables: list of Keras variables.

    Returns:
        Dict from names such as "0 kernel" and "1 bias" to the variables. The numbers that Keras
        gives to repeated names in the course of a program are left out.
    """
    return {f"{i} {v.name.rstrip('_0123456789')}": v for i, v in enumerate(variables)}


def make_checkpoint(discriminator, generator, *, d_optimizer, g_optimizer, step, history, **more):
    """Gather the whole state of a run: two networks, two optimizers, the step, the history.

    The optimizers are built here: a restore can fill only variables that exist.

    Args:
        discriminator: model.
        generator: model.
        d_optimizer: Keras optimizer of the discriminator.
        g_optimizer: Keras optimizer of the generator.
        step: integer `tf.Variable`, the number of steps done.
        history: dict from name to list of floats, as `training.train` keeps it.
        more: whatever else the run remembers, models or `tf.Module`s, each under a name: the model
            that `updates.with_average` keeps, a `penalties.HistoricalAverage`.

    Returns:
        `tf.train.Checkpoint` over all of them.
    """
    d_optimizer.build(discriminator.trainable_variables)
    g_optimizer.build(generator.trainable_variables)
    return tf.train.Checkpoint(
        discriminator=discriminator,
        generator=generator,
        d_optimizer=d_optimizer,
        g_optimizer=g_optimizer,
        step=step,
        history=History(history),
        d_variables=numbered(discriminator.variables),  # Dropout's seed states are here alone
        g_variables=numbered(generator.variables),
        **more,
    )


def contents_of_run(checkpoint):
    """List what a checkpoint object would save, by the names that its file would have.

    Args:
        checkpoint: `tf.train.Checkpoint`, such as `make_checkpoint` makes.

    Returns:
        Dict from name to type and shape, such as "float32 (64, 5)"; a history is a "string ()".
    """
    view, contents = tf.train.TrackableView(checkpoint), {}
    seen, queue = set(), [("", checkpoint)]
    for name, item in queue:  # breadth first: an object is named after the shortest way to it
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (tf.Variable, keras.Variable)):
            contents[name] = f"{tf.as_dtype(item.dtype).name} {tuple(item.shape)}"
        elif isinstance(item, tf.train.experimental.PythonState):
            contents[name] = "string ()"
        queue += [(f"{name}/{key}", child) for key, child in view.children(item).items()]
    return {name[1:]: kind for name, kind in contents.items() if name[1:] != "save_counter"}


def contents_of_file(path):
    """Read a saved checkpoint from end to end, so that its checksums are compared.

    Args:
        path: of the checkpoint, without ".index".

    Returns:
        Dict as that of `contents_of_run`.

    Raises:
        Exception: of whatever kind TensorFlow raises where a file is missing, cut short or changed.
    """
    reader = tf.train.load_checkpoint(path)
    types, contents = reader.get_variable_to_dtype_map(), {}
    for name, shape in reader.get_variable_to_shape_map().items():
        reader.get_tensor(name)
        contents[name.partition("/.")[0]] = f"{types[name].name} {tuple(shape)}"
    of_tensorflow = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")
    return {name: kind for name, kind in contents.items() if name not in of_tensorflow}


def refuse_another_run(path, saved, here):
    """Refuse a checkpoint whose contents are not those of the run.

    Args:
        path: of the checkpoint.
        saved: its contents, from `contents_of_file`.
        here: the run's, from `contents_of_run`.

    Raises:
        ValueError: names, types or shapes differ; says which.
    """
    different = [name for name in saved | here if saved.get(name) != here.get(name)]
    if different:
        different.sort(key=lambda name: ("optimizer" in name, name))  # networks first
        lines = [
            f"{name}: {saved.get(name, 'nothing')} in the file, {here.get(name, 'nothing')} here"
            for name in different[:8]
        ]
        raise ValueError(
            f"{path} was saved by a run of other parts. {len(different)} differ:\n"
            + "\n".join(lines + ["..."] * (len(different) > 8))
            + "\nBuild the run as it was when it was saved, or choose a fresh folder."
        )


def saved_paths(manager):
    """List what a manager's folder holds, newest first.

    Args:
        manager: `tf.train.CheckpointManager`.

    Returns:
        List of the saves that the manager knows to be complete; list of the others in the folder,
        which a killed process left behind, or whose list, the file `checkpoint`, is lost.
    """
    known = [str(Path(path)) for path in reversed(manager.checkpoints)]
    found = [path.with_suffix("") for path in Path(manager.directory).glob("*-*.index")]
    found = [path for path in found if path.name.rpartition("-")[2].isdecimal()]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return known, [str(path) for path in found if str(path) not in known]


def resume(manager):
    """Restore the newest whole checkpoint of a manager, completely; without any, change nothing.

    Each one is read whole before anything is restored. A damaged one is passed over for the one
    before it, with a warning.

    Args:
        manager: `tf.train.CheckpointManager` over a checkpoint from `make_checkpoint`.

    Returns:
        The step at which the run stands: 0 where nothing was saved yet. The optimizers' step sizes
        are restored too.

    Raises:
        OSError: there are checkpoints, and none can be read; says why, file by file.
        ValueError: the checkpoint is of a run with other networks or optimizers; says what differs.
        In both cases the run is left as it was.
    """
    run, failed, (known, others) = manager.checkpoint, [], saved_paths(manager)
    manager.unsaved = None
    for path in known + others:
        try:
            saved = contents_of_file(path)
        except Exception as error:  # TensorFlow's reader complains in many ways
            failed.append(f"{path}: {type(error).__name__}: {error}")
            continue
        refuse_another_run(path, saved, contents_of_run(run))
        run.restore(path).assert_consumed()
        if path in others:
            failed.append(f"{manager.directory}: the list of saves, which does not name {path}")
        break
    else:
        if known or len(others) > 1:  # a single unlisted one is a first save that was cut off
            tried = "\n".join(failed)
            raise OSError(f"No checkpoint can be read. Choose a fresh folder. Tried:\n{tried}")
    if failed:
        unread = "\n".join(failed)
        warnings.warn(f"The run goes on from step {int(run.step)}. Unread:\n{unread}", stacklevel=2)
    return int(run.step)


def saver(manager):
    """Make a callback for `training.train` that saves under the number of the step.

    Args:
        manager: `tf.train.CheckpointManager` over a checkpoint from `make_checkpoint`.

    Returns:
        Function of a `training.Progress`. It raises OSError where the folder cannot be written to
        or is full; earlier checkpoints and the run in memory are then as they were.
    """

    def save(progress):
        try:
            manager.save(checkpoint_number=progress.step)
        except (OSError, tf.errors.OpError) as error:
            manager.unsaved = progress.step
            for part in Path(manager.directory).glob(f"*-{progress.step}[._]*"):
                if part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                elif str(part.with_suffix("")) not in saved_paths(manager)[0]:
                    part.unlink(missing_ok=True)
            raise OSError(
                f"Step {progress.step} could not be saved in {manager.directory}: {error}. "
                "What was saved before is whole, and the run is in memory: make room, or the "
                "folder writable, and run the same once more."
            ) from error
        manager.unsaved = None

    return save


def resume_and_train(train_step, make_batches, *, manager, steps, callbacks=(), **pace):
    """Run a training step until the counter stands at `steps`, from wherever the run got to.

    After any interruption, be it Ctrl-C, a crash or a power cut, the same line goes on from the
    last completed save, and ends bit for bit where a run ends that was never interrupted (on the
    same machine, with the same versions). After a save that failed it goes on from memory.

    Args:
        train_step, make_batches, steps, callbacks: as for `training.train`. The run is saved after
            the callbacks were called, with all that they wrote into the history.
        manager: `tf.train.CheckpointManager` over a checkpoint from `make_checkpoint`, which holds
            everything that train_step changes, the step and the history.
        pace: every and per_call, as for `training.train`.

    Returns:
        The history, with d_weights and g_weights as `updates.with_weight_norms` adds them.

    Raises:
        OSError, ValueError: as for `resume` and `saver`.
        FloatingPointError: as for `training.train`; a weight of either network, too, that is NaN or
            infinite. The state with it is not saved.
    """
    run, save = manager.checkpoint, saver(manager)
    state = {"step": run.step, "history": run.history.values}
    if getattr(manager, "unsaved", None) == int(run.step):  # memory is ahead of the folder
        save(Progress(int(run.step), steps, run.history.values, 0.0))
    else:
        resume(manager)
    start = int(run.step)

    def save_new(progress):
        if progress.step > start:  # or the file that was just read would be written over
            save(progress)

    callbacks = [*callbacks, save_new]
    watched = with_weight_norms(train_step, run.discriminator, run.generator)
    return train(watched, make_batches, steps=steps, callbacks=callbacks, **state, **pace)
