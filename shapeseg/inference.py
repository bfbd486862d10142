"""Use a model: predict, evaluate, load and save."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shapeseg.backend import keras, tf
from shapeseg.checks import expect, several, told
from shapeseg.datasets import check_images, check_pair
from shapeseg.figures import CLASSES
from shapeseg.files import ROOT, checksum, find_path, whole_file
from shapeseg.metrics import Counts
from shapeseg.models import check_model, receptive_field

MODELS = ROOT / "data" / "models"
PIXELS_A_CALL = 2**19  # how much goes through the network at once, where images are small
TILE = 2048  # pixels: larger images go through it tile by tile, about this wide and high


def predict(model, images):
    """The probability of each class at each pixel.

    Parameters
    ----------
    model : keras.Model
        From `build_model` or `load_model`.
    images : (N, H, W, C) array of uint8
        Any height and width. Images larger than 2048 pixels are worked on in tiles that overlap as
        far as the network sees, so the memory does not grow with the image; the answer is the same.

    Returns
    -------
    (N, H, W, K) array of float32
        In [0, 1]. The background of a softmax model is left out.

    Raises
    ------
    ValueError
        If the images are not such an array, or the model is not such a network.
    """
    return run_network(model, images, outputs=1)[0]


def run_network(model, images, outputs=None):
    """All outputs of a network, or the first few, as a list of arrays; images and errors as for `predict`."""
    check_model(model)
    images = check_images(images, model.input_shape[-1])
    softmax = model.get_layer("masks").get_config()["activation"] == "softmax"
    channels = [model.outputs[0].shape[-1] - softmax, *(output.shape[-1] for output in model.outputs[1:outputs])]
    patch = model.get_layer("fold").patch
    sizes = [1, patch, 2 * patch][:len(channels)]  # pixels of the image a pixel of the output
    results = [np.empty((len(images), -(-images.shape[1] // size), -(-images.shape[2] // size), count), np.float32)
               for size, count in zip(sizes, channels)]
    run = _forward(model, len(sizes))

    def work(tile):
        some, *inner, seen_rows, seen_columns = tile
        tiles = run(tf.constant(images[some, seen_rows, seen_columns]))
        for result, size, whole in zip(results, sizes, tiles):
            (top, bottom), (left, right) = ((i.start // size, -(-i.stop // size)) for i in inner)
            seen = seen_rows.start // size, seen_columns.start // size
            result[some, top:bottom, left:right] = np.asarray(whole)[
                :, top - seen[0]:bottom - seen[0], left - seen[1]:right - seen[1], :result.shape[-1]]

    tiles = list(_tiles(model, *images.shape[:3]))
    with ThreadPoolExecutor(2) as pool:  # where one of two leaves a core idle, the other works
        list((pool.map if len(tiles) > 1 else map)(work, tiles))
    return results


def _tiles(model, count, height, width):
    """Some images at a time or, of a large one, a tile at a time with all around it that it sees."""
    batch = max(1, PIXELS_A_CALL // (height * width))
    multiple = model.get_layer("pad").multiple
    side = -(-TILE // multiple) * multiple  # tiles are folded and pooled as the whole image is
    margin = _margin(model) if max(height, width) > side else 0
    for n in range(0, count, batch):
        for top in range(0, height, side):
            for left in range(0, width, side):
                inner = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                yield slice(n, n + batch), *inner, *(slice(max(0, s.start - margin), s.stop + margin) for s in inner)


def _margin(model):
    """How far beyond a tile the network looks, up to the next multiple of its coarsest pixels."""
    layers = {layer.name: layer for layer in model.layers}
    multiple = layers["pad"].multiple
    reach = max(-receptive_field(model, 0)[0], receptive_field(model, multiple - 1)[1] - (multiple - 1))
    reach += layers["contrast"].window - 1 if "contrast" in layers else 0  # a mean of means: half a window twice
    return -(-reach // multiple) * multiple


def _forward(model, outputs):
    """The network up to some of its outputs, as one compiled function for every size of image, made once a model."""
    made = model.__dict__.setdefault("_shapeseg_forward", {})
    if outputs not in made:
        signature = tf.TensorSpec((None, None, None, model.input_shape[-1]), tf.uint8)
        part = keras.Model(model.inputs, model.outputs[:outputs])
        made[outputs] = tf.function(lambda x: keras.tree.flatten(part(x, training=False)), [signature])
    return made[outputs]


def evaluate(model, batches, threshold=0.5, classes=CLASSES):
    """Score a model on labelled scenes, a batch at a time.

    Parameters
    ----------
    model : keras.Model
    batches : finite iterable of (images, masks)
        For example ``stream(ARTICLE, count=500, split="test")``; (N, H, W, C) uint8 and
        (N, H, W, K) bool. An endless `stream` or tf.data set is noticed; any other endless
        iterable is not.
    threshold : float
        A pixel is predicted where its probability is greater.
    classes : sequence of str
        Names of the mask channels.

    Returns
    -------
    pandas.DataFrame
        One row a class and "mean", one column a metric: see `Counts.table`.

    Raises
    ------
    ValueError
        If the batches are endless, empty or not as above.
    """
    if getattr(batches, "count", 0) is None or (
            isinstance(batches, tf.data.Dataset) and batches.cardinality() == tf.data.INFINITE_CARDINALITY):
        raise ValueError("batches: expected a finite number of them, got an endless stream; say how many "
                         "scenes, for example stream(config, seed, count=500)")
    expect(several(batches), "batches", "pairs of arrays, for example [(images, masks)]", batches)
    counts = Counts(threshold)
    for batch in batches:
        images, masks = check_pair(batch, "batches", "pairs of arrays, for example [(images, masks)]")
        probabilities = predict(model, images)
        expect(masks.shape == probabilities.shape, "batches", f"masks of the model's {probabilities.shape[-1]} classes", masks)
        counts.add(probabilities, masks)
    return counts.table(classes)


def save_model(model, path):
    """Save a model to one .keras file, whole or not at all.

    Parameters
    ----------
    model : keras.Model
    path : path
        Ends in .keras; a relative one counts from the repository's root.

    Raises
    ------
    ValueError
        If there is no such model, or the path does not end in .keras, or its directory is not there.
    OSError
        If the disk is full: a model that was there stays.
    """
    check_model(model)
    path = find_path(path, "path")
    expect(path.suffix == ".keras", "path", "a name that ends in .keras", path)
    with whole_file(path, 4 * model.count_params()) as partial:
        model.save(partial)


def load_model(name):
    """Load a model: a committed reference model by its name, or a .keras file by its path.

    Parameters
    ----------
    name : str or path
        For example "masks", trained as in lesson 3, but for longer. A relative path counts from the
        repository's root.

    Returns
    -------
    keras.Model

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ValueError
        If the file is not a readable model, or not the reference model that its card describes. It is
        loaded in Keras' safe mode: a model from a stranger cannot run code.
    """
    by_name = isinstance(name, str) and name.isidentifier()
    path = find_path(MODELS / f"{name}.keras" if by_name else name, "name")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in MODELS.glob("*.keras"))) or "none yet"
        raise FileNotFoundError(f"name: expected a reference model ({known}) or the path of a .keras file, "
                                f"got {told(name)}, and {path} is not there")
    import shapeseg.models  # noqa: F401 (registers the layers)
    try:
        if by_name and checksum(path) != json.loads(path.with_suffix(".json").read_text())["sha256"]:
            raise ValueError("it is not the model that its card describes")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # Keras itself reads over changed bits
                raise ValueError(f"{damaged} in it is damaged")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        check_model(model)
        return model
    except Exception as error:
        raise ValueError(f"name: expected a .keras file that save_model wrote, got {path}, which could not be read "
                         f"({type(error).__name__}: {error})") from error
