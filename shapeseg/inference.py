"""Use a model: predict on any image size, evaluate."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product

import numpy as np

from shapeseg.backend import deterministic, keras, tf
from shapeseg.datasets import check_images, check_pair
from shapeseg.metrics import Counts
from shapeseg.models import check_model, receptive_field
from shapeseg.utils import expect

PIXELS_PER_CALL = 2**19  # how much goes through the network at once, where images are small
TILE = 2048  # pixels: larger images go through it tile by tile, about this wide and high


def predict(model, images):
    """The probability of each class at each pixel, (N, H, W, K) float32 in [0, 1], without the background of a softmax model.

    The model is from `build_model` or `load_model`; the images are (N, H, W, C) uint8 of any H and W, with objects about as large
    in pixels as in training; or a list of (H, W, C), if their sizes differ, which returns a list. Images over 2048 pixels go
    through it in tiles that overlap as far as it sees: the memory does not grow, and the answer is the same. Raises a ValueError.
    """
    images = check_images(images)
    if isinstance(images, list):
        return [predict(model, image[None])[0] for image in images]
    return run_network(model, images, outputs=1)[0]


def run_network(model, images, outputs=None):
    """All outputs of a network, or the first few, as a list of arrays; images and errors as for `predict`."""
    check_model(model)
    images = check_images(images, model.input_shape[-1])
    channels = [output.shape[-1] for output in model.outputs[:outputs]]
    channels[0] -= model.get_layer("masks").get_config()["activation"] == "softmax"
    patch = model.get_layer("fold").patch
    strides = [1, patch, 2 * patch, 1][:len(channels)]  # pixels of the image per pixel of the output
    results = [np.empty((len(images), -(-images.shape[1] // stride), -(-images.shape[2] // stride), count), np.float32)
               for stride, count in zip(strides, channels)]
    run = _forward(model, len(strides))
    def work(tile):
        some, inner, seen = tile
        for result, stride, output in zip(results, strides, run(tf.constant(images[some, *seen]))):
            place = [slice(i.start // stride, -(-i.stop // stride)) for i in inner]
            part = [slice(i.start - j.start // stride, i.stop - j.start // stride) for i, j in zip(place, seen)]
            result[some, *place] = np.asarray(output)[:, *part, :result.shape[-1]]
    tiles = list(_tiles(model, *images.shape[:3]))
    with deterministic(), ThreadPoolExecutor(2) as pool:  # where one of two leaves a core idle, the other works
        list((pool.map if len(tiles) > 1 else map)(work, tiles))
    return results


def _tiles(model, count, height, width):
    """Some images at a time or, of a large one, a tile at a time with all around it that it sees."""
    batch = max(1, PIXELS_PER_CALL // (height * width))
    multiple = model.get_layer("pad").multiple
    side = -(-TILE // multiple) * multiple  # tiles are folded and pooled as the image is
    margin = 0
    if max(height, width) > side:
        (first, _), (_, last) = receptive_field(model, 0), receptive_field(model, multiple - 1)
        window = max(getattr(layer, "window", 1) for layer in model.layers)  # of the local contrast, a mean of means: half of it twice
        margin = -(-(max(-first, last - (multiple - 1)) + window - 1) // multiple) * multiple
    for n, top, left in product(range(0, count, batch), range(0, height, side), range(0, width, side)):
        inner = slice(top, min(top + side, height)), slice(left, min(left + side, width))
        yield slice(n, n + batch), inner, [slice(max(0, i.start - margin), i.stop + margin) for i in inner]


@lru_cache(8)
def _forward(model, outputs):
    """The network up to some of its outputs, as one compiled function for every size of image."""
    part, images = keras.Model(model.inputs, model.outputs[:outputs]), tf.TensorSpec(model.input_shape, tf.uint8)
    return tf.function(lambda x: keras.tree.flatten(part(x, training=False)), [images])


def evaluate(model, batches, threshold=0.5, classes=None):
    """Score a model on labelled scenes: a pandas DataFrame, one row per class and "mean", one column per metric of `Counts.table`.

    The batches are finitely many (images, masks) as `train` takes them, for example from `stream` with a count; a pixel is
    predicted where p > threshold; the classes are names (None: ``CLASSES`` if there are five). Raises a ValueError.
    """
    expect(getattr(batches, "count", 0) is not None, "batches", "a finite number", "an endless stream", "give stream its count")
    counts = Counts(threshold)
    for batch in batches:
        images, masks = check_pair(batch, "batches (a list of such pairs)")
        for p, truth in zip(predict(model, images), masks):
            counts.add(p[None], truth[None])
    return counts.table(classes)
