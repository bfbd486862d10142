import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import shapeseg as ss
from shapeseg.backend import keras, tf
from shapeseg.training import CHECKPOINTS
from test_models import SMALL

QUICK = dict(batch_size=2, learning_rate=0.02, warmup=2, every=2)
NETWORK = dict(SMALL, dropout=0.2)  # with dropout, so that its random state has to be kept, too


class StopAfter(keras.callbacks.Callback):
    """Stop a run the hard way, right after a checkpoint or between two."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def weights_of(run_dir):
    return ss.load_model(run_dir / "model.keras").get_weights()


def equal(a, b):
    return all((x == y).all() for x, y in zip(a, b, strict=True))


def test_a_stopped_run_goes_on_to_the_same_weights(small, tmp_path):
    history = ss.train(ss.build_model(**NETWORK), small, 7, tmp_path / "whole", **QUICK)
    with pytest.raises(KeyboardInterrupt):
        ss.train(ss.build_model(**NETWORK), small, 7, tmp_path / "stopped", callbacks=[StopAfter(1)], **QUICK)
    resumed = ss.train(ss.build_model(**NETWORK), small, 7, tmp_path / "stopped", **QUICK)
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
    assert history.drop(columns="seconds").equals(resumed.drop(columns="seconds"))
    assert history.step.tolist() == [2, 4, 6, 7]


@pytest.mark.parametrize("epoch", [0, 1])  # in the first steps; after the last checkpoint
def test_the_same_cell_again_after_an_interrupt(small, tmp_path, epoch):
    ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "whole", **QUICK)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            if epoch == 0:
                model.layers[-5].set_weights([weight + 1 for weight in model.layers[-5].get_weights()])
                raise KeyboardInterrupt

    model = ss.build_model(**NETWORK)
    with pytest.raises(KeyboardInterrupt):
        ss.train(model, small, 4, tmp_path / "stopped", callbacks=[Interrupt(), StopAfter(1)], **QUICK)
    assert not (tmp_path / "stopped/model.keras").exists()
    ss.train(model, small, 4, tmp_path / "stopped", **QUICK)
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))


@pytest.mark.parametrize("name", ["run.json", "checkpoints"])
@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:len(whole) // 2], lambda whole: b"[]"])
def test_a_damaged_run_is_named(small, tmp_path, name, spoil):
    ss.train(ss.build_model(**NETWORK), small, 4, tmp_path, **QUICK)
    for path in [tmp_path / name] if name == "run.json" else [tmp_path / name for name in CHECKPOINTS]:
        path.write_bytes(spoil(path.read_bytes()))
    model = ss.build_model(**NETWORK, seed=1)
    weights = model.get_weights()
    with pytest.raises(ValueError, match="delete .* and train again"):
        ss.train(model, small, 4, tmp_path, **QUICK)
    assert equal(model.get_weights(), weights)


def test_a_run_without_checkpoints_begins_anew_and_a_lost_history_is_written_again(small, tmp_path):
    history = ss.train(ss.build_model(**NETWORK), small, 4, tmp_path, **QUICK)
    (tmp_path / "history.csv").unlink()
    assert ss.train(ss.build_model(**NETWORK), small, 4, tmp_path, **QUICK).equals(history)
    assert np.allclose(pd.read_csv(tmp_path / "history.csv"), history)
    for name in CHECKPOINTS:
        (tmp_path / name).unlink()
    again = ss.train(ss.build_model(**NETWORK), small, 4, tmp_path, **QUICK)
    assert again.drop(columns="seconds").equals(history.drop(columns="seconds"))


def test_a_row_of_the_history_is_the_mean_over_its_steps(small, tmp_path):
    single, three = (ss.train(ss.build_model(**NETWORK), small, 6, tmp_path / str(every), **{**QUICK, "every": every})
                     for every in (1, 3))
    assert np.allclose(three.loss, single.loss.to_numpy().reshape(2, 3).mean(axis=1))


def test_numbers_of_numpy_and_lists_of_arrays_are_welcome(small, tmp_path):
    model = ss.build_model(classes=np.int64(5), widths=(np.int32(8),), blocks=1)
    data = [list(arrays) for arrays in ss.draw_scenes(small, np.int64(0), np.arange(2))]
    ss.train(model, data, np.int64(2), tmp_path, seed=np.uint32(1), batch_size=np.int8(2), weight_decay=np.float32(0.1),
             validation=data)
    assert len(ss.train(model, data, 2, tmp_path, seed=1, batch_size=2, weight_decay=np.float32(0.1), validation=data)) == 1


def test_a_finished_run_is_returned(small, tmp_path, capsys):
    history = ss.train(ss.build_model(**NETWORK), small, 4, tmp_path, **QUICK)
    model = ss.build_model(**NETWORK, seed=9)
    again = ss.train(model, small, 4, tmp_path, **QUICK)
    assert "already finished at step 4 of 4" in capsys.readouterr().out
    assert again.equals(history) and equal(model.get_weights(), weights_of(tmp_path))


def test_training_repeats_itself_in_another_process(small, tmp_path):
    code = f"""
