"""How does a run survive a crash? Save all its state; restore all of it, or say what differs."""

import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ganutils.training import Progress, models_of, train


def _as_floats(value):
    """What JSON cannot take, such as numpy's numbers and tensors, as floats."""
    return np.asarray(value, dtype=float).tolist()


class History(tf.train.experimental.PythonState):
    """Makes a history (dict from name to list of floats) part of a checkpoint, as JSON.

    Numbers of other kinds become floats; TypeError by name for what is no number.
    """

    def __init__(self, values):
        self.values = values

    def serialize(self):
        curves = []
        for name, values in self.values.items():
            if not isinstance(name, str):
                raise TypeError(f"history[{name!r}] cannot be saved: its name must be a text.")
            try:
                curves.append(f"{json.dumps(name)}: {json.dumps(values, default=_as_floats)}")
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"history[{name!r}] cannot be saved, keep a list of floats there: {error}"
                ) from error
        return "{" + ", ".join(curves) + "}"

    def deserialize(self, string_value):
        self.values.clear()
        self.values.update(json.loads(string_value))


def _numbered(player):
    """A player's variables under names that two builds agree on, such as "0 kernel".

    The numbers that Keras gives to repeated names in the course of a program are left out.
    """
    variables = [variable for model in models_of(player) for variable in model.variables]
    return {f"{i} {v.name.rstrip('_0123456789')}": v for i, v in enumerate(variables)}


