import inspect
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import shapeseg as ss
from conftest import CONFIG, NETWORK, QUICK, SMALL, equal, run_code, weights_of
from shapeseg.backend import config as tf_config
from shapeseg.backend import deterministic, keras, tf
from shapeseg.training import Muon, binary_cross_entropy, softmax_cross_entropy
from test_checkpoints import interrupt

MASKS = ss.draw_scenes(CONFIG, 0, range(4))
PLAIN = NETWORK | dict(widths=(8,), skip="none", patch=1, activation="relu", dropout=0.0)


@pytest.mark.parametrize("rays, expected, size", [
    (0, dict(loss=[0.1118433, 0.1099204, 0.0970149], iou=[0, 0.0032051, 0]),
     17.09063),
    (8, dict(loss=[1.3785077, 1.1354795, 1.0692655], masks_loss=[0.1118433, 0.1118804, 0.0972280],
             centres_loss=[16.4155560, 12.5775108, 11.2171402], outlines_loss=[4.4033737, 3.4150996, 3.4235475],
             edges_loss=[0.1936635, 0.2006464, 0.2305382]), None)])
def test_the_first_steps_are_those_of_every_version_before(tmp_path, rays, expected, size):
    model = ss.build_model(**NETWORK, rays=rays)
    history = ss.train(model, CONFIG, 6, tmp_path, **QUICK)
    for name, values in expected.items():
        assert np.allclose(history[name], values, rtol=1e-4, atol=1e-6), name
    assert size is None or np.isclose(sum(np.abs(weight).mean() for weight in model.get_weights()), size, rtol=1e-4)


def test_a_step_is_keras_own_on_the_stream_of_the_training_split(tmp_path):
    arguments = dict(steps=5, batch_size=2, optimizer="adam", learning_rate=0.01, weight_decay=0.0)
    trained = ss.build_model(**PLAIN)
    history = ss.train(trained, CONFIG, run_dir=tmp_path, warmup=2, schedule="cosine", log_every=1, **arguments)
    rates = [0.0, 0.005] + [0.005 * (1 + np.cos(np.pi * n / 3)) for n in range(3)]  # of each step
    by_hand = ss.build_model(**PLAIN)
    logits = keras.Model(by_hand.input, by_hand.get_layer("logits").output)
    adam = keras.optimizers.Adam(0.01)
    for rate, loss, (images, masks) in zip(rates, history.loss, ss.stream(CONFIG, 0, 2, count=10, split="train")):
        with tf.GradientTape() as tape:
            z = logits(images, training=True)
            mean = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(masks, tf.float32), z))
        assert mean.numpy() == pytest.approx(loss, rel=1e-4)
        adam.learning_rate = rate
        adam.apply(tape.gradient(mean, logits.trainable_variables), logits.trainable_variables)
    assert np.allclose(ss.predict(by_hand, images), ss.predict(trained, images), atol=1e-3)
    assert np.allclose(history.learning_rate, rates[1:] + [0], atol=1e-6)  # of the step that comes next


def test_muon_moves_a_kernel_by_an_orthogonal_matrix():
    kernel, optimizer = keras.Variable(np.zeros((3, 3, 8, 16), "float32"), name="kernel"), Muon(1.0, weight_decay=None)
    optimizer.build([kernel])
    gradient = tf.constant(np.random.RandomState(0).randn(3, 3, 8, 16).astype("float32"))
    optimizer.apply([gradient])
    values = np.linalg.svd(kernel.numpy().reshape(72, 16), compute_uv=False)
    assert values.max() / values.min() < 2
    assert np.sqrt(np.mean(kernel.numpy() ** 2)) == pytest.approx(0.2, rel=0.2)
    ours = optimizer.zeropower_via_newtonschulz5(gradient, 5)
    keras_own = super(Muon, optimizer).zeropower_via_newtonschulz5(tf.reshape(gradient, (72, 16)), 5)
    assert np.allclose(tf.reshape(ours, (72, 16)), keras_own, atol=1e-4)


def test_the_loss_is_keras_own_with_its_gradient():
    rng = np.random.RandomState(0)
    masks, logits = tf.constant(rng.rand(2, 4, 4, 3) < 0.3), tf.Variable(20 * rng.randn(2, 4, 4, 3).astype("float32"))
    with tf.GradientTape(persistent=True) as tape:
        values = [3 * loss(masks, logits) for loss in (binary_cross_entropy, keras.losses.BinaryCrossentropy(from_logits=True))]
    assert np.allclose(*values, rtol=1e-5) and np.allclose(*(tape.gradient(value, logits) for value in values), atol=1e-6)
    share = masks[..., :2].numpy() / np.maximum(masks[..., :2].numpy().sum(-1, keepdims=True), 1)  # of classes that overlap
    target = np.concatenate([share, 1 - share.sum(-1, keepdims=True)], -1)  # the background has the rest
    expected = keras.losses.CategoricalCrossentropy(from_logits=True)(target, logits)
    assert softmax_cross_entropy(masks[..., :2], logits).numpy() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("output, recipe", [
    ("sigmoid", dict(optimizer="muon", learning_rate=0.02)), ("sigmoid", dict(optimizer="adamw", learning_rate=0.01)),
    ("softmax", ss.ARTICLE_TRAINING | dict(learning_rate=0.01))], ids=["muon", "adamw", "article and softmax"])