import shapeseg as ss
config = ss.SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))
ss.train(ss.build_model(**{NETWORK!r}), config, 4, {str(tmp_path / 'other')!r}, **{QUICK!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "here", **QUICK)
    assert equal(weights_of(tmp_path / "here"), weights_of(tmp_path / "other"))


def test_a_run_directory_says_all_that_is_needed(small, tmp_path):
    ss.train(ss.build_model(**NETWORK), small, 2, tmp_path, seed=3, **QUICK)
    run = json.loads((tmp_path / "run.json").read_text())
    assert ss.SceneConfig(**run["data"]) == small
    assert run["arguments"]["seed"] == 3 and run["arguments"]["learning_rate"] == 0.02
    assert {"python", "tensorflow", "keras", "numpy", "shapeseg"} <= set(run["versions"])
    assert {"loss", "iou", "learning_rate", "step", "seconds"} <= set(pd.read_csv(tmp_path / "history.csv"))


@pytest.mark.parametrize("change, named", [
    (dict(seed=1), "seed \\(was 0, now 1\\)"), (dict(steps=6), "steps"), (dict(learning_rate=0.1), "learning_rate"),
    (dict(data="noisy"), "data"), (dict(model=dict(NETWORK, skip="add")), "model"),
])
def test_other_arguments_in_the_same_directory(small, tmp_path, change, named):
    ss.train(ss.build_model(**NETWORK), small, 2, tmp_path, **QUICK)
    arguments = dict(steps=2, **QUICK) | change
    config = replace(small, noise=5.0) if arguments.pop("data", None) else small
    model = ss.build_model(**arguments.pop("model", NETWORK))
    with pytest.raises(ValueError, match=f"holds a run with other arguments: .*{named}"):
        ss.train(model, config, run_dir=tmp_path, **arguments)


def test_one_process_a_run_directory(small, tmp_path):
    import filelock

    with filelock.FileLock(tmp_path / ".lock"):
        with pytest.raises(RuntimeError, match="another process is training"):
            ss.train(ss.build_model(**NETWORK), small, 2, tmp_path, **QUICK)


def test_a_relative_run_directory_counts_from_the_repository(monkeypatch, tmp_path):
    from shapeseg.files import ROOT

    monkeypatch.chdir(tmp_path)
    assert ss.run_directory("runs") == ROOT / "runs"
    with pytest.raises(ValueError, match="run_dir: expected the path of a directory, got ''"):
        ss.run_directory("")
    with pytest.raises(ValueError, match="run_dir: expected a path"):
        ss.run_directory(np.zeros(2))
    assert ss.run_directory(tmp_path / "there") == tmp_path / "there"


def test_a_step_of_the_training_is_keras_own_on_the_stream_of_the_training_split(small, tmp_path):
    arguments = dict(steps=5, batch_size=2, optimizer="adam", learning_rate=0.01, weight_decay=None)
    trained = ss.build_model(**SMALL)
    history = ss.train(trained, small, run_dir=tmp_path, warmup=2, schedule="cosine", every=1, **arguments)
    rates = [0.0, 0.005] + [0.005 * (1 + np.cos(np.pi * n / 3)) for n in range(3)]  # of each step
    by_hand = ss.build_model(**SMALL)
    logits = keras.Model(by_hand.input, by_hand.get_layer("logits").output)
    adam = keras.optimizers.Adam(0.01)
    for rate, loss, (images, masks) in zip(rates, history.loss, ss.stream(small, 0, 2, count=10, split="train")):
        with tf.GradientTape() as tape:
            z = logits(images, training=True)
            mean = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(masks, tf.float32), z))
        assert mean.numpy() == pytest.approx(loss, rel=1e-4)
        adam.learning_rate = rate
        adam.apply(tape.gradient(mean, logits.trainable_variables), logits.trainable_variables)
    assert np.allclose(ss.predict(by_hand, images), ss.predict(trained, images), atol=1e-3)
    assert np.allclose(history.learning_rate, rates[1:] + [0], atol=1e-6)  # of the step that comes next


@pytest.mark.parametrize("warmup, schedule, expected", [
    (0, "constant", [0.01] * 4), (4, "constant", [0.005, 0.01, 0.01, 0.01]), (0, "cosine", [0.0085, 0.005, 0.0015, 0])])
