"""Train a model: loss, optimizer, schedule, and a run that can be stopped and resumed."""

from types import MappingProxyType

import filelock
import numpy as np
from tqdm import tqdm

from shapeseg.backend import deterministic, keras, ops, tf
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


def train(model, data, steps, run_dir, seed=0, callbacks=(), *, batch_size=None, optimizer="muon", learning_rate=2e-2, warmup=20,
          schedule="cosine", weight_decay=1e-2, dataset_size=None, augment=None, crop=None, validation=None, keep=None,
          log_every=25):
    """Train a model in place, to the bit the same each time; the defaults are those of `FAST_TRAINING`.

    Called again with the same arguments, a run that was stopped resumes from its last checkpoint, with the weights that it had then,
    and ends as one that never stopped; of a finished run the weights are loaded into the model, and the history is returned.

    model : keras.Model, from `build_model`
    data : SceneConfig, for new scenes of the split "train", drawn while training runs; or (images, masks), (N, H, W, C) uint8 and
        (N, H, W, K) bool or lists of such, for example from `read_dataset`, gone through in random order
    steps, log_every : int, updates of the weights; those of an epoch, after which a row of the history and a checkpoint are written
    run_dir : path from the repository's root, for run.json (all to repeat the run), history.csv, checkpoints and, last, model.keras
    seed, dataset_size : int, of the scenes or of the order of the arrays; go through so many scenes of the config again and again
    callbacks : Keras' own; a run that one stops is finished; in a run that resumes they start anew
    batch_size : int, images per step; None: 2, or of crops as many as have the pixels of two scenes of 512 × 512
    optimizer, weight_decay : "adam", "adamw" or "muon", and a float for the last two
    learning_rate, warmup, schedule : float, the highest rate; int, steps in which it rises to that; "constant" or "cosine", stay
        there or fall to 0 along half a cosine
    augment, crop : bool, int, change each image and its masks at random, and cut squares out of them, as `shapeseg.augment` does;
        None: of images of your own, which are few, True and 256 pixels or their smallest side; crop=0 leaves them whole
    validation, keep : (images, masks), scored by `evaluate` after each epoch; "last" or "best", the weights of the epoch with the
        highest val_iou; None: the best, if there are images of your own and a validation

    Returns a pandas.DataFrame, one row per epoch: step, seconds, learning_rate, loss (binary cross-entropy in nats; softmax:
    categorical, its target shared by classes that overlap) and iou (mean over the classes, every fourth pixel of every fourth row)
    over its steps and, with `validation`, val_loss and val_iou, its bce and iou. Raises ValueError if an argument is not as above or `run_dir` holds
    another run; RuntimeError if another process trains there or the loss is not finite.
    """
    own, validation = not isinstance(data, SceneConfig), None if validation is None else check_pair(validation, "validation")
    data = check_pair(data) if own else data
    augment = own if augment is None else augment
    if own and augment and crop is None:
        crop = min(256, *(min(image.shape[:2]) for image in data[0]))
    keep = keep or ("best" if own and validation else "last")
    batch_size = (max(1, 2 * 512**2 // crop**2) if crop else 2) if batch_size is None else batch_size
    place = dict(seed=seed, batch_size=batch_size, dataset_size=dataset_size, augment=augment, crop=crop or None)
    arguments = dict(steps=steps, **place, optimizer=optimizer, learning_rate=learning_rate, warmup=warmup, schedule=schedule,
                     weight_decay=weight_decay, keep=keep, log_every=log_every)
    stream(data, **place)  # says what is wrong with them before anything is written
    for name, min_ in dict(steps=1, log_every=1, warmup=0).items():
        expect(is_int(arguments[name], min_), name, f"an integer from {min_}", arguments[name])
    expect(is_number(learning_rate) and learning_rate > 0, "learning_rate", "a number above 0", learning_rate)
    for name, choices in dict(optimizer=("adam", "adamw", "muon"), schedule=("constant", "cosine"), keep=("last", "best")).items():
        expect(arguments[name] in choices, name, f"one of {choices}", arguments[name])
    expect(keep == "last" or validation, "keep", '"last", or "best" beside a validation', keep)
    check_model(model)
    classes = model.outputs[0].shape[-1] - (model.get_layer("masks").activation is keras.activations.softmax)
    wanted = model.input_shape[-1], classes
    for name, value in (("data", data), ("validation", validation or data)):
        given = (value.channels, len(value.classes)) if value is data and not own else tuple(part[0].shape[-1] for part in value)
        expect(given == wanted, name, f"image channels and classes {wanted}, those of the model", given, "build_model(channels=…, classes=…)")
    expect(len(model.outputs) == 1 or not (own or validation or augment), "data", "a SceneConfig alone for a network with rays, "
           "which learns objects from its figures", f"{type(data).__name__}, a validation or augment", "build_model(rays=0)")
    run_dir = run_directory(run_dir)
    try:
        with filelock.FileLock(run_dir / ".lock", timeout=0), deterministic():
            describe_run(run_dir, model, data, validation, arguments)
            return _fit(model, classes, data, place, run_dir, callbacks, validation, arguments)
    except filelock.Timeout:
        raise RuntimeError(f"run_dir: another process is training in {run_dir}; wait for it, or give another run_dir") from None


def _fit(model, classes, data, place, run_dir, callbacks, validation, arguments):
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
    run = Checkpoints(trainer, run_dir, steps, arguments["keep"], validation)
    if run.step and (run_dir / "model.keras").exists():
        print(f"{run_dir.name}: already finished at step {run.step} of {steps}")
        model.set_weights(load_model(run_dir / "model.keras").get_weights())
        return run.write_history()  # it may have been killed just before that
    if run.step:
        print(f"{run_dir.name}: resumes at step {run.step} of {steps}" + "; the callbacks start anew" * bool(callbacks))
    if run.step < steps:
        place["start"] = run.step * batch_size
        batches = iter(stream(data, **place)) if len(losses) == 1 else stream_targets(data, model, **place)
        with tqdm(total=steps, initial=run.step, desc="steps", mininterval=1) as bar:
            progress = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: (
                bar.set_postfix({name: f"{value:.3g}" for name, value in logs.items()}, refresh=False), bar.update()))
            # The stream has no end, because Keras would begin one more step to find it; `run` stops the training.
            trainer.fit(batches, steps_per_epoch=arguments["log_every"], initial_epoch=run.step // arguments["log_every"],
                        epochs=steps, shuffle=False, callbacks=[run, progress, *callbacks], verbose=0)
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


@ops.custom_gradient
def binary_cross_entropy(masks, logits):
    """Mean of −log p where the mask is 1, −log(1 − p) where it is 0; written out, its gradient takes few passes, not twenty."""
    masks = ops.cast(masks, logits.dtype)
    share = 1 / ops.cast(ops.size(logits), logits.dtype)
    value = share * (ops.sum(ops.softplus(logits)) - ops.sum(logits * masks))
    return value, lambda upstream: (None, upstream * share * (ops.sigmoid(logits) - masks))


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
    """Muon (Jordan et al. 2024, Liu et al. 2025) of kernels as matrices, (height · width · inputs, outputs); AdamW of the rest."""

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4 or "head" in variable.path

    def zeropower_via_newtonschulz5(self, x, steps):
        """Keras' iteration, carried out on the small Gram matrix: a polynomial of it turns x."""
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        matrix /= ops.norm(matrix) + 1e-7
        gram, turn = ops.transpose(matrix) @ matrix, None
        for n in range(steps):
            factor = self.muon_a * ops.eye(x.shape[-1]) + self.muon_b * gram + self.muon_c * gram @ gram
            turn = factor if turn is None else turn @ factor
            if n < steps - 1:
                gram = factor @ gram @ factor
        return ops.reshape(matrix @ turn, x.shape)

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
