"""Train a model: loss, optimizer, schedule, and a run that can be stopped and resumed."""

from types import MappingProxyType

import filelock
import numpy as np
from tqdm import tqdm

from shapeseg.backend import deterministic, keras, tf
from shapeseg.checkpoints import BEST, Checkpoints, describe_run
from shapeseg.datasets import check_pair, stream
from shapeseg.models import check_model, load_model, save_model
from shapeseg.scenes import SceneConfig
from shapeseg.utils import expect, is_int, is_number, run_directory

# The article's way: Adam at a constant rate over a fixed set of scenes.
ARTICLE_TRAINING = MappingProxyType(dict(
    batch_size=8, optimizer="adam", learning_rate=1e-3, warmup=0, schedule="constant", weight_decay=0.0, dataset_size=400))

# The lessons' way: new scenes all the time, Muon, and a rate that rises and falls.
FAST_TRAINING = MappingProxyType(dict(
    batch_size=2, optimizer="muon", learning_rate=2e-2, warmup=20, schedule="cosine", weight_decay=1e-2, dataset_size=None))

PLACE = "seed", "batch_size", "dataset_size", "augment", "crop"  # what says which images a step sees


def train(model, data, steps, run_dir, seed=0, callbacks=(), *, batch_size=2, optimizer="muon", learning_rate=2e-2, warmup=20,
          schedule="cosine", weight_decay=1e-2, dataset_size=None, augment=False, crop=None, validation=None,
          keep="last", log_every=25):
    """Train a model in place, to the bit the same each time; the defaults are those of `FAST_TRAINING`.

    Called again with the same arguments, a run that was stopped resumes from its last checkpoint, with the weights that it had then,
    and ends as one that never stopped; of a finished run the weights are loaded into the model, and the history is returned.

    model : keras.Model, from `build_model`
    data : SceneConfig, new scenes of the split "train", drawn while training runs; or (images, masks), (N, H, W, C) uint8 and
        (N, H, W, K) bool, for example from `read_dataset`, gone through in random order
    steps, batch_size, seed : int, updates of the weights, scenes per step, seed of the scenes or of the order of the arrays
    run_dir : path from the repository's root, for run.json (all to repeat the run), history.csv, checkpoints and, last, model.keras
    callbacks : keras.callbacks.Callback objects; an epoch is `log_every` steps; a run that one stops is finished; in a run that resumes they start anew
    optimizer, weight_decay : "adam", "adamw" or "muon", and a float for the last two
    learning_rate, warmup, schedule : float, the highest rate; int, steps in which it rises to that; "constant" or "cosine", stay
        there or fall to 0 along half a cosine
    dataset_size, validation : int, go through so many scenes of the config again and again; (images, masks), scored after each epoch
    augment, crop : bool, int, change each image and its masks at random, and cut squares out of them, as `shapeseg.augment` does
    keep : "last", or "best", the weights of the epoch with the highest val_iou, also of a run that was killed and resumed
    log_every : int, steps between two rows of the history, and between two checkpoints

    Returns a pandas.DataFrame, one row per epoch: step, seconds, learning_rate, loss (binary cross-entropy in nats; softmax:
    categorical, its target shared by classes that overlap) and iou (mean over the classes, every fourth pixel of every fourth row)
    over its steps and, with `validation`, val_loss and val_iou. Raises ValueError if an argument is not as above or `run_dir` holds
    another or a damaged run; OSError if the disk is full; RuntimeError if another process trains there or the loss is not finite.
    """
    arguments = dict(steps=steps, seed=seed, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate, warmup=warmup,
                     schedule=schedule, weight_decay=weight_decay, dataset_size=dataset_size, augment=augment, crop=crop,
                     keep=keep, log_every=log_every)
    for name, min_ in dict(steps=1, log_every=1, warmup=0).items():
        expect(is_int(arguments[name], min_), name, f"an integer from {min_}", arguments[name])
    expect(optimizer in ("adam", "adamw", "muon"), "optimizer", '"adam", "adamw" or "muon"', optimizer)
    expect(schedule in ("constant", "cosine"), "schedule", '"constant" or "cosine"', schedule)
    expect(is_number(learning_rate) and learning_rate > 0, "learning_rate", "a number above 0", learning_rate)
    expect(is_number(weight_decay, 0), "weight_decay", "a number from 0", weight_decay)
    good = np.iterable(callbacks) and all(isinstance(one, keras.callbacks.Callback) for one in callbacks)
    expect(good, "callbacks", "a list of keras.callbacks.Callback", callbacks)
    setters = keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler
    expect(schedule == "constant" and not warmup or not any(isinstance(one, setters) for one in callbacks), "callbacks", "none that sets "
           "the learning rate, which follows a schedule", callbacks, 'schedule="constant", warmup=0')
    expect(keep == "last" or keep == "best" and validation is not None, "keep", '"last", or "best" with a validation', keep)
    check_model(model)
    classes = model.outputs[0].shape[-1] - (model.get_layer("masks").activation is keras.activations.softmax)
    wanted = model.input_shape[-1], classes
    data = data if isinstance(data, SceneConfig) else check_pair(data)
    stream(data, **{name: arguments[name] for name in PLACE})  # says what is wrong with these before anything is written
    validation = None if validation is None else check_pair(validation, "validation")
    for name, value in (("data", data), ("validation", validation or data)):
        given = (value.channels, len(value.classes)) if isinstance(value, SceneConfig) else tuple(array.shape[-1] for array in value)
        expect(given == wanted, name, f"image channels and classes {wanted}, those of the model", given, "build_model(channels=…, classes=…)")
    expect(len(model.outputs) == 1 or isinstance(data, SceneConfig) and validation is None, "data and validation", "a SceneConfig and "
           "None for a network with rays, which learns its objects from the figures", type(data).__name__, "build_model(rays=0)")
    expect(len(model.outputs) == 1 or not augment, "augment", "False for a network with rays", augment)
    run_dir = run_directory(run_dir)
    try:
        with filelock.FileLock(run_dir / ".lock", timeout=0), deterministic():
            describe_run(run_dir, model, data, validation, arguments)
            return _fit(model, classes, data, run_dir, callbacks, validation, arguments)
    except filelock.Timeout:
        raise RuntimeError(f"run_dir: another process is training in {run_dir}; wait for it, or give another run_dir") from None


