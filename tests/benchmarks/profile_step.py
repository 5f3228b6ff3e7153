"""Where does the time of one training step go? Three versions of a DCGAN, by kind of operation.

    python tests/benchmarks/profile_step.py [--steps 20] [--save]

TensorFlow's profiler records when each operation ran. Two may run side by side and wait for each
other's cores, so their times add up to more than the step takes by the clock, shown beside them.
With --save, the figures go to notebooks/assets/results/profile_step.json.
"""

import collections
import re
import tempfile
import time
from pathlib import Path

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
import systems
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from ganutils import latents

SAVED = record.RESULTS / "profile_step.json"
VERSIONS = {
    "Keras' layers, float32": systems.ALL["average"],
    "Keras' layers, bfloat16": systems.ALL["bfloat16"],
    "the plain DCGAN": systems.ALL["plain"],
}

# The first pattern that fits "name:type" of an operation names its kind. Types of oneDNN start with
# _Mkl or _MklNative; the name holds the layer, and "gradient_tape" on the way back.
KINDS = {
    "optimizer": r"^(adam|.*/adam)[_/\d]|:ResourceApply",
    # A transposed convolution runs forward as the way back of a convolution, and back as its way
    # forward; gradient_tape in the name tells which way it is.
    "convolution, to the kernel": r"BackpropFilter",
    "convolution, to the input": r"gradient_tape.*:\w*Conv2D\w*$",
    "convolution, forward": r":\w*Conv2D\w*$",
    "upsampling": r"up_sampling|upsample_conv|:Resize|ResizeNearest",
    "batch normalization": r"batch_normalization|batchnorm",
    "dense": r":\w*MatMul\w*$",
    "cast or copy": r":(Cast|_?MklToTf|Identity\w*|Copy|Transpose|ConcatV2|Split\w*|Slice|Pack)$",
    "activation": r"leaky_re_lu|re_lu|activation|LeakyRelu|Relu|Tanh",
    "dropout": r"dropout",
    "noise": r"stateless_normal|StatelessRandom",
    "loss": r"softplus|Softplus|Sigmoid|sigmoid",
}
OPERATION = re.compile(r"^[\w/.\-\[\]]+:\w+$")


def kind_of(event):
    """Kind of an operation, which the profiler calls `name:type`; None for anything else."""
    if not OPERATION.match(event) or "::" in event:
        return None
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, event))
    return next(found, "other")


def self_times(line):
    """Pairs (event, picoseconds spent in it and in none of the events inside it) of one thread."""
    events = sorted(line.events, key=lambda e: (e.offset_ps, -e.duration_ps))
    own, open_events = [e.duration_ps for e in events], []
    for index, event in enumerate(events):
        while open_events and open_events[-1][0] <= event.offset_ps:
            open_events.pop()
        if open_events:
            own[open_events[-1][1]] -= event.duration_ps
        open_events.append((event.offset_ps + event.duration_ps, index))
    return zip(events, own, strict=True)


def read_profile(folder):
    """Milliseconds by kind, and by operation of the kind "other", of all that was recorded."""
    (path,) = Path(folder).rglob("*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    kinds, others = collections.Counter(), collections.Counter()
    for plane in space.planes:
        if not plane.name.startswith(("/host:CPU", "/device:GPU")):
            continue
        for line in plane.lines:
            for event, picoseconds in self_times(line):
                name = plane.event_metadata[event.metadata_id].name
                kind = kind_of(name)
                if kind is not None:
                    kinds[kind] += picoseconds / 1e9
                    if kind == "other":
                        others[name.rsplit(":", 1)[1]] += picoseconds / 1e9
    return kinds, others


def profile(system, *, steps):
    """Profile some steps of a system.

    Args:
        system: `systems.System`.
        steps: number of steps recorded, after three that are not.

    Returns:
        dict: ms_per_step by the clock, with and without the profiler; kinds, ms_per_step by kind.
    """
    _, train_step = systems.start(system, seed=1)
    # Times do not depend on what the pictures show.
    real = tf.tanh(latents.sample_latents(system.batch_size, 28 * 28, seed=2, step=0))
    real = tf.reshape(real, (system.batch_size, *systems.MNIST))

    def laps():
        times = []
        for number in range(steps):
            start = time.perf_counter()
            float(train_step(real, tf.constant(number, tf.int64))["d_loss"])
            times.append(1000 * (time.perf_counter() - start))
        return float(np.median(times))

    for number in range(3):
        train_step(real, tf.constant(number, tf.int64))
    unprofiled = laps()
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=3, python_tracer_level=0, device_tracer_level=1
    )
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, options=options)
        profiled = laps()
        tf.profiler.experimental.stop()
        kinds, others = read_profile(folder)
    return {
        "ms_per_step": unprofiled,
        "ms_per_step_profiled": profiled,
        "kinds": {kind: total / steps for kind, total in kinds.most_common()},
        "largest_other": {name: total / steps for name, total in others.most_common(5)},
    }


def main(arguments=None):
    parser = record.make_parser(__doc__)
    whole = record.whole_number(1, 10**6)
    parser.add_argument("--steps", type=whole, default=20, help="steps recorded")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    about, profiles = record.about(), {}
    print(about["machine"], about["versions"])
    for name, system in VERSIONS.items():
        one = profiles[name] = profile(system, steps=options.steps)
        print(f"\n{name}: {one['ms_per_step']:.1f} ms a step by the clock", end="")
        print(f" ({one['ms_per_step_profiled']:.1f} while recorded); operations:")
        for kind, ms in one["kinds"].items():
            print(f"  {ms:8.2f} ms {100 * ms / sum(one['kinds'].values()):5.1f} %  {kind}")
        print("  largest of the kind 'other':", one["largest_other"])
    if options.save:
        record.save(
            SAVED,
            command=record.command(__file__, arguments),
            **about,
            steps=options.steps,
            unit="milliseconds a step from start to end of each operation, summed over operations",
            systems=profiles,
        )


if __name__ == "__main__":
    main()
