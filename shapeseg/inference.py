"""Use a model: predict on any image size, evaluate."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shapeseg.backend import deterministic, keras, tf
from shapeseg.datasets import check_images, check_pair
from shapeseg.figures import CLASSES
from shapeseg.metrics import Counts
from shapeseg.models import check_model, receptive_field
from shapeseg.utils import expect

PIXELS_PER_CALL = 2**19  # how much goes through the network at once, where images are small
TILE = 2048  # pixels: larger images go through it tile by tile, about this wide and high


def predict(model, images):
    """The probability of each class at each pixel, (N, H, W, K) float32 in [0, 1].

    Parameters
    ----------
    model : keras.Model, from `build_model` or `load_model`; the background of a softmax model is left out
    images : (N, H, W, C) uint8, any H and W, with objects of about the size in pixels that the network was trained on; images
        larger than 2048 pixels are worked on in tiles that overlap as far as the network sees, so the memory does not grow with
        the image, and the answer is the same

    Raises a ValueError if the images are not such an array, or the model is not such a network.
    """
    return run_network(model, images, outputs=1)[0]


def run_network(model, images, outputs=None):
    """All outputs of a network, or the first few, as a list of arrays; images and errors as for `predict`."""
    check_model(model)
    images = check_images(images, model.input_shape[-1])
    channels = [output.shape[-1] for output in model.outputs[:outputs]]
    channels[0] -= model.get_layer("masks").get_config()["activation"] == "softmax"
    patch = model.get_layer("fold").patch
    strides = [1, patch, 2 * patch][:len(channels)]  # pixels of the image per pixel of the output
    results = [np.empty((len(images), -(-images.shape[1] // stride), -(-images.shape[2] // stride), count), np.float32)
               for stride, count in zip(strides, channels)]
    run = _forward(model, len(strides))

    def work(tile):
        some, *inner, seen_rows, seen_columns = tile
        outputs = run(tf.constant(images[some, seen_rows, seen_columns]))
        for result, stride, output in zip(results, strides, outputs):
            (top, bottom), (left, right) = ((i.start // stride, -(-i.stop // stride)) for i in inner)
            seen = seen_rows.start // stride, seen_columns.start // stride
            result[some, top:bottom, left:right] = np.asarray(output)[
                :, top - seen[0]:bottom - seen[0], left - seen[1]:right - seen[1], :result.shape[-1]]

    tiles = list(_tiles(model, *images.shape[:3]))
    with deterministic(), ThreadPoolExecutor(2) as pool:  # where one of two leaves a core idle, the other works
        list((pool.map if len(tiles) > 1 else map)(work, tiles))
    return results


def _tiles(model, count, height, width):
    """Some images at a time or, of a large one, a tile at a time with all around it that it sees."""
    batch = max(1, PIXELS_PER_CALL // (height * width))
    multiple = model.get_layer("pad").multiple
    side = -(-TILE // multiple) * multiple  # tiles are folded and pooled as the image is
    margin = _margin(model) if max(height, width) > side else 0
    for n in range(0, count, batch):
        for top in range(0, height, side):
            for left in range(0, width, side):
                inner = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                yield slice(n, n + batch), *inner, *(slice(max(0, s.start - margin), s.stop + margin) for s in inner)


def _margin(model):
    """How far beyond a tile the network looks, up to the next multiple of its coarsest pixels."""
    multiple, windows = model.get_layer("pad").multiple, [getattr(layer, "window", 1) for layer in model.layers]
    reach = max(-receptive_field(model, 0)[0], receptive_field(model, multiple - 1)[1] - (multiple - 1))
    reach += max(windows) - 1  # of the local contrast, a mean of means: half a window twice
    return -(-reach // multiple) * multiple


def _forward(model, outputs):
    """The network up to some of its outputs, as one compiled function for every size of image, made once per model."""
    made = model.__dict__.setdefault("_shapeseg_forward", {})
    if outputs not in made:
        part = keras.Model(model.inputs, model.outputs[:outputs])
        made[outputs] = tf.function(lambda x: keras.tree.flatten(part(x, training=False)),
                                    [tf.TensorSpec((None, None, None, model.input_shape[-1]), tf.uint8)])
    return made[outputs]


def evaluate(model, batches, threshold=0.5, classes=None):
    """Score a model on labelled scenes: a pandas DataFrame, one row per class and "mean", one column per metric of `Counts.table`.

    Parameters
    ----------
    model : keras.Model
    batches : finite iterable of (images, masks), (N, H, W, C) uint8 and (N, H, W, K) bool, for example
        ``stream(ARTICLE, count=500, split="test")``
    threshold : float; a pixel is predicted where its probability is higher
    classes : sequence of str, names of the mask channels; None for ``CLASSES``

    Raises a ValueError if the batches are an endless stream, empty or not as above.
    """
    expect(getattr(batches, "count", 0) is not None, "batches", "a finite number of them", "an endless stream",
           "say how many scenes, for example stream(config, seed, count=500)")
    counts = Counts(threshold)
    for batch in batches:
        images, masks = check_pair(batch, "batches")
        probabilities = predict(model, images)
        expect(masks.shape == probabilities.shape, "batches", f"masks of the model's {probabilities.shape[-1]} classes", masks)
        counts.add(probabilities, masks)
    return counts.table(classes or CLASSES)