def test_a_network_learns_and_the_history_says_how_well(tmp_path, output, recipe):
    model = ss.build_model(**NETWORK | dict(widths=(16, 16), dropout=0.0), output=output)
    history = ss.train(model, CONFIG, 45, tmp_path, validation=MASKS, log_every=15,
                       **recipe | dict(batch_size=4, warmup=2, schedule="constant", dataset_size=4))
    assert history.step.tolist() == [15, 30, 45] and (history.seconds.diff().dropna() >= 0).all()
    assert history.loss.iloc[-1] < 0.7 * history.loss.iloc[0] and history.iou.iloc[-1] > 0.1
    assert np.allclose(pd.read_csv(tmp_path / "history.csv"), history)
    mean = ss.evaluate(model, [MASKS]).loc["mean"]
    assert history.val_iou.iloc[-1] == mean.iou and history.val_loss.iloc[-1] == mean.bce


@pytest.mark.parametrize("name", ["colour", "single"])
def test_colour_and_one_class_and_a_folder_of_files_train(tmp_path, name):
    config = replace(ss.SCENE_CONFIGS[name], size=64, radius=(0.15, 0.3))
    folder = ss.write_dataset(tmp_path / "set", config, count=4)
    model = ss.build_model(**NETWORK | dict(channels=config.channels, classes=len(config.classes)))
    data = [list(arrays) for arrays in ss.read_dataset(folder, config.classes)]  # lists of arrays, NumPy's numbers
    history = ss.train(model, data, np.int64(30), tmp_path / "run", seed=np.uint32(1), **QUICK | dict(log_every=np.int8(10)))
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert ss.evaluate(model, [data], classes=config.classes).loc["mean", "bce"] < 0.5
    with pytest.raises(ValueError, match="^run_dir: .*data"):
        ss.train(model, (data[0][::-1], data[1]), 30, tmp_path / "run", seed=1, **QUICK | dict(log_every=10))


class Recorder(keras.callbacks.Callback):
    """What a callback sees."""
    batches, epochs = 0, ()
    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
    def on_epoch_end(self, epoch, logs=None):
        self.epochs = (*self.epochs, (epoch, {"loss", "iou"} <= set(logs)))
        self.deterministic, self.p = tf_config.is_op_determinism_enabled(), ss.predict(self.model, MASKS[0])


def test_callbacks_are_keras_own(trained, tmp_path):
    recorder, path = Recorder(), tmp_path / "kept.keras"
    model = ss.build_model(**NETWORK)
    ss.train(model, CONFIG, 4, tmp_path / "run", callbacks=[recorder, keras.callbacks.ModelCheckpoint(path)], **QUICK)
    assert recorder.batches == 4 and recorder.epochs == ((0, True), (1, True)) and recorder.deterministic
    p = ss.predict(model, MASKS[0])
    assert (recorder.p == p).all() and (ss.predict(ss.load_model(path), MASKS[0]) == p).all()
    assert equal(model.get_weights(), trained.model.get_weights())  # they only looked


@pytest.mark.parametrize("patience, steps", [(0, [1, 2]), (9, [1, 2, 3, 4])])
def test_early_stopping_finishes_a_run_and_the_next_call_gives_what_the_first_gave(tmp_path, patience, steps):
    model, again = ss.build_model(**NETWORK), ss.build_model(**NETWORK, seed=5)
    for one in (model, again):
        stop = keras.callbacks.EarlyStopping("loss", 99, patience, restore_best_weights=True)  # the first is best
        history = ss.train(one, CONFIG, 4, tmp_path, callbacks=[stop], **QUICK | dict(log_every=1))
        assert history.step.tolist() == steps
        assert equal(one.get_weights(), model.get_weights()) and equal(weights_of(tmp_path), model.get_weights())
    one_step = ss.build_model(**NETWORK)
    ss.train(one_step, CONFIG, 4, tmp_path / "one", callbacks=[stop_after(1)], **QUICK | dict(log_every=1))
    assert equal(one_step.get_weights(), model.get_weights())


def stop_after(epochs):
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda n, logs: setattr(stop.model, "stop_training", n + 1 == epochs))
    return stop


