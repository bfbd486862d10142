"""The network: an encoder, a decoder, a head. Read it from top to bottom."""

from types import MappingProxyType

import numpy as np

from shapeseg.backend import keras, ops, private_random
from shapeseg.layers import CropLike, DepthToSpace, LocalContrast, PadToMultiple, SpaceToDepth
from shapeseg.utils import ROOT, atomic_write, expect, is_int, resolve_path

layers = keras.layers
MODELS = ROOT / "data" / "models"

# The article's network, at full resolution. It has "N, 3 for this example" blocks; ours has 4, to see nearly all of our figures whole.
ARTICLE_MODEL = MappingProxyType(dict(widths=(16, 32, 64, 128), convolutions=1, kernels=(3, 7), skip="none", patch=1, contrast=None,
                                      activation="relu", dropout=0.05, head=3))

# The network that the lessons train: from local contrast, folded into 4×4 patches (a sixteenth of the pixels), with small kernels
# (two 3×3 see as far as one 5×5), more of them where pixels are few, and skips from encoder to decoder.
FAST_MODEL = MappingProxyType(dict(widths=(32, 64, 128), convolutions=(1, 2, 2), kernels=(3,), skip="concat", patch=4, contrast=17,
                                   activation="silu", dropout=0.0, head=1))

OUTLINE_WIDTH = 64  # channels of the two blocks that find outlines
PRIOR = 0.02  # share of the pixels that belong to a class; where the head starts


def build_model(classes=5, channels=1, widths=(32, 64, 128), convolutions=None, kernels=(3,), skip="concat", patch=4, contrast=17,
                activation="silu", dropout=0.0, head=1, output="sigmoid", normalize=True, residual=True, rays=0, seed=0):
    """The article's encoder/decoder network and its relatives, initialized from `seed`; the defaults are those of `FAST_MODEL`.

    classes, channels : int, mask channels K and image channels C
    widths : sequence of int, feature channels of each encoder block, which halves the resolution; the decoder mirrors them
    convolutions : int or sequence of int, per block; the first has all kernels, the rest one; None: 1 in the first block, then 2
    kernels : sequence of int, odd sizes of the parallel convolutions of a block (Szegedy et al. 2015)
    skip : "none" (the article), "add" or "concat", to join the encoder's features to the decoder's (Ronneberger et al. 2015)
    patch : int, fold patch × patch pixels into channels: 1/patch² of the work, patch times the field of view (Shi et al. 2016)
    contrast : int, odd window in pixels of the `LocalContrast` in place of grey levels (Jarrett et al. 2009), or None
    activation, dropout : one of Keras', for example "relu" or "silu" (Hendrycks and Gimpel 2016); float (Srivastava et al. 2014)
    head, output : int, odd kernel size of the last convolution; "sigmoid", K independent channels, or "softmax", K classes and a
        background (the last channel) that compete
    normalize, residual : bool, batch normalization (Ioffe and Szegedy 2015), the block's input added to it (He et al. 2016)
    rays : int, above 0 the network also finds objects (see `find_objects`) by their centre and so many distances to the outline

    Returns a keras.Model from images (N, H, W, C) uint8, any H and W, to probabilities (N, H, W, K) float32 (softmax: K + 1); with
    rays also to centres (N, h, w, K), one pixel per patch, outlines (N, h / 2, w / 2, 2 + rays), and edges (N, H, W, 1), as logits.
    Raises ValueError.
    """
    convolutions = (1, *(2,) * (np.size(widths) - 1)) if convolutions is None else convolutions
    convolutions = (convolutions,) * np.size(widths) if is_int(convolutions) else convolutions
    for name, values in (("widths", widths), ("kernels", kernels), ("convolutions", convolutions)):
        expect(np.ndim(values) and len(values) and all(is_int(value, 1) for value in values), name, "integers from 1, for example (32, 64)", values)
    expect(len(convolutions) == len(widths), "convolutions", f"{len(widths)} integers, one per block", convolutions)
    for name, value, choices in (("skip", skip, ("none", "add", "concat")), ("output", output, ("sigmoid", "softmax"))):
        expect(value in choices, name, f"one of {choices}", value)
    for name, value, min_ in (("classes", classes, 1), ("channels", channels, 1), ("patch", patch, 1), ("rays", rays, 0)):
        expect(is_int(value, min_), name, f"an integer from {min_}", value)
    options = dict(activation=activation, dropout=dropout, normalize=normalize, residual=residual)
    with private_random(int(seed)):  # each layer draws its own seed from here
        image = keras.Input((None, None, channels), dtype="uint8", name="image")
        x = layers.Rescaling(1 / 127.5, -1, name="rescale")(image)
        if contrast:
            x = LocalContrast(contrast, name="contrast")(x)
        x = PadToMultiple(patch * 2**len(widths), name="pad")(x)
        x = SpaceToDepth(patch, name="fold")(x)
        features = []
        for n, width in enumerate(widths):
            x = encoder_block(x, width, kernels, name=f"encoder{n + 1}", **options)
            for k in range(2, convolutions[n] + 1):
                x = encoder_block(x, width, kernels[:1], name=f"encoder{n + 1}_{k}", **options)
            features.append(x)
            x = layers.MaxPooling2D(name=f"encoder{n + 1}_pool")(x)
        for n, width in reversed([*enumerate(widths)]):
            coarse = x
            x = decoder_block(x, width, kernels, name=f"decoder{n + 1}", **options)
            for k in range(2, convolutions[n] + 1):
                x = decoder_block(x, width, kernels[:1], name=f"decoder{n + 1}_{k}", **options)
            x = layers.UpSampling2D(name=f"decoder{n + 1}_up")(x)
            if skip != "none":
                join = layers.Add if skip == "add" else layers.Concatenate
                x = join(name=f"decoder{n + 1}_skip")([x, features[n]])
        if skip != "none":  # small kernels will do here, where a pixel costs the most
            x = decoder_block(x, widths[0], kernels[:1], name="join", **options)
        prior = _prior(classes, output == "softmax")
        last = layers.Conv2D(len(prior) * patch**2, head, padding="same", name="head")
        logits = CropLike(name="logits")([DepthToSpace(patch, name="unfold")(last(x)), image])
        last.bias.assign(np.tile(prior, patch**2))
        masks = layers.Activation(output, dtype="float32", name="masks")(logits)
        if not rays:
            return keras.Model(image, masks, name="shapeseg")
        # Where a centre is, the fine features say; where from there the outline, the coarse ones, which see far.
        centres = encoder_block(x, widths[0], kernels[:1], name="centres", **options)
        outlines = encoder_block(coarse, OUTLINE_WIDTH, kernels[:1], name="outlines", **options)
        outlines = encoder_block(outlines, OUTLINE_WIDTH, kernels[:1], name="outlines_2", **options)
        centres_head = layers.Conv2D(classes, 1, name="centres_head")
        outlines_head = layers.Conv2D(2 + rays, 1, name="outlines_head")
        edges_head = layers.Conv2D(patch**2, 1, name="edges_head")
        edges = CropLike(name="edges")([DepthToSpace(patch, name="edges_unfold")(edges_head(x)), image])
        model = keras.Model(image, [masks, centres_head(centres), outlines_head(outlines), edges], name="shapeseg")
        centres_head.bias.assign([-5.0] * classes)  # a centre is rare, the offset to it small, an outline a few patches away
        outlines_head.bias.assign([0.0] * 2 + [2.5] * rays)
        edges_head.bias.assign([-3.0] * patch**2)
        return model