def _fit(model, classes, data, run_dir, callbacks, validation, arguments):
    def loss(masks, p):  # of what went into the sigmoid: exact where that saturates
        return (binary_cross_entropy if classes == p.shape[-1] else softmax_cross_entropy)(masks, p._keras_logits)

    losses, steps, batch_size, patch = [loss], arguments["steps"], arguments["batch_size"], model.get_layer("fold").patch
    if len(model.outputs) > 1:
        from shapeseg.objects import centres_loss, outlines_loss, stream_targets
        losses += [centres_loss(patch, classes), outlines_loss(patch), binary_cross_entropy]
    trainer = keras.Model(model.inputs, model.outputs)
    trainer.compile(make_optimizer(**arguments), losses, loss_weights=[1.0, 0.06, 0.02, 1.0][:len(losses)], jit_compile=False,
                    metrics=[[MeanIoU(classes, name="iou")], [], [], []][:len(losses)])
    trainer.optimizer.build(trainer.trainable_variables)
    run = Checkpoints(trainer, run_dir, steps, arguments["keep"])
    if run.step and (run_dir / "model.keras").exists():
        print(f"{run_dir.name}: already finished at step {run.step} of {steps}")
        model.set_weights(load_model(run_dir / "model.keras").get_weights())
        return run.write_history()  # it may have been killed just before that
    if run.step:
        print(f"{run_dir.name}: resumes at step {run.step} of {steps}" + "; the callbacks start anew" * bool(callbacks))
    if run.step < steps:
        place = dict(start=run.step * batch_size, **{name: arguments[name] for name in PLACE})
        batches = iter(stream(data, **place)) if len(losses) == 1 else stream_targets(data, model, **place)
        with tqdm(total=steps, initial=run.step, desc="steps", mininterval=1) as bar:
            progress = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: (
                bar.set_postfix({name: f"{value:.3g}" for name, value in logs.items()}, refresh=False), bar.update()))
            # The stream has no end, because Keras would begin one more step to find it; `run` stops the training.
            trainer.fit(batches, steps_per_epoch=arguments["log_every"], initial_epoch=run.step // arguments["log_every"],
                        epochs=steps, shuffle=False, callbacks=[run, progress, *callbacks], validation_data=validation,
                        validation_batch_size=batch_size, verbose=0)
    if arguments["keep"] == "best":
        model.set_weights(load_model(run_dir / BEST).get_weights())
    save_model(model, run_dir / "model.keras")
    return run.write_history()


