"""Use a model: predict, evaluate, load and save."""

import numpy as np

from shapeseg.backend import keras, tf
from shapeseg.datasets import check_images, check_pair
from shapeseg.figures import CLASSES
from shapeseg.files import ROOT, whole_file
from shapeseg.metrics import Counts

MODELS = ROOT / "data" / "models"
PIXELS_A_CALL = 2**21  # how much goes through the network at once


def predict(model, images):
    """The probability of each class at each pixel.

    Parameters
    ----------
    model : keras.Model
        From `build_model` or `load_model`.
    images : (N, H, W, C) array of uint8
        Any height and width.

    Returns
    -------
    (N, H, W, K) array of float32
        In [0, 1]. The background of a softmax model is left out.

    Raises
    ------
    ValueError
        If the images are not such an array, or the model is not such a network.
    """
    check_model(model)
    images = check_images(images, model.input_shape[-1])
    batch = max(1, PIXELS_A_CALL // (images.shape[1] * images.shape[2]))
    softmax = model.get_layer("masks").get_config()["activation"] == "softmax"
    run = _forward(model)
    parts = [run(tf.constant(images[n:n + batch])).numpy() for n in range(0, len(images), batch)]
    return np.concatenate(parts)[..., :-1 if softmax else None]


def check_model(model):
    """Raise a ValueError unless this is a network from `build_model`."""
    if not {"logits", "masks"} <= {layer.name for layer in getattr(model, "layers", ())}:
        raise ValueError("model: expected a network from build_model or load_model, with layers \"logits\" and "
                         f"\"masks\", got {model!r}")


def _forward(model):
    """The network as one compiled function for every size of image, made once a model."""
    if not hasattr(model, "_shapeseg_forward"):
        signature = tf.TensorSpec((None, None, None, model.input_shape[-1]), tf.uint8)
        model._shapeseg_forward = tf.function(lambda x: model(x, training=False), [signature])
    return model._shapeseg_forward


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
    if getattr(batches, "count", 0) is None or getattr(batches, "cardinality", int)() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("batches: expected a finite number of them, got an endless stream; say how many "
                         "scenes, for example stream(config, seed, count=500)")
    counts = Counts(threshold)
    for batch in batches:
        images, masks = check_pair(batch, "batches", "pairs of arrays, for example [(images, masks)]")
        counts.add(predict(model, images), masks)
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
        If the path does not end in .keras.
    """
    if not str(path).endswith(".keras"):
        raise ValueError(f"path: expected a name that ends in .keras, got {str(path)!r}")
    with whole_file(ROOT / path) as partial:
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
        If the file is not a readable model. It is loaded in Keras' safe mode: a model from a
        stranger cannot run code.
    """
    path = MODELS / f"{name}.keras" if str(name).isidentifier() else ROOT / name
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in MODELS.glob("*.keras"))) or "none yet"
        raise FileNotFoundError(f"name: expected a reference model ({known}) or the path of a .keras file, "
                                f"got {str(name)!r}, and {path} is not there")
    import shapeseg.models  # noqa: F401 (registers the layers)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        check_model(model)
        return model
    except Exception as error:
        raise ValueError(f"{path}: expected a .keras file that save_model wrote; it could not be read "
                         f"({type(error).__name__}: {error})") from error
