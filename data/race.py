"""Train ours, ours less one trick, and other networks against the clock: how does the IoU grow? Writes race_runs.csv.

    .venv/bin/python data/race.py

Each other network runs in two ways: as it was published, and with our stream of scenes, optimizer, schedule and
settings of TensorFlow. (The article's network starts at the classes' prior in both: `build_model` always does.) Short
runs choose its image size and its learning rate; then one run has ten times as long as ours needs. A run that is in the
file is not repeated. It takes hours; leave the machine alone meanwhile.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

import shapeseg as ss

FILE = Path(__file__).parent / "race_runs.csv"
GOAL = 0.7  # mean IoU on held-out scenes of 512×512
OTHERS = ("article", "unet", "book")
RATES = {"published": (1e-3, 3e-4, 3e-3), "ours": (2e-2, 7e-3, 5e-2)}  # the image size is chosen with the first
SIZES = (128, 256, 512)
PIXELS = 2 * 512**2  # a step: more scenes where they are smaller
FAST = {  # ours, less one trick of the network, or two
    "fast": {}, "fast, no skips": dict(skip="none"), "fast, grey levels": dict(contrast=None),
    "fast, one step a block": dict(depths=(1, 1, 1)), "fast, no skips, one step a block": dict(skip="none", depths=(1, 1, 1)),
    "fast, ReLU": dict(activation="relu"),
    "fast, 7×7 beside the 3×3": dict(kernels=(3, 7)), "fast, folded 2×2": dict(patch=2)}
RECIPES = {  # ours, less one trick of the recipe
    "ours": {}, "ours, AdamW": dict(optimizer="adamw"), "ours, constant rate": dict(schedule="constant"),
    "ours, ARTICLE scenes": dict(config="article"), "ours, 8 scenes a step": dict(pixels=4 * PIXELS)}
SECONDS, LONG = 100, 660  # of a run of ours, and of another network: ten times what ours needs until the goal
SHORT, LADDER = 40, 60  # of a run that chooses, of a run less one trick


def main(file=FILE):
    for seed in (0, 1, 2):
        race("fast", "ours", 512, 2e-2, SECONDS, seed, file)
    for recipe in RATES:
        for network in OTHERS:
            size, rate = choose(network, recipe, file)
            race(network, recipe, size, rate, LONG, file=file)
    for seed in (0, 1):
        for network in FAST:
            race(network, "ours", 512, 2e-2, LADDER, seed, file)
        for recipe in RECIPES:
            race("fast", recipe, 512, 3e-3 if "Adam" in recipe else 2e-2, LADDER, seed, file)


def choose(network, recipe, file):
    """The image size and the learning rate with which the loss of short runs falls lowest."""
    middle, *others = RATES[recipe]
    short = {(size, middle): race(network, recipe, size, middle, SHORT, file=file) for size in SIZES}
    size, _ = min(short, key=lambda run: short[run].loss.iloc[-1])
    short |= {(size, rate): race(network, recipe, size, rate, SHORT, file=file) for rate in others}
    return min(short, key=lambda run: short[run].loss.iloc[-1])


def race(network, recipe, size, learning_rate, budget_s, seed=0, file=FILE):
    """The curve of one run: from the file, or from a process of its own, which can set TensorFlow up anew."""
    run = dict(network=network, recipe=recipe, size=size, learning_rate=learning_rate, budget_s=budget_s, seed=seed)
    if file.exists():
        rows = pd.read_csv(file)
        known = rows[(rows[list(run)] == list(run.values())).all(axis=1)]
        if len(known):
            return known
    print(run, flush=True)
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, __file__, json.dumps(run), str(file)], check=True, env=quiet)
    return race(*run.values(), file)


def train(network, recipe, size, learning_rate, budget_s, seed):
    """Train until the time is over; one row a look. Looks do not count as time."""
    run = dict(locals())
    keras, tf, optimizer, loss = set_up(network, recipe, learning_rate)
    knobs = RECIPES.get(recipe, {})
    keras.utils.set_random_seed(seed)
    model = build(keras, network, seed, prior=recipe != "published")
    model.compile(optimizer, loss, jit_compile=False if recipe != "published" else "auto")
    model.make_train_function()
    forward = tf.function(lambda images: tf.image.resize(tf.sigmoid(model(images, training=False)), (512, 512)))
    step, clock, look, rows, losses, last = 0, 0.0, 10.0, [], [], perf_counter()
    for images, masks in scenes(recipe, size, seed, **knobs):
        if recipe != "published":  # a short warm-up, then half a cosine by the clock
            fall = 1 if "schedule" in knobs else (1 + math.cos(math.pi * min(clock / budget_s, 1))) / 2
            optimizer.learning_rate = learning_rate * min((step + 1) / 20, fall)
        losses.append(float(model.train_function(iter([(images, masks)]))["loss"]))
        model.reset_metrics()
        step += 1
        clock += perf_counter() - last
        if clock >= min(look, budget_s):
            scores = score(forward, size)
            rows.append(dict(seconds=round(clock, 1), step=step, loss=round(float(np.mean(losses)), 5), **scores))
            losses = []
            print(rows[-1], flush=True)
            look = 1.2 * clock
        if clock >= budget_s or rows and rows[-1]["iou"] >= GOAL and network in OTHERS:
            break
        last = perf_counter()
    return pd.DataFrame([run | row for row in rows])


def set_up(network, recipe, learning_rate):
    if recipe == "published":
        import keras
        import tensorflow as tf

        # The package's own settings of TensorFlow stay out.
        tf.config.experimental.enable_op_determinism = tf.config.optimizer.set_experimental_options = lambda *_: None
        optimizer = (keras.optimizers.RMSprop if network == "book" else keras.optimizers.Adam)(learning_rate)
        return keras, tf, optimizer, keras.losses.BinaryCrossentropy(from_logits=True)
    from shapeseg.backend import keras, tf
    from shapeseg.training import Muon, binary_cross_entropy

    optimizer = keras.optimizers.AdamW if "AdamW" in recipe else Muon
    more = {} if "AdamW" in recipe else dict(adam_weight_decay=1e-2)
    return keras, tf, optimizer(learning_rate, weight_decay=1e-2, **more), binary_cross_entropy


def scenes(recipe, size, seed, config="dense", pixels=PIXELS, **_):
    """Batches without end: new scenes all the time or, as published, the same 400 in another order each time."""
    batch_size = pixels // size**2
    if recipe != "published":
        yield from ss.stream(replace(ss.SCENE_CONFIGS[config], size=size), seed, batch_size)
    images, masks = ss.draw_scenes(replace(ss.ARTICLE, size=size), seed, range(400))
    order = np.random.RandomState(seed)
    while True:
        chosen = order.choice(400, batch_size, replace=False)
        yield images[chosen], masks[chosen].astype("float32")


def score(forward, size, count=16):
    """Mean IoU and cross-entropy on held-out 512×512 scenes; the network sees them reduced to its own size."""
    reduce = 512 // size
    counts = ss.Counts()
    for images, masks in ss.stream(ss.ARTICLE, 0, 4, count=count, split="validation"):
        counts.add(forward(images[:, reduce // 2::reduce, reduce // 2::reduce]).numpy(), masks)
    mean = counts.table().loc["mean"]
    return dict(iou=round(float(mean.iou), 4), bce=round(float(mean.bce), 5))


def build(keras, network, seed=0, prior=False):
    """The logits of five classes from a grey image of any size that 16 divides."""
    if network == "article" or network in FAST:
        keywords = ss.ARTICLE_MODEL if network == "article" else ss.FAST_MODEL | FAST[network]
        model = ss.build_model(**keywords, seed=seed)
        return keras.Model(model.input, model.get_layer("logits").output)
    image = keras.Input((None, None, 1), dtype="uint8")
    x = {"unet": unet, "book": book}[network](keras.layers, keras.layers.Rescaling(1 / 255)(image))
    bias = keras.initializers.Constant(math.log(0.02 / 0.98) if prior else 0.0)
    return keras.Model(image, keras.layers.Conv2D(5, 1, bias_initializer=bias, name="head")(x))


def unet(layers, x):
    """U-Net (Ronneberger et al. 2015): four levels, 16 to 256 filters, with batch normalization."""
    def convolve_twice(x, width):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    features = []
    for width in (16, 32, 64, 128):
        features.append(convolve_twice(x, width))
        x = layers.MaxPooling2D()(features[-1])
    x = convolve_twice(x, 256)
    for width, feature in zip((128, 64, 32, 16), reversed(features)):
        x = layers.Concatenate()([feature, layers.Conv2DTranspose(width, 2, 2)(x)])
        x = convolve_twice(x, width)
    return x


def book(layers, x):
    """The strided encoder/decoder of the segmentation chapter in Chollet's Deep Learning with Python."""
    for width in (64, 128, 256):
        for stride in (2, 1):
            x = layers.Conv2D(width, 3, stride, padding="same", activation="relu")(x)
    for width in (256, 128, 64):
        for stride in (1, 2):
            x = layers.Conv2DTranspose(width, 3, stride, padding="same", activation="relu")(x)
    return x


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        file = Path(sys.argv[2])
        train(**json.loads(sys.argv[1])).to_csv(file, mode="a", header=not file.exists(), index=False)
