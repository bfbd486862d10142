"""Train a model: loss, optimizer, schedule, and a run that can be stopped and gone on with."""

import importlib.metadata
import json
import platform
import time
import zlib
from dataclasses import asdict
from functools import partial
from types import MappingProxyType

import filelock
import numpy as np
import pandas as pd
from tqdm import tqdm

from shapeseg.backend import keras, tf
from shapeseg.checks import check_all, expect, one_of, real, whole
from shapeseg.datasets import check_order, check_pair, stream
from shapeseg.files import checksum, run_directory, whole_file
from shapeseg.inference import save_model
from shapeseg.instances import centres_loss, encode, outlines_loss
from shapeseg.models import check_model
from shapeseg.scenes import SceneConfig

# The article's way: Adam at a constant rate over a fixed set of scenes.
ARTICLE_TRAINING = MappingProxyType(dict(
    batch_size=8, optimizer="adam", learning_rate=1e-3, warmup=0, schedule="constant",
    weight_decay=None, repeat=400))

# The lessons' way: new scenes all the time, Muon, and a rate that rises and falls.
FAST_TRAINING = MappingProxyType(dict(
    batch_size=2, optimizer="muon", learning_rate=2e-2, warmup=20, schedule="cosine",
    weight_decay=1e-2, repeat=None))

WEIGHTS = [1.0, 0.02, 0.02]  # of the losses of masks, centres and outlines
CHECKPOINTS = ("checkpoint.npz", "previous.npz")  # the last, and the one before it
NAMES = {"logits_iou": "iou", "logits_loss": "masks_loss", "centres_head_loss": "centres_loss",
         "outlines_head_loss": "outlines_loss"}  # Keras' and the history's


def train(model, data, steps, run_dir, seed=0, callbacks=(), *, batch_size=2, optimizer="muon",
          learning_rate=2e-2, warmup=20, schedule="cosine", weight_decay=1e-2, repeat=None,
          validation=None, every=25):
    """Train a model in place, to the bit the same each time.

    A run that was stopped goes on from its last checkpoint when it is called again with the same
    arguments, and ends with the weights of a run that never stopped. A finished run is not
    repeated: its weights are loaded into the model and its history is returned. The weights that
    a run begins with are kept in `run_dir`, so what the model holds at a later call does not count.

    Several GPUs of one machine share each batch if the model was built in the scope of a
    ``tf.distribute.MirroredStrategy``: what they learn is what one would, apart from rounding.

    Parameters
    ----------
    model : keras.Model
        From `build_model`.
    data : SceneConfig or (images, masks)
        Scenes of the split "train", drawn while training runs; or arrays (N, H, W, C) uint8 and
        (N, H, W, K) bool, for example from `read_dataset`, gone through in random order.
    steps : int
        Number of updates of the weights.
    run_dir : path
        Holds run.json (all that is needed to repeat the run), history.csv, checkpoint.npz, the one
        before it in previous.npz and, at the end, model.keras. A relative path counts from the
        repository's root.
    seed : int
        Of the scenes, or of the order of the arrays.
    callbacks : sequence of keras.callbacks.Callback
        An epoch is `every` steps; only the hooks of epochs and of the training's begin and end are
        called. A run that a callback stopped goes on at the next call.
    batch_size : int
        Scenes a step; with several devices a multiple of their number.
    optimizer : "adam", "adamw" or "muon"
    learning_rate : float
        The highest.
    warmup : int
        Steps in which the rate rises from 0.
    schedule : "constant" or "cosine"
        After the warm-up: stay, or fall to 0 along half a cosine.
    weight_decay : float or None
        Of "adamw" and "muon".
    repeat : int, optional
        Go through this many scenes of the config again and again; without it all are new.
    validation : (images, masks), optional
        Scored every `every` steps.
    every : int
        Steps between two rows of the history, and between two checkpoints.

    Returns
    -------
    pandas.DataFrame
        One row each `every` steps: step, seconds, learning_rate, loss and iou over the steps since the
        row before and, with `validation`, val_loss and val_iou. The loss is the binary cross-entropy
        (with softmax the categorical one, its target shared by the classes that overlap); the IoU the
        mean over the classes, counted on every fourth pixel of every fourth row.

    Raises
    ------
    ValueError
        If an argument is not as above, or `run_dir` holds a run with other arguments or damaged
        files. Where the checkpoint before the last is whole, the run says so and goes on from there.
    OSError
        If the disk is full: the checkpoints that were there stay.
    RuntimeError
        If another process is training in `run_dir`, or the loss is not a number any more.
    """
    arguments = check_recipe(steps=steps, seed=seed, batch_size=batch_size, optimizer=optimizer,
                             learning_rate=learning_rate, warmup=warmup, schedule=schedule,
                             weight_decay=weight_decay, repeat=repeat, every=every)
    callbacks = check_all(callbacks, keras.callbacks.Callback, "callbacks", "a list of keras.callbacks.Callback")
    data, validation = _check(model, data, validation, arguments)
    run_dir = run_directory(run_dir)
    try:
        with filelock.FileLock(run_dir / ".lock", timeout=0):
            _describe(run_dir, model, data, validation, arguments)
            return _train(model, data, run_dir, callbacks, validation, arguments)
    except filelock.Timeout:
        raise RuntimeError(f"run_dir: another process is training in {run_dir}; wait for it, or give "
                           "another run_dir") from None