def _plain(value):
    """A setting as text, in which float32's rounding does not show, nor where a lambda stands."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "a lambda"
        return str({name: _plain(part) for name, part in value.items() if name != "name"})
    if isinstance(value, list | tuple):
        return str([_plain(part) for part in value])
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(np.float32(value))
    return str(value)


def _settings_of_run(run):
    """The class and the settings of each optimizer: dict from name to text, or to a step size."""
    settings = {}
    for player in ("d_optimizer", "g_optimizer"):
        if optimizer := getattr(run, player):
            settings[player] = type(optimizer).__name__
            try:
                config = optimizer.get_config()
            except Exception:  # a schedule need not know how to write itself down
                continue
            settings |= {f"{player} {k}": _plain(v) for k, v in config.items() if k != "name"}
            if isinstance(rate := config.get("learning_rate"), float):
                settings[f"{player} learning_rate"] = rate
    return settings


class Settings(tf.train.experimental.PythonState):
    """Makes what the optimizers are part of a checkpoint, to be compared before a restore."""

    def __init__(self, run):
        self.run = run

    def serialize(self):
        return json.dumps(_settings_of_run(self.run))

    def deserialize(self, string_value):
        pass


def _checkpoint(run):
    """`tf.train.Checkpoint` over everything that a run remembers."""
    names = ("discriminator", "generator", "d_optimizer", "g_optimizer", "average")
    parts = {name: getattr(run, name) for name in names}
    return tf.train.Checkpoint(
        step=run.step,
        history=History(run.history),
        optimizer_settings=Settings(run),
        d_variables=_numbered(run.discriminator),  # Dropout's seed states are here alone
        g_variables=_numbered(run.generator),
        **{name: part for name, part in parts.items() if part is not None},
        **run.also,  # a name taken twice is an error
    )


def _manager(run, folder, keep):
    """The manager of a folder, checked: of a run of hours, the folder must not be the end."""
    if not str(folder):
        raise ValueError("folder is an empty text; name a folder for the saves.")
    path = Path(folder).expanduser()
    if found := re.search(r"[][*?\\]", path.as_posix()):
        raise ValueError(
            f"folder {str(path)!r} has {found[0]!r} in its path, which TensorFlow takes for a "
            "pattern: it would save there and never find it. Choose another folder."
        )
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(f"folder {str(path)!r}: {str(part)!r} is a file.")
    return tf.train.CheckpointManager(_checkpoint(run), str(path), max_to_keep=keep)


def contents_of_run(run):
    """List what would be saved of a run, by the names that its file would have.

    Returns:
        Dict from name to type and shape, such as "float32 (64, 5)"; a history is a "string ()".
    """
    checkpoint = _checkpoint(run)
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
    """Read a saved checkpoint (its path without ".index") to the end, comparing its checksums.

    Returns:
        Dict as that of `contents_of_run`. Where a file is missing, cut short or changed, TensorFlow
        raises errors of many kinds.
    """
    reader = tf.train.load_checkpoint(path)
    types, contents = reader.get_variable_to_dtype_map(), {}
    for name, shape in reader.get_variable_to_shape_map().items():
        reader.get_tensor(name)
        contents[name.partition("/.")[0]] = f"{types[name].name} {tuple(shape)}"
    of_tensorflow = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")
    return {name: kind for name, kind in contents.items() if name not in of_tensorflow}


def _refuse_another_run(path, saved, here):
    """Refuse a checkpoint whose contents are not those of the run, with what differs."""
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


def _tell_other_rates(rates):
    """Say which step sizes (dict from name to the one in the file and the one here) were asked."""
    for name, (saved, asked) in rates.items():
        if np.float32(saved) != np.float32(asked):
            player = name.split()[0]
            warnings.warn(
                f"{name}: {saved:.6g} in the file, {asked:.6g} here; the run goes on with "
                f"{saved:.6g}. To take the new one, set it after `resume`, "
                f"run.{player}.learning_rate.assign({asked:.6g}), and go on with "
                "`training.train` and callbacks=[checkpoints.saver(run, folder)].",
                stacklevel=3,
            )


def _saved_paths(manager):
    """What a folder holds, newest first: the saves known to be complete, and the others.

    The others were left by a killed process, or their list, the file `checkpoint`, is lost.
    """
    known = [str(Path(path)) for path in reversed(manager.checkpoints)]
    found = [path.with_suffix("") for path in Path(manager.directory).glob("*-*.index")]
    found = [path for path in found if path.name.rpartition("-")[2].isdecimal()]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return known, [str(path) for path in found if str(path) not in known]


def resume(run, folder):
    """Restore a run completely from its newest whole save; without any, change nothing.

    Each save is read whole before anything is restored. A damaged one is passed over for the one
    before it, with a warning.

    Args:
        run: `training.Run`, built as it was when it was saved.
        folder: where `saver` or `resume_and_train` saved it.

    Returns:
        The step at which the run stands. The optimizers' step sizes are restored, too; a warning
        says so where the run was built with others. A schedule counts as a part.

    Raises:
        OSError: there are saves, and none can be read, says why, file by file; or the folder is a
            file.
        ValueError: the save is of a run with other parts, or other settings of an optimizer, says
            what differs; or the folder's path has one of []*? or a backslash in it. In all cases
            the run is left as it was.
    """
    manager, failed = _manager(run, folder, keep=None), []
    known, others = _saved_paths(manager)
    for path in known + others:
        try:
            saved = contents_of_file(path)
        except Exception as error:  # TensorFlow's reader complains in many ways
            failed.append(f"{path}: {type(error).__name__}: {error}")
            continue
        here, rates = contents_of_run(run), {}
        if "optimizer_settings" in saved:
            text = tf.train.load_variable(path, "optimizer_settings/.ATTRIBUTES/py_state")
            saved, here = saved | json.loads(text), here | _settings_of_run(run)
            for name in sorted(saved.keys() & here.keys()):
                if isinstance(saved[name], float) and isinstance(here[name], float):
                    rates[name] = saved.pop(name), here.pop(name)
        _refuse_another_run(path, saved, here)
        manager.checkpoint.restore(path).assert_consumed()
        _tell_other_rates(rates)
        run.unsaved = None
        if path in others:
            failed.append(f"{folder}: the list of saves, which does not name {path}")
        break
    else:
        if known or len(others) > 1:  # a single unlisted one is a first save that was cut off
            tried = "\n".join(failed)
            raise OSError(f"No checkpoint can be read. Choose a fresh folder. Tried:\n{tried}")
    if failed:
        unread = "\n".join(failed)
        warnings.warn(f"The run goes on from step {int(run.step)}. Unread:\n{unread}", stacklevel=2)
    return int(run.step)


def saver(run, folder, *, keep=3):
    """Make a callback for `training.train` that saves the run under the number of its step.

    Args:
        run: `training.Run`.
        folder: where to; the newest `keep` saves stay there (None: all of them). "~" is the home.
            Of several workers only the chief, the first, saves there. The others save into a
            temporary folder, since a save may need all of them, and resume from the chief's.

    Returns:
        Function of a `training.Progress`. It raises OSError where the folder cannot be written to
        or is full, and TypeError where the history holds what is no number; earlier saves and the
        run in memory are then as they were.

    Raises:
        OSError, ValueError: for a folder, as `resume`.
    """
    if run.strategy is not None and not run.strategy.extended.should_checkpoint:
        folder, keep = tempfile.mkdtemp(prefix="ganutils-"), 1
    manager = _manager(run, folder, keep)

    def save(progress):
        try:
            manager.save(checkpoint_number=progress.step)
        except (OSError, tf.errors.OpError) as error:
            run.unsaved = progress.step
            for part in Path(manager.directory).glob(f"*-{progress.step}[._]*"):
                if part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                elif str(part.with_suffix("")) not in _saved_paths(manager)[0]:
                    part.unlink(missing_ok=True)
            raise OSError(
                f"Step {progress.step} could not be saved in {manager.directory}: {error}. "
                "What was saved before is whole, and the run is in memory: make room, or the "
                "folder writable, and run the same once more."
            ) from error
        run.unsaved = None

    return save


def resume_and_train(
    run, folder, train_step, batches, *, steps, callbacks=(), every=100, per_call=None, keep=3
):
    """Take steps until the run's counter stands at `steps`, from wherever the run got to.

    After any interruption, be it Ctrl-C, a crash or a power cut, the same line goes on from the
    last completed save, and ends bit for bit where a run ends that was never interrupted (on the
    same machine, with the same versions). After a save that failed it goes on from memory.

    Args:
        run: `training.Run` of everything that train_step changes.
        folder, keep: as for `saver`.
        train_step, batches, steps, callbacks, every, per_call: as for `training.train`, whose
            weights are watched. The run is saved after the callbacks were called, with all that
            they wrote into the history.

    Returns:
        The run.

    Raises:
        OSError, TypeError, ValueError, FloatingPointError, KeyboardInterrupt: as `resume`, `saver`
            and `training.train` do.
    """
    save = saver(run, folder, keep=keep)
    if run.unsaved == int(run.step):  # memory is ahead of the folder
        save(Progress(int(run.step), steps, run.history, 0.0))
    else:
        resume(run, folder)
    start = int(run.step)

    def save_new(progress):
        if progress.step > start:  # or the file that was just read would be written over
            save(progress)

    return train(
        run,
        train_step,
        batches,
        steps=steps,
        callbacks=[*callbacks, save_new],
        every=every,
        per_call=per_call,
        watch_weights=True,
    )