def softmax_cross_entropy(masks, logits):
    """Categorical cross-entropy; classes that overlap share a pixel, the background has the rest."""
    masks = tf.cast(masks, logits.dtype)
    count = tf.reduce_sum(masks, -1, keepdims=True)
    target = tf.concat([masks / tf.maximum(count, 1), tf.cast(count == 0, masks.dtype)], -1)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))


@tf.custom_gradient
def binary_cross_entropy(masks, logits):
    """Mean of −log p where the mask is 1 and of −log(1 − p) where it is 0; p is the sigmoid of the logit.

    Its gradient is p − mask; written out it takes a few passes over the memory, not twenty.
    """
    masks = tf.cast(masks, logits.dtype)
    share = 1 / tf.cast(tf.size(logits), logits.dtype)
    value = share * (tf.reduce_sum(tf.nn.softplus(logits)) - tf.reduce_sum(logits * masks))
    return value, lambda upstream: (None, upstream * share * (tf.sigmoid(logits) - masks))


class MeanIoU(keras.metrics.Metric):
    """Mean over the classes, on every fourth pixel of every fourth row: enough for a curve."""

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.intersection, self.union = (self.add_weight((classes,), "zeros", name=name) for name in ("intersection", "union"))

    def update_state(self, masks, probabilities, sample_weight=None):
        logits, masks = probabilities._keras_logits[:, ::4, ::4], tf.cast(masks[:, ::4, ::4], bool)  # the rest is not computed then
        predicted = logits > 0 if logits.shape[-1] == self.classes else tf.nn.softmax(logits)[..., :self.classes] > 0.5
        self.intersection.assign_add(tf.reduce_sum(tf.cast(predicted & masks, tf.float32), (0, 1, 2)))
        self.union.assign_add(tf.reduce_sum(tf.cast(predicted | masks, tf.float32), (0, 1, 2)))

    def result(self):
        seen = tf.math.count_nonzero(self.union, dtype=tf.float32)  # a class that occurs nowhere has no IoU
        return tf.reduce_sum(self.intersection / tf.maximum(self.union, 1)) / tf.maximum(seen, 1)


class Muon(keras.optimizers.Muon):
    """Muon for convolutions: a kernel is seen as a matrix, (height · width · inputs, outputs).

    The head and all that is no kernel are left to AdamW (Jordan et al. 2024; the scale of the update: Liu et al. 2025).
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4 or "head" in variable.path

    def zeropower_via_newtonschulz5(self, x, steps):
        """Keras' iteration, carried out on the small Gram matrix: a polynomial of it turns x."""
        matrix = tf.reshape(x, (-1, x.shape[-1]))
        matrix /= tf.norm(matrix) + 1e-7
        gram, turn = tf.matmul(matrix, matrix, transpose_a=True), None
        for n in range(steps):
            factor = self.muon_a * tf.eye(x.shape[-1]) + self.muon_b * gram + self.muon_c * gram @ gram
            turn = factor if turn is None else turn @ factor
            if n < steps - 1:
                gram = factor @ gram @ factor
        return tf.reshape(matrix @ turn, x.shape)

    def lr_adjust(self, x):
        rows, columns = np.prod(x.shape[:-1]), x.shape[-1]
        return x * (self.rms_rate * max(rows, columns) ** 0.5)


def make_optimizer(optimizer, learning_rate, warmup, schedule, weight_decay, steps, **_):
    if schedule == "cosine" or warmup:
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else learning_rate, max(1, steps - warmup), alpha=float(schedule == "constant"),
            warmup_target=learning_rate if warmup else None, warmup_steps=warmup)
    if optimizer == "muon":
        return Muon(learning_rate, weight_decay=weight_decay, adam_weight_decay=weight_decay)
    return keras.optimizers.AdamW(learning_rate, weight_decay) if optimizer == "adamw" else keras.optimizers.Adam(learning_rate)