def _prior(classes, background):
    """Where the logits start: nearly all pixels belong to no class. That saves the first steps of training."""
    return ops.log([PRIOR] * classes + [max(1 - classes * PRIOR, PRIOR)] if background else [PRIOR / (1 - PRIOR)] * classes)


def encoder_block(x, width, kernels, activation, dropout, name, normalize=True, residual=True):
    """Parallel convolutions, concatenated; the input as a residual; normalize, activate, drop."""
    return _block(layers.Conv2D, x, width, kernels, activation, dropout, name, normalize, residual)


def decoder_block(x, width, kernels, activation, dropout, name, normalize=True, residual=True):
    """The same with transposed convolutions. They run before the upsampling: a quarter of the work."""
    return _block(layers.Conv2DTranspose, x, width, kernels, activation, dropout, name, normalize, residual)


def _block(convolution, x, width, kernels, activation, dropout, name, normalize, residual):
    shortcut = x
    if x.shape[-1] > width or residual and x.shape[-1] != width:  # a 1×1 convolution brings it to the block's width
        shortcut = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_project")(x)
    x = min(x, shortcut, key=lambda y: y.shape[-1])  # the larger kernels, which cost more, work on the narrower of the two
    share, rest = divmod(width, len(kernels))  # the branches share the width; the first takes what is left over
    branches = [convolution(share + rest * (kernel == kernels[0]), kernel, padding="same", name=f"{name}_conv{kernel}",
                            use_bias=not normalize)(x) for kernel in kernels]  # a bias would not survive the normalization
    x = layers.Concatenate(name=f"{name}_concat")(branches) if len(branches) > 1 else branches[0]
    if residual:
        x = layers.Add(name=f"{name}_residual")([x, shortcut])
    if normalize:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    x = layers.Activation(activation, name=f"{name}_activation")(x)
    return layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x