def _train(model, data, run_dir, callbacks, validation, arguments):
    steps, every, batch_size = arguments["steps"], arguments["every"], arguments["batch_size"]
    with model.distribute_strategy.scope():
        trainer = _compile(model, arguments)
    run = _Run(trainer, run_dir)
    if run.step:
        state = "already finished" if run.step == steps else "goes on"
        print(f"{run_dir.name}: {state} at step {run.step} of {steps}")
    if run.step == steps:
        run.write_history()  # it may have been stopped just before that
        save_model(model, run_dir / "model.keras")
        return run.history
    batches = stream(data, arguments["seed"], batch_size, start=run.step * batch_size,
                     count=(steps - run.step) * batch_size, repeat=arguments["repeat"], encode=_encoder(model, data))
    callbacks = keras.callbacks.CallbackList(list(callbacks), model=trainer)
    callbacks.on_train_begin()
    with tqdm(total=steps, initial=run.step, desc="steps", mininterval=1) as bar:
        for batch in batches:
            if run.step % every == 0:
                trainer.reset_metrics()
                callbacks.on_epoch_begin(run.step // every)
            # Unlike train_on_batch, this keeps the means of loss and IoU over the steps.
            logs = {NAMES.get(name, name): float(value)
                    for name, value in trainer.train_function(iter([_spread(model, batch)])).items()}
            run.step += 1
            bar.set_postfix({name: f"{value:.3g}" for name, value in logs.items()}, refresh=False)
            bar.update()
            if run.step % every == 0 or run.step == steps:
                if not all(np.isfinite(array).all() for array in (logs["loss"], *model.get_weights())):
                    raise RuntimeError(f"loss: {logs['loss']} at step {run.step}, or weights that are no numbers; lower "
                                       f"the learning rate ({arguments['learning_rate']}) and give another run_dir")
                logs |= _validate(trainer, validation, batch_size)
                run.save(logs)
                callbacks.on_epoch_end((run.step - 1) // every, logs)
                if trainer.stop_training:
                    break
    callbacks.on_train_end()
    save_model(model, run_dir / "model.keras")
    return run.history


def _compile(model, arguments):
    """The model up to its logits (exact where a sigmoid saturates), with loss and optimizer."""
    logits = model.get_layer("logits").output
    softmax = model.get_layer("masks").get_config()["activation"] == "softmax"
    loss = shared_cross_entropy if softmax else binary_cross_entropy
    iou = MeanIoU(logits.shape[-1] - softmax, softmax, name="iou")
    if len(model.outputs) == 1:
        trainer, goals = keras.Model(model.input, logits, name="trainer"), dict(loss=loss, metrics=[iou])
    else:
        trainer = keras.Model(model.input, [logits, *model.outputs[1:]], name="trainer")
        patch = model.get_layer("fold").patch
        loss = [loss, centres_loss(patch, logits.shape[-1] - softmax), outlines_loss(patch)]
        goals = dict(loss=loss, loss_weights=WEIGHTS, metrics=[[iou], [], []])
    trainer.compile(make_optimizer(**arguments), **goals, jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    trainer.make_train_function()
    trainer.stop_training = False
    return trainer


def _encoder(model, data):
    """What makes the targets of the model's objects out of a scene, if it finds any."""
    if len(model.outputs) == 1:
        return None
    rays = model.outputs[2].shape[-1] - 2
    return partial(encode, rays=rays, most=data.figures[1], classes=data.classes)


def _spread(model, batch):
    """Images and all that is to be learned about them, shared out to the devices if there are several."""
    images, masks, *objects = batch
    batch = images, (masks, *objects * 2) if objects else masks  # centres and outlines learn from one table
    strategy = model.distribute_strategy
    devices = strategy.num_replicas_in_sync
    if devices == 1:
        return batch
    return strategy.experimental_distribute_values_from_function(
        lambda device: keras.tree.map_structure(
            lambda array: tf.constant(array[device.replica_id_in_sync_group::devices]), batch))


def _validate(trainer, validation, batch_size):
    if validation is None:
        return {}
    images, masks = validation
    masks = masks.astype(np.uint8)  # several devices cannot collect truth values
    scores = trainer.evaluate(images, masks, batch_size=batch_size, verbose=0, return_dict=True)
    return {f"val_{name}": value for name, value in scores.items()}


@tf.custom_gradient
def binary_cross_entropy(masks, logits):
    """Mean of −log p where the mask is 1 and of −log(1 − p) where it is 0; p is the sigmoid of the logit.

    Its slope along the logit is p − mask. Written out like this it takes a few passes over the
    memory, not twenty.
    """
    masks = tf.cast(masks, logits.dtype)
    devices = tf.distribute.get_strategy().num_replicas_in_sync  # each has a part of the batch
    share = 1 / (devices * tf.cast(tf.size(logits), logits.dtype))
    value = share * (tf.reduce_sum(tf.nn.softplus(logits)) - tf.reduce_sum(logits * masks))
    return value, lambda upstream: (None, upstream * share * (tf.sigmoid(logits) - masks))


def shared_cross_entropy(masks, logits):
    """Categorical cross-entropy; classes that overlap share a pixel, the background has the rest."""
    masks = tf.cast(masks, logits.dtype)
    count = tf.reduce_sum(masks, -1, keepdims=True)
    target = tf.concat([masks / tf.maximum(count, 1), tf.cast(count == 0, logits.dtype)], -1)
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


@keras.saving.register_keras_serializable("shapeseg")
class MeanIoU(keras.metrics.Metric):
    """Intersection over union of logits and masks, the mean over the classes.

    Counted on every fourth pixel of every fourth row, which is enough for a curve.
    """

    def __init__(self, classes, softmax=False, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.softmax = classes, softmax
        self.both = self.add_weight(shape=(classes,), initializer="zeros", name="intersection")
        self.any = self.add_weight(shape=(classes,), initializer="zeros", name="union")

    def update_state(self, masks, logits, sample_weight=None):
        masks, logits = masks[:, ::4, ::4], logits[:, ::4, ::4]
        scores = tf.nn.softmax(logits)[..., :-1] - 0.5 if self.softmax else logits
        predicted, masks = scores > 0, tf.cast(masks, bool)
        self.both.assign_add(tf.reduce_sum(tf.cast(predicted & masks, tf.float32), (0, 1, 2)))
        self.any.assign_add(tf.reduce_sum(tf.cast(predicted | masks, tf.float32), (0, 1, 2)))

    def result(self):
        seen = tf.math.count_nonzero(self.any, dtype=tf.float32)  # a class that occurs nowhere has no IoU
        return tf.reduce_sum(self.both / tf.maximum(self.any, 1)) / tf.maximum(seen, 1)


@keras.saving.register_keras_serializable("shapeseg")
class Muon(keras.optimizers.Muon):
    """Muon for convolutions: a kernel is seen as a matrix, (height · width · inputs, outputs).

    The head and all that is no kernel are left to AdamW. Source of the idea: Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/; of the scale of the update: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4 or "head" in variable.path

    def zeropower_via_newtonschulz5(self, x, steps):
        """Keras' iteration, carried out on the small Gram matrix: a polynomial of it turns x."""
        matrix = tf.reshape(x, (-1, x.shape[-1]))
        matrix /= tf.norm(matrix) + 1e-7
        gram = tf.matmul(matrix, matrix, transpose_a=True)
        for n in range(steps):
            step = self.muon_a * tf.eye(x.shape[-1]) + self.muon_b * gram + self.muon_c * gram @ gram
            turn = turn @ step if n else step
            if n < steps - 1:
                gram = step @ gram @ step
        return tf.reshape(matrix @ turn, x.shape)

    def lr_adjust(self, x):
        rows, columns = np.prod(x.shape[:-1]), x.shape[-1]
        return x * (self.rms_rate * max(rows, columns) ** 0.5)


def make_optimizer(optimizer, learning_rate, warmup, schedule, weight_decay, steps, **_):
    """The optimizer with its learning-rate schedule, from `train`'s arguments."""
    if schedule == "cosine":
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else learning_rate, max(1, steps - warmup),
            warmup_target=learning_rate if warmup else None, warmup_steps=warmup)
    elif warmup:
        learning_rate = keras.optimizers.schedules.PolynomialDecay(
            0.0, warmup, learning_rate, power=1.0)
    weight_decay = weight_decay or 0.0
    if optimizer == "adam":
        return keras.optimizers.Adam(learning_rate)
    if optimizer == "adamw":
        return keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    return Muon(learning_rate, weight_decay=weight_decay, adam_weight_decay=weight_decay)


class _Run:
    """The state of a run, in memory and on disk: the last checkpoint, and the one before it in case that one is damaged."""

    def __init__(self, trainer, run_dir):
        self.trainer, self.run_dir = trainer, run_dir
        self.identity = checksum(run_dir / "run.json")  # each checkpoint of the run holds it
        self.step, self.rows, self.seconds, self.since = 0, [], 0.0, time.monotonic()
        for left_over in run_dir.glob(".*.partial.*"):  # by a process that was killed
            left_over.unlink()
        checkpoints = _checkpoints(run_dir)
        for n, path in enumerate(checkpoints):
            try:
                self._restore(path)
                break
            except Exception as error:
                damaged = f"{path} is damaged or of another run ({type(error).__name__}: {error})"
                if n == len(checkpoints) - 1:
                    raise ValueError(f"run_dir: {damaged}, and there is no other; delete {run_dir} and train again") from error
                print(f"{damaged}; the one before it is taken")
        if not checkpoints:  # the weights that the run begins with
            self._checkpoint()

    @property
    def history(self):
        return pd.DataFrame(self.rows)

    def save(self, logs):
        seconds = self.seconds + time.monotonic() - self.since
        rate = float(self.trainer.optimizer.learning_rate)
        self.rows.append(dict(step=self.step, seconds=round(seconds, 1), learning_rate=rate,
                              **{name: float(value) for name, value in logs.items()}))
        self._checkpoint(seconds)
        self.write_history()

    def write_history(self):
        with whole_file(self.run_dir / "history.csv") as partial:
            self.history.to_csv(partial, index=False)

    def _checkpoint(self, seconds=0.0):
        last, before = (self.run_dir / name for name in CHECKPOINTS)
        arrays = {str(n): v.numpy() for n, v in enumerate(self._variables())}
        with whole_file(last, sum(array.nbytes for array in arrays.values()), before) as partial:
            np.savez(partial, run=self.identity, step=self.step, seconds=seconds, rows=json.dumps(self.rows), **arrays)

    def _restore(self, path):
        with np.load(path, allow_pickle=False) as saved:
            if saved["run"] != self.identity:
                raise ValueError(f"it is not of the run that {self.run_dir / 'run.json'} describes")
            values = [saved[str(n)] for n in range(len(self._variables()))]
            self.step, self.seconds, self.rows = int(saved["step"]), float(saved["seconds"]), json.loads(str(saved["rows"]))
        for variable, value in zip(self._variables(), values):
            variable.assign(value)

    def _variables(self):
        """Weights, running statistics, states of the random generators, and the optimizer's."""
        return [*self.trainer.variables, *self.trainer.optimizer.variables]


def _checkpoints(run_dir):
    return [run_dir / name for name in CHECKPOINTS if (run_dir / name).exists()]


def _describe(run_dir, model, data, validation, arguments):
    """Write run.json, or raise a ValueError that names what differs from the one that is there."""
    run = json.loads(json.dumps({
        "data": _fingerprint(data), "validation": _fingerprint(validation), "arguments": arguments,
        "model": json.loads(model.to_json())["config"],
        "versions": {"python": platform.python_version(), "machine": platform.machine(),
                     **{name: importlib.metadata.version(name)
                        for name in ("shapeseg", "tensorflow", "keras", "numpy", "scikit-image")}},
    }, default=lambda number: number.item()))  # NumPy's numbers
    path = run_dir / "run.json"
    if not _checkpoints(run_dir):
        with whole_file(path) as partial:
            partial.write_text(json.dumps(run, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text())
        before["arguments"].get, before["data"], before["validation"], before["model"]
    except Exception as error:
        raise ValueError(f"run_dir: expected the description of the run whose checkpoint is there, but {path} cannot be "
                         f"read ({error!r}); delete {run_dir} and train again") from error
    differ = [f"{name} (was {before['arguments'].get(name)!r}, now {value!r})"
              for name, value in run["arguments"].items() if before["arguments"].get(name) != value]
    differ += [name for name in ("data", "validation", "model") if before[name] != run[name]]
    if differ:
        raise ValueError(f"run_dir: {run_dir} holds a run with other arguments: {', '.join(differ)}; "
                         "give another run_dir, or delete this one")


def _fingerprint(data):
    if data is None:
        return None
    if isinstance(data, SceneConfig):
        return asdict(data)
    return [{"shape": array.shape, "dtype": str(array.dtype), "crc32": zlib.crc32(np.ascontiguousarray(array))}
            for array in data]


def check_recipe(steps, seed, batch_size, optimizer, learning_rate, warmup, schedule, weight_decay, repeat, every):
    """The arguments of `train` that are numbers or words, NumPy's numbers as Python's own; or a ValueError."""
    arguments = dict(locals())
    check_order(seed, batch_size, repeat)
    for name, least in (("steps", 1), ("warmup", 0), ("every", 1)):
        expect(whole(arguments[name], least, 2**31 - 1), name, f"a whole number from {least} to {2**31 - 1}", arguments[name])
    expect(one_of(optimizer, ("adam", "adamw", "muon")), "optimizer", '"adam", "adamw" or "muon"', optimizer)
    expect(real(learning_rate) and learning_rate > 0, "learning_rate", "a number above 0", learning_rate)
    expect(one_of(schedule, ("constant", "cosine")), "schedule", '"constant" or "cosine"', schedule)
    expect(weight_decay is None or real(weight_decay, 0), "weight_decay", "None or a number from 0", weight_decay)
    rates = ("learning_rate", "weight_decay")
    return {name: value if value is None or isinstance(value, str) else float(value) if name in rates else int(value)
            for name, value in arguments.items()}


def _check(model, data, validation, arguments):
    """Return data and validation, as arrays where they are no SceneConfig; raise a ValueError if anything is wrong."""
    check_model(model)
    batch_size = arguments["batch_size"]
    devices = model.distribute_strategy.num_replicas_in_sync
    expect(batch_size % devices == 0, "batch_size", f"a multiple of {devices}, the number of the model's devices", batch_size)
    softmax = model.get_layer("masks").get_config()["activation"] == "softmax"
    wanted = (model.input_shape[-1], model.outputs[0].shape[-1] - softmax)
    if not isinstance(data, SceneConfig):
        data = check_pair(data, "data")
    stream(data, batch_size=batch_size)  # whose scenes the memory has to hold
    if len(model.outputs) > 1 and not (isinstance(data, SceneConfig) and validation is None):
        raise ValueError("data and validation: expected a SceneConfig and None, because a network with rays learns its objects "
                         f"from a SceneConfig, got {type(data).__name__} and {type(validation).__name__}; build_model(rays=0)")
    if validation is not None:
        validation = check_pair(validation, "validation", "two arrays (images, masks)")
    for name, value in (("data", data), ("validation", validation)):
        if isinstance(value, SceneConfig):
            given = (value.channels, len(value.classes))
        else:
            given = wanted if value is None else tuple(array.shape[-1] for array in value)
        if given != wanted:
            raise ValueError(f"{name}: expected {wanted[0]} image channels and {wanted[1]} classes, as the "
                             f"model has, got {given[0]} and {given[1]}; build_model(classes=…, channels=…)")
    return data, validation