def test_schedules(small, tmp_path, warmup, schedule, expected):
    history = ss.train(ss.build_model(**SMALL), small, 8, tmp_path, batch_size=1, optimizer="adam",
                       learning_rate=0.01, warmup=warmup, schedule=schedule, every=2)
    assert np.allclose(history.learning_rate, expected, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_makes_weights_smaller(small, tmp_path, optimizer):
    norms = []
    for decay in (0.0, 20.0):
        model = ss.build_model(**SMALL)
        ss.train(model, small, 4, tmp_path / str(decay), batch_size=1, optimizer=optimizer, learning_rate=0.01,
                 warmup=0, schedule="constant", weight_decay=decay)
        norms.append(np.linalg.norm(model.get_layer("encoder1_conv7").get_weights()[0]))
    assert norms[1] < 0.8 * norms[0]


@pytest.mark.parametrize("softmax", [False, True])
def test_the_iou_of_training_is_the_iou_of_the_metrics_since_it_was_reset(softmax):
    from shapeseg.training import MeanIoU

    rng = np.random.RandomState(0)
    metric = MeanIoU(3, softmax)
    for _ in range(2):
        metric.reset_state()
        masks, logits = rng.rand(2, 8, 8, 3) < 0.3, rng.randn(2, 8, 8, 3 + softmax).astype("float32")
        masks, logits = (x.repeat(4, 1).repeat(4, 2) for x in (masks, logits))  # it looks at every fourth pixel
        metric.update_state(masks, logits)
    masks[..., 0], logits[..., 0] = False, -9  # a class that occurs nowhere does not count
    metric.reset_state()
    metric.update_state(masks, logits)
    p = tf.nn.softmax(logits)[..., :-1] if softmax else tf.sigmoid(logits)
    assert metric.result().numpy() == pytest.approx(np.nanmean(ss.iou(p.numpy() > 0.5, masks)), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_each_optimizer_learns(small, tmp_path, optimizer):
    rate = 0.02 if optimizer == "muon" else 0.005
    history = ss.train(ss.build_model(**dict(SMALL, widths=(16, 32))), small, 40, tmp_path, batch_size=4, repeat=4,
                       optimizer=optimizer, learning_rate=rate, warmup=0, schedule="constant", every=10)
    assert history.loss.iloc[-1] < 0.6 * history.loss.iloc[0]


@pytest.mark.parametrize("name", ["colour", "single"])
def test_colour_and_single_scenes_become_a_trained_model(tmp_path, name):
    config = replace(ss.SCENE_CONFIGS[name], size=64, radius=(0.15, 0.3))
    keywords = dict(SMALL, channels=config.channels, classes=len(config.classes))
    model = ss.build_model(**keywords)
    validation = ss.draw_scenes(config, 0, range(4), "validation")
    history = ss.train(model, config, 60, tmp_path, validation=validation, batch_size=8, learning_rate=0.02, every=20)
    assert history.val_loss.iloc[-1] < history.val_loss.iloc[0]
    table = ss.evaluate(model, ss.stream(config, count=16, split="test"), classes=config.classes)
    assert table.loc["mean", "bce"] < 0.3


def test_arrays_of_a_folder_train(small, tmp_path):
    ss.write_dataset(tmp_path / "set", small, count=4)
    data = ss.read_dataset(tmp_path / "set")
    history = ss.train(ss.build_model(**SMALL), data, 4, tmp_path / "run", **QUICK)
    assert len(history) == 2
    with pytest.raises(ValueError, match="other arguments: data"):
        ss.train(ss.build_model(**SMALL), (data[0][::-1], data[1]), 4, tmp_path / "run", **QUICK)


def test_softmax_trains(small, tmp_path):
    history = ss.train(ss.build_model(**SMALL, output="softmax"), small, 20, tmp_path, repeat=4,
                       **dict(QUICK, batch_size=4, every=5))
    assert history.loss.iloc[-1] < history.loss.iloc[0]


def test_shared_targets_of_overlapping_classes():
    from shapeseg.training import shared_cross_entropy

    masks = tf.constant([[True, True], [True, False], [False, False]])
    target = np.array([[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]])  # the last channel is the background
    logits = np.random.RandomState(0).randn(3, 3).astype("float32")
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert np.allclose(shared_cross_entropy(masks, logits), -(target * log_p).sum(axis=-1), atol=1e-5)


def test_binary_cross_entropy_is_keras_own_with_its_slope():
    from shapeseg.training import binary_cross_entropy

    rng = np.random.RandomState(0)
    masks, logits = tf.constant(rng.rand(2, 4, 4, 3) < 0.3), tf.constant(20 * rng.randn(2, 4, 4, 3).astype("float32"))
    values, slopes = [], []
    for loss in (binary_cross_entropy, keras.losses.BinaryCrossentropy(from_logits=True)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = 3 * loss(masks, logits)
        values.append(value.numpy())
        slopes.append(tape.gradient(value, logits).numpy())
    assert values[0] == pytest.approx(values[1], rel=1e-5) and np.allclose(*slopes, atol=1e-6)


def test_muon_steps_are_orthogonal_matrices():
    """All singular values of a kernel's update are about equal, but not the head's."""
    from shapeseg.training import Muon

    kernel = keras.Variable(np.zeros((3, 3, 8, 16), "float32"), name="kernel")
    optimizer = Muon(1.0, weight_decay=None)
    optimizer.build([kernel])
    gradient = tf.constant(np.random.RandomState(0).randn(3, 3, 8, 16).astype("float32"))
    optimizer.apply([gradient])
    values = np.linalg.svd(kernel.numpy().reshape(72, 16), compute_uv=False)
    assert values.max() / values.min() < 2
    assert np.sqrt(np.mean(kernel.numpy() ** 2)) == pytest.approx(0.2, rel=0.2)
    ours = optimizer.zeropower_via_newtonschulz5(gradient, 5)
    keras_own = super(Muon, optimizer).zeropower_via_newtonschulz5(tf.reshape(gradient, (72, 16)), 5)
    assert np.allclose(tf.reshape(ours, (72, 16)), keras_own, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 30])
def test_a_loss_or_weights_that_are_no_numbers_stop_the_run(small, tmp_path, steps):
    with pytest.raises(RuntimeError, match="loss: .* lower the learning rate"):
        ss.train(ss.build_model(**SMALL), small, steps, tmp_path, batch_size=2, optimizer="adam", learning_rate=1e39,
                 warmup=0, schedule="constant", every=5)
    assert not (tmp_path / "model.keras").exists()


def test_wrong_arguments(small, tmp_path):
    model = ss.build_model(**SMALL)
    images, masks = ss.draw_scenes(small, 0, range(2))
    for data, wrong, words in [
        (small, dict(steps=0), "steps: expected a whole number from 1 to 2147483647, got 0"),
        (small, dict(steps=2.5), "steps: "), (small, dict(steps="5"), "steps: "), (small, dict(batch_size=0), "batch_size: "),
        (small, dict(learning_rate=float("nan")), "learning_rate: "), (small, dict(learning_rate="0.1"), "learning_rate: "),
        (small, dict(optimizer="sgd"), "optimizer: "), (small, dict(schedule="step"), "schedule: "),
        (small, dict(warmup=-1), "warmup: "), (small, dict(weight_decay=-1), "weight_decay: "),
        (small, dict(repeat=0), "repeat: "), (small, dict(callbacks=None), "callbacks: "), (small, dict(seed=2**32), "seed: "),
        (small, dict(every=0), "every: "), (small, dict(seed=-1), "seed: "),
        (small, dict(validation=images), "validation: expected two arrays"),
        (replace(small, channels=3), {}, "data: expected 1 image channels and 5 classes, .* got 3 and 5"),
        ((images, masks[..., :2]), {}, "data: .* got 1 and 2"), ("folder", {}, "data: expected a SceneConfig or two arrays"),
        ((images.astype("float32"), masks), {}, "images: expected"),
        ((images, masks.astype("float32")), {}, "masks: expected"),
    ]:
        with pytest.raises(ValueError, match=words):
            ss.train(model, data, **dict(dict(steps=2, run_dir=tmp_path / "run"), **wrong))
    assert not (tmp_path / "run").exists()


TWO_DEVICES = """
import sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import shapeseg as ss

scenes = ss.SceneConfig(size=96)
validation = ss.draw_scenes(scenes, 0, range(4), split="validation")
histories = []
for name, strategy in ("one", tf.distribute.get_strategy()), ("two", tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        model = ss.build_model(**ss.FAST_MODEL | dict(widths=(8, 8, 8)))
    histories.append(ss.train(model, scenes, 8, f"{sys.argv[1]}/{name}", every=1, validation=validation,
                              **ss.FAST_TRAINING | dict(batch_size=4)))
again = ss.train(model, scenes, 8, f"{sys.argv[1]}/two", every=1, validation=validation,
                 **ss.FAST_TRAINING | dict(batch_size=4))
assert again.equals(histories[1].assign(seconds=again.seconds))
loaded = ss.load_model(f"{sys.argv[1]}/two/model.keras")
assert (ss.predict(loaded, validation[0]) == ss.predict(model, validation[0])).all()
one, two = (history.drop(columns="seconds") for history in histories)
assert one.loss.iloc[-1] != one.loss.iloc[0]
np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
try:
    ss.train(model, scenes, 8, f"{sys.argv[1]}/odd", **ss.FAST_TRAINING | dict(batch_size=3))
except ValueError as error:
    assert "batch_size: expected a multiple of 2, the number of the model's devices, got 3" in str(error)
else:
    raise AssertionError("three scenes for two devices")
"""


def test_two_devices_learn_what_one_learns(tmp_path):
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