def receptive_field(model, row):
    """First and last row of what goes into the fold that can change a row of the logits, as if the image had no border."""
    check_model(model)
    ranges = {id(model.get_layer("unfold").output): (row, row)}
    for layer in reversed(model.layers):
        if id(layer.output) in ranges:
            first, last = ranges[id(layer.output)]
            reach = layer.kernel_size[0] // 2 if hasattr(layer, "kernel_size") else 0
            coarser = 2 if isinstance(layer, layers.MaxPooling2D) else layer.patch if layer.name == "fold" else 1
            finer = 2 if isinstance(layer, layers.UpSampling2D) else layer.patch if layer.name == "unfold" else 1
            first, last = (first // finer - reach) * coarser, (last // finer + reach + 1) * coarser - 1
            for x in keras.tree.flatten(layer.input):
                known = ranges.get(id(x), (first, last))
                ranges[id(x)] = min(known[0], first), max(known[1], last)
    return ranges[id(model.get_layer("fold").input)]


def macs(model, size):
    """Multiply-accumulate operations per image of `size` × `size` pixels, of the convolutions alone: from a layer's name to int."""
    check_model(model)
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    outputs_of = keras.Model(model.input, [layer.output for layer in convolutions])
    side = model.get_layer("pad").multiple  # of the smallest image that is not padded; larger ones are so many of it
    outputs = outputs_of(np.zeros((1, side, side, model.input_shape[-1]), "uint8"), training=False)
    return {layer.name: (-(-size // side))**2 * np.prod(layer.kernel.shape) * output.shape[1] * output.shape[2]
            for layer, output in zip(convolutions, outputs)}


def check_model(model):
    expect(keras.config.backend() == "tensorflow", "KERAS_BACKEND", "tensorflow, to train and to predict", keras.config.backend())
    good = isinstance(model, keras.Model) and {"pad", "fold", "unfold", "logits", "masks"} <= {layer.name for layer in model.layers}
    expect(good, "model", "a network from build_model or load_model", model)


def new_head(model, classes, channels=None, seed=0):
    """The same network for other classes, and another number of image channels: a new head, all other weights as they are.

    model : keras.Model from `build_model` or `load_model`; of one with rays, the masks alone
    classes, channels : int; None: as many channels as before. For RGB each channel gets a third of a grey network's first weights

    Returns a new keras.Model, to be trained further. Raises ValueError.
    """
    check_model(model)
    channels = model.input_shape[-1] if channels is None else channels
    patch = model.get_layer("fold").patch
    prior = _prior(classes, model.get_layer("masks").activation is keras.activations.softmax)
    def copy(layer):
        return type(layer).from_config(layer.get_config() | ({"filters": len(prior) * patch**2} if layer.name == "head" else {}))
    with private_random(int(seed)):
        new = keras.models.clone_model(keras.Model(model.input, model.outputs[0], name="shapeseg"), clone_function=copy,
                                       input_tensors=keras.Input((None, None, channels), dtype="uint8", name="image"))
    for layer in (layer for layer in new.layers if layer.name != "head"):
        for after, before in zip(layer.weights, model.get_layer(layer.name).get_weights()):
            if after.shape != before.shape:  # a first kernel, to whose inputs each pixel of a patch brings its channels
                kernel = before.reshape(*before.shape[:2], patch**2, -1, before.shape[-1]).sum(axis=3, keepdims=True)
                before = (kernel.repeat(channels, axis=3) / channels).reshape(after.shape)
            after.assign(before)
    new.get_layer("head").bias.assign(np.tile(prior, patch**2))
    return new


def save_model(model, path):
    """Save a model to one .keras file, whole or not at all; a relative path counts from the repository."""
    with atomic_write(path) as partial:
        model.save(partial, include_optimizer=False)


def load_model(name):
    """Load a keras.Model: a committed reference model by its name ("masks", "article", …), or a .keras file by its path.

    A relative path counts from the repository's root. Keras' safe mode sees to it that a stranger's file cannot run code. Raises
    FileNotFoundError if there is no such model, ValueError if the file cannot be read.
    """
    named = MODELS / f"{name}.keras"
    path = named if named.is_file() else resolve_path(name, "name")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in MODELS.glob("*.keras")))
        raise FileNotFoundError(f"name: expected a reference model ({known}) or the path of a .keras file, and {path} is not there")
    try:
        with private_random():
            check_model(model := keras.saving.load_model(path, compile=False, safe_mode=True))
        return model
    except Exception as error:
        raise ValueError(f"name: expected a file that save_model wrote, and {path} cannot be read ({error!r})") from error