def test_the_best_epoch_by_validation_is_kept_also_by_a_run_that_was_killed(tmp_path, capsys):
    arguments = QUICK | dict(log_every=1, validation=MASKS, optimizer="adam", learning_rate=0.05, warmup=0, schedule="constant")
    best = ss.build_model(**NETWORK)
    history = ss.train(best, CONFIG, 8, tmp_path / "best", keep="best", **arguments)
    epochs = int(history.val_iou.argmax()) + 1
    assert 1 < epochs < 8
    stopped = ss.build_model(**NETWORK)
    ss.train(stopped, CONFIG, 8, tmp_path / "stopped", callbacks=[stop_after(epochs)], **arguments)
    assert equal(best.get_weights(), stopped.get_weights()) and equal(weights_of(tmp_path / "best"), best.get_weights())
    killed = ss.build_model(**NETWORK)
    with pytest.raises(KeyboardInterrupt):
        ss.train(killed, CONFIG, 8, tmp_path / "killed", keep="best", callbacks=[interrupt("on_epoch_end", epochs)], **arguments)
    ss.train(killed, CONFIG, 8, tmp_path / "killed", keep="best", callbacks=[Recorder()], **arguments)
    assert "callbacks start anew" in capsys.readouterr().out and equal(killed.get_weights(), best.get_weights())
    with pytest.raises(ValueError, match="^keep: .*validation"):
        ss.train(killed, CONFIG, 8, tmp_path / "none", keep="best", **arguments | dict(validation=None))


def test_predicting_in_threads_leaves_nothing_switched_on(trained):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda n: ss.predict(trained.model, MASKS[0][n % 2:n % 2 + 1]).tobytes(), range(24)))
    assert len({*found}) == 2 and not tf_config.is_op_determinism_enabled()
    with deterministic():
        ss.predict(trained.model, MASKS[0])  # a block within a block
        assert tf_config.is_op_determinism_enabled()


def test_nothing_outside_is_changed(tmp_path):
    """A reader's random numbers and models are as they would be without shapeseg."""
    before = random.getstate(), np.random.get_state()
    model = ss.build_model(**NETWORK, rays=8)
    ss.train(model, CONFIG, 2, tmp_path, **QUICK)
    ss.evaluate(ss.load_model(tmp_path / "model.keras"), [MASKS])
    ss.find_objects(model, MASKS[0][0], threshold=0.1)
    assert random.getstate() == before[0] and all(map(np.array_equal, np.random.get_state(), before[1]))
    assert not tf_config.is_op_determinism_enabled()
    own = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    own.compile("adam", "mse")
    own.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)


def test_training_repeats_itself_to_the_bit_in_another_process_with_several_threads(tmp_path, monkeypatch):
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "4")
    for name in "ab":
        run_code(f"ss.train(ss.build_model(widths=(16, 16, 32)), {SMALL}, 8, sys.argv[1], warmup=2)", tmp_path / name)
    assert equal(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))


def test_a_run_directory_says_all_that_is_needed(trained):
    defaults = {name: parameter.default for name, parameter in inspect.signature(ss.train).parameters.items()}
    defaults["batch_size"] = defaults["batch_size"] or 2  # of whole images
    assert ss.FAST_TRAINING.items() <= defaults.items() and ss.ARTICLE_TRAINING.keys() == ss.FAST_TRAINING.keys()
    run = json.loads((trained.run_dir / "run.json").read_text())
    assert ss.SceneConfig(**run["data"]) == CONFIG
    assert run["arguments"]["seed"] == 0 and run["arguments"]["learning_rate"] == QUICK["learning_rate"]
    assert {"python", "tensorflow", "keras", "numpy", "shapeseg"} <= set(run["versions"])
    assert {"step", "seconds", "learning_rate", "loss", "iou"} == set(trained.history)
    assert {path.name for path in trained.run_dir.iterdir() if path.name[0] != "."} == {
        "run.json", "history.csv", "checkpoint.npz", "model.keras"}


@pytest.mark.parametrize("change, named", [
    (dict(seed=1), "seed"), (dict(steps=6), "steps"), (dict(learning_rate=0.1), "learning_rate"),
    (dict(data=replace(CONFIG, noise=5.0)), "data"), (dict(model=NETWORK | dict(skip="add")), "model")])
def test_other_arguments_in_the_same_directory(run_dir, change, named):
    arguments = dict(model=NETWORK, data=CONFIG, steps=4, run_dir=run_dir, **QUICK) | change
    with pytest.raises(ValueError, match=f"^run_dir: .*{named}"):
        ss.train(**arguments | dict(model=ss.build_model(**arguments["model"])))


@pytest.mark.parametrize("steps", [1, 20])
def test_a_loss_or_weights_that_are_no_numbers_stop_the_run(tmp_path, steps):
    with pytest.raises(RuntimeError, match="^loss: .*learning rate"):
        ss.train(ss.build_model(**NETWORK), CONFIG, steps, tmp_path, batch_size=2, optimizer="adam", learning_rate=1e39, warmup=0,
                 schedule="constant", log_every=5)
    assert not (tmp_path / "model.keras").exists()
