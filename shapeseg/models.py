"""The network: an encoder, a decoder, a head. Read it from top to bottom."""

from types import MappingProxyType

from shapeseg.backend import keras, tf
from shapeseg.checks import expect, listed, one_of, real, whole

layers = keras.layers

# The article's network, at full resolution.
ARTICLE_MODEL = MappingProxyType(dict(
    blocks=3, widths=(16, 32, 64), depths=(1, 1, 1), kernels=(3, 7), skip="none", patch=1, contrast=None,
    activation="relu", dropout=0.1))

# The network that the lessons train. It sees local contrast in place of grey levels, is folded into
# 4×4 patches (a sixteenth of the pixels to go through), works longer where pixels are few, with small
# kernels (two 3×3 in a row see as far as one 5×5), and joins the encoder's features to the decoder.
FAST_MODEL = MappingProxyType(dict(
    blocks=3, widths=(32, 64, 128), depths=(1, 2, 2), kernels=(3,), skip="concat", patch=4, contrast=17,
    activation="silu", dropout=0.0))

OUTLINE_WIDTH = 128  # channels of the block that finds outlines
PRIOR = 0.02  # share of the pixels that belong to a class; where the head starts
COARSEST = 1024  # pixels of the image a pixel of the features: to multiples of it images are padded
WEIGHTS = 2**31  # about as many as memory holds


def build_model(classes=5, channels=1, blocks=3, widths=(16, 32, 64), depths=None, kernels=(3, 7),
                skip="none", patch=1, contrast=None, activation="relu", output="sigmoid", dropout=0.1,
                normalize=True, residual=True, rays=0, seed=0):
    """The article's encoder/decoder network, and its relatives.

    Parameters
    ----------
    classes : int
        Mask channels K.
    channels : int
        Image channels C; like `classes`, at most 1000.
    blocks : int
        Encoder blocks, and as many decoder blocks; each halves the resolution. patch · 2**blocks is
        at most 1024.
    widths : sequence of int
        Feature channels of each encoder block; the decoder mirrors them.
    depths : sequence of int, optional
        Steps of each block, one after the other: the first has all kernels, the others the first
        kernel alone. Without it all have one step, as in the article. At most 32.
    kernels : sequence of int
        Odd sizes of the parallel convolutions of a block.
    skip : "none", "add" or "concat"
        How the encoder's features join the decoder's at the same resolution. "none" is the
        article's network. After the last join one more block works at that resolution.
    patch : int
        The image is folded into patch × patch blocks of channels before the encoder and unfolded
        after the head: 1/patch² of the work, patch times the receptive field.
    contrast : int, optional
        Odd window in pixels of the local contrast (see `LocalContrast`) that the encoder gets in
        place of the grey levels. At most 1023.
    activation : "relu" or "silu"
    output : "sigmoid" or "softmax"
        K independent channels, or K classes and a background (the last channel) that compete.
    dropout : float
        In [0, 1).
    normalize, residual : bool
        Batch normalization in each block; the block's input added to its convolutions.
    rays : int
        Above 0 the network also finds objects (see `find_objects`), each by its centre and this many
        distances from there to its outline; 8 to 1024.
    seed : int
        Of the initial weights and of the dropout: the same seed, the same network.

    Returns
    -------
    keras.Model
        From images (N, H, W, C) uint8, any H and W, to probabilities (N, H, W, K) float32 (K + 1
        channels with softmax). Its layer "logits" holds what goes into the sigmoid. With rays there are
        two more outputs, which `find_objects` reads: centres (N, h, w, K), one pixel a patch of the
        padded image, and outlines (N, h / 2, w / 2, 2 + rays).

    Raises
    ------
    ValueError
        If an argument is not as above.

    References
    ----------
    Batch normalization: Ioffe and Szegedy 2015. Residual connections: He et al. 2016. Dropout:
    Srivastava et al. 2014. Parallel kernel sizes: Szegedy et al. 2015. Skips between encoder and
    decoder: Ronneberger et al. 2015. Folding (space to depth): Shi et al. 2016. Local contrast:
    Jarrett et al. 2009. SiLU: Hendrycks and Gimpel 2016.
    """
    depths = (1,) * len(widths) if depths is None and isinstance(widths, (tuple, list)) else depths
    _check(classes, channels, blocks, widths, depths, kernels, skip, patch, contrast, activation, output, dropout,
           normalize, residual, rays, seed)
    classes, channels, blocks, patch, rays = map(int, (classes, channels, blocks, patch, rays))  # NumPy's are welcome, too
    widths, depths, kernels = ([*map(int, values)] for values in (widths, depths, kernels))
    dropout = float(dropout)
    keras.utils.set_random_seed(int(seed))  # what follows draws its own seeds from here
    image = keras.Input((None, None, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescale")(image)
    if contrast:
        x = LocalContrast(int(contrast), name="contrast")(x)
    x = PadToMultiple(patch * 2**blocks, name="pad")(x)
    x = SpaceToDepth(patch, name="fold")(x)
    parts = dict(normalize=normalize, residual=residual)
    features = []
    for n, width in enumerate(widths):
        x = encoder_block(x, width, kernels, activation, dropout, f"encoder{n + 1}", **parts)
        for step in range(2, depths[n] + 1):
            x = encoder_block(x, width, kernels[:1], activation, dropout, f"encoder{n + 1}_step{step}", **parts)
        features.append(x)
        x = layers.MaxPooling2D(name=f"encoder{n + 1}_pool")(x)
    for n, width in reversed(list(enumerate(widths))):
        coarse = x
        x = decoder_block(x, width, kernels, activation, dropout, f"decoder{n + 1}", **parts)
        for step in range(2, depths[n] + 1):
            x = decoder_block(x, width, kernels[:1], activation, dropout, f"decoder{n + 1}_step{step}", **parts)
        x = layers.UpSampling2D(name=f"decoder{n + 1}_up")(x)
        if skip == "add":
            x = layers.Add(name=f"decoder{n + 1}_skip")([x, features[n]])
        elif skip == "concat":
            x = layers.Concatenate(name=f"decoder{n + 1}_skip")([x, features[n]])
    if skip != "none":  # small kernels will do here, where a pixel costs the most
        x = decoder_block(x, widths[0], kernels[:1], activation, dropout, "join", **parts)
    trunk = x
    outputs = classes + (output == "softmax")
    head = layers.Conv2D(outputs * patch**2, 1, name="head")
    x = head(trunk)
    # Nearly all pixels belong to no class. Starting there saves the first steps of training.
    chances = [PRIOR / (1 - PRIOR)] * classes if output == "sigmoid" else [PRIOR] * classes + [1 - classes * PRIOR]
    head.bias.assign(tf.tile(tf.math.log(tf.maximum(chances, PRIOR)), [patch**2]))
    x = DepthToSpace(patch, name="unfold")(x)
    x = CropLike(name="logits")([x, image])
    x = layers.Activation(output, name="masks")(x)
    if not rays:
        return keras.Model(image, x, name="shapeseg")
    # Where a centre is, the fine features say; where from there the outline, the coarse ones, which see far.
    centres = encoder_block(trunk, widths[0], kernels[:1], activation, dropout, "centres", **parts)
    outlines = encoder_block(coarse, OUTLINE_WIDTH, kernels[:1], activation, dropout, "outlines", **parts)
    heads = []
    for name, y, start in (("centres", centres, [-5.0] * classes), ("outlines", outlines, [0.0] * 2 + [2.5] * rays)):
        head = layers.Conv2D(len(start), 1, name=f"{name}_head")
        heads.append(head(y))
        head.bias.assign(start)  # a centre is rare, the way to it short, an outline a few patches away
    return keras.Model(image, [x, *heads], name="shapeseg")


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
    if x.shape[-1] > width:  # the larger kernels, which cost more, work on the narrower of the two
        x = shortcut
    share = width // len(kernels)  # the branches share the width; the first takes what is left over
    shares = [width - share * (len(kernels) - 1)] + [share] * (len(kernels) - 1)
    branches = [convolution(share, kernel, padding="same", use_bias=not normalize, name=f"{name}_conv{kernel}")(x)
                for share, kernel in zip(shares, kernels)]  # a bias would not survive the normalization
    x = layers.Concatenate(name=f"{name}_concat")(branches) if len(branches) > 1 else branches[0]
    if residual:
        x = layers.Add(name=f"{name}_residual")([x, shortcut])
    if normalize:
        devices = tf.distribute.get_strategy().num_replicas_in_sync  # several see the batch as one
        x = layers.BatchNormalization(momentum=0.9, synchronized=devices > 1, name=f"{name}_norm")(x)
    x = layers.Activation(activation, name=f"{name}_activation")(x)
    return layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x


def receptive_field(model, row):
    """The pixels that an output pixel sees, along one axis.

    Parameters
    ----------
    model : keras.Model
        From `build_model`.
    row : int
        A row of the logits.

    Returns
    -------
    first, last : int
        The first and the last row of what goes into the fold that can change it; borders are not
        counted. (With local contrast, each of those has seen a window of the image itself.)

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    check_model(model)
    expect(whole(row), "row", "a whole number from 0", row)
    ranges = {id(model.get_layer("unfold").output): (int(row), int(row))}
    for layer in reversed(model.layers):
        if id(layer.output) not in ranges or layer.name in ("image", "rescale", "contrast", "pad"):
            continue
        first, last = ranges[id(layer.output)]
        reach = layer.kernel_size[0] // 2 if hasattr(layer, "kernel_size") else 0
        coarser = 2 if isinstance(layer, layers.MaxPooling2D) else layer.patch if layer.name == "fold" else 1
        finer = 2 if isinstance(layer, layers.UpSampling2D) else layer.patch if layer.name == "unfold" else 1
        first, last = (first // finer - reach) * coarser, (last // finer + reach + 1) * coarser - 1
        for x in keras.tree.flatten(layer.input):
            known = ranges.get(id(x), (first, last))
            ranges[id(x)] = min(known[0], first), max(known[1], last)
    return ranges[id(model.get_layer("fold").input)]


def cut_skips(model, names=None):
    """The same network with the same weights, but its skips carry zeros.

    Parameters
    ----------
    model : keras.Model
        From `build_model`, with skips.
    names : sequence of str, optional
        Layers to cut, for example "decoder1_skip"; without it all whose names end in "_skip".

    Returns
    -------
    keras.Model
        With weights of its own.

    Raises
    ------
    ValueError
        If there is no such skip, or no such model.
    """
    check_model(model)
    skips = [layer.name for layer in model.layers if layer.name.endswith("_skip")]
    given, names = names, skips if names is None else listed(names)
    expect(names and all(one_of(name, skips) for name in names), "names", f"some of the model's skips, {skips}", given)

    def call(layer, inputs, **keywords):
        if layer.name in names:
            inputs = [inputs[0], keras.ops.zeros_like(inputs[1])]
        return layer(inputs, **keywords)

    twin = keras.models.clone_model(model, call_function=call)
    twin.set_weights(model.get_weights())
    return twin


def multiply_adds(model, size):
    """The work that an image is, layer by layer: one multiplication and one addition a weight and output pixel.

    Parameters
    ----------
    model : keras.Model
        From `build_model`.
    size : int
        Height and width of the image in pixels.

    Returns
    -------
    dict of str to int
        Of the convolutions alone, in the order of the layers; what the others add is small.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    check_model(model)
    expect(whole(size, 1), "size", "a whole number of pixels from 1", size)
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    every = keras.Model(model.input, [layer.output for layer in convolutions])
    multiple = model.get_layer("pad").multiple  # the smallest image that is not padded; larger ones are so many of it
    outputs = every(tf.zeros((1, multiple, multiple, model.input_shape[-1]), "uint8"), training=False)
    times = (-(-int(size) // multiple))**2
    return {layer.name: times * layer.kernel.shape.num_elements() * output.shape[1] * output.shape[2]
            for layer, output in zip(convolutions, outputs)}


def is_network(model):
    """Is this a network from `build_model`?"""
    return isinstance(model, keras.Model) and {"pad", "fold", "unfold", "logits", "masks"} <= {layer.name for layer in model.layers}


def check_model(model):
    """Raise a ValueError unless this is a network from `build_model`."""
    expect(is_network(model), "model", 'a network from build_model or load_model, with layers "logits" and "masks"', model)


@keras.saving.register_keras_serializable("shapeseg")
class LocalContrast(layers.Layer):
    """Each pixel less the mean of the window around it, over the window's standard deviation.

    Edges count, not levels: a faint figure looks like a strong one. `FLOOR` is the variance below
    which there is nothing but noise to see.
    """

    FLOOR = 1 / 256  # for levels in [-1, 1]: a standard deviation of 8 grey levels

    def __init__(self, window, **kwargs):
        super().__init__(**kwargs)
        self.window = window

    def call(self, x):
        x = x - self.mean(x)
        return x * tf.math.rsqrt(self.mean(tf.square(x)) + self.FLOOR)

    def mean(self, x):
        for _ in range(2):  # down the columns, the whole row at once; then the same with the image turned
            n, height, width, channels = tf.unstack(tf.shape(x))
            x = tf.reshape(x, (n, height, 1, width * channels))
            x = tf.nn.avg_pool2d(x, (self.window, 1), 1, "SAME")  # beyond the border nothing is counted
            x = tf.transpose(tf.reshape(x, (n, height, width, channels)), (0, 2, 1, 3))
        return x

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "window": self.window}


@keras.saving.register_keras_serializable("shapeseg")
class PadToMultiple(layers.Layer):
    """Repeat the last row and column until both sizes are multiples of a number."""

    def __init__(self, multiple, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x):
        def pad(x):
            for axis in (1, 2):
                size = tf.shape(x)[axis]
                padded = -(-size // self.multiple) * self.multiple
                x = tf.gather(x, tf.minimum(tf.range(padded), size - 1), axis=axis)
            return x

        fits = tf.reduce_all(tf.shape(x)[1:3] % self.multiple == 0)
        return tf.cond(fits, lambda: tf.identity(x), lambda: pad(x))

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[3])

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("shapeseg")
class SpaceToDepth(layers.Layer):
    """Fold patch × patch pixels into channels: (H, W, C) to (H / patch, W / patch, C · patch²)."""

    def __init__(self, patch, **kwargs):
        super().__init__(**kwargs)
        self.patch = patch

    def call(self, x):
        p, channels = self.patch, x.shape[-1]  # as tf.nn.space_to_depth, in a fifth of the time
        n, height, width, _ = tf.unstack(tf.shape(x))
        rows = tf.reshape(x, (n * height // p, p, width // p, p * channels))
        return tf.reshape(tf.transpose(rows, (0, 2, 1, 3)), (n, height // p, width // p, p * p * channels))

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[3] * self.patch**2)

    def get_config(self):
        return {**super().get_config(), "patch": self.patch}


@keras.saving.register_keras_serializable("shapeseg")
class DepthToSpace(SpaceToDepth):
    """Unfold again: (H, W, C · patch²) to (H · patch, W · patch, C)."""

    def call(self, x):
        p, channels = self.patch, x.shape[-1] // self.patch**2
        n, height, width, _ = tf.unstack(tf.shape(x))
        rows = tf.reshape(x, (n * height, width, p, p * channels))
        return tf.reshape(tf.transpose(rows, (0, 2, 1, 3)), (n, height * p, width * p, channels))

    def compute_output_shape(self, shape):
        return (shape[0], None, None, shape[3] // self.patch**2)


@keras.saving.register_keras_serializable("shapeseg")
class CropLike(layers.Layer):
    """Crop the first input to the height and width of the second: what was padded goes again."""

    def call(self, inputs):
        x, like = inputs
        return x[:, :tf.shape(like)[1], :tf.shape(like)[2]]

    def compute_output_shape(self, shapes):
        return shapes[1][:3] + shapes[0][3:]


def _check(classes, channels, blocks, widths, depths, kernels, skip, patch, contrast, activation, output, dropout,
           normalize, residual, rays, seed):
    def several(values, *limits):
        return isinstance(values, (tuple, list)) and len(values) > 0 and all(whole(v, *limits) for v in values)

    def odd(values):
        return several(values, 1) and all(k % 2 for k in values) and len(set(values)) == len(values)

    expect(odd(kernels), "kernels", "different odd whole numbers, for example (3, 7)", kernels)
    for name, value in (("classes", classes), ("channels", channels)):
        expect(whole(value, 1, 1000), name, "a whole number from 1 to 1000", value)
    expect(whole(patch, 1, COARSEST), "patch", f"a whole number from 1 to {COARSEST}", patch)
    expect(whole(blocks, 1, 10) and int(patch) * 2**int(blocks) <= COARSEST, "blocks",
           f"a whole number from 1, so that patch · 2**blocks is at most {COARSEST}", blocks)
    expect(several(widths, len(kernels)) and len(widths) == blocks, "widths",
           f"{blocks} whole numbers (one a block), each at least the number of kernels", widths)
    expect(several(depths, 1, 32) and len(depths) == blocks, "depths", f"None or {blocks} whole numbers from 1 to 32", depths)
    expect(contrast is None or whole(contrast, 3, 1023) and contrast % 2, "contrast",
           "None or an odd whole number from 3 to 1023", contrast)
    expect(one_of(skip, ("none", "add", "concat")), "skip", '"none", "add" or "concat"', skip)
    expect(one_of(output, ("sigmoid", "softmax")), "output", '"sigmoid" or "softmax"', output)
    expect(one_of(activation, ("relu", "silu")), "activation", '"relu" or "silu"', activation)
    expect(real(dropout, 0) and dropout < 1, "dropout", "a number in [0, 1)", dropout)
    expect(isinstance(normalize, bool), "normalize", "True or False", normalize)
    expect(isinstance(residual, bool), "residual", "True or False", residual)
    expect(whole(rays) and (rays == 0 or 8 <= rays <= 1024), "rays", "0 or a whole number from 8 to 1024", rays)
    expect(whole(seed, 0, 2**32 - 1), "seed", f"a whole number from 0 to {2**32 - 1}", seed)
    widest, largest = max(map(int, widths)), max(map(int, kernels))
    weights = 2 * sum(map(int, depths)) * (widest * largest)**2
    weights += (int(classes) + int(channels)) * int(patch)**2 * int(widths[0])
    expect(weights <= WEIGHTS, "widths", f"with these kernels, depths and patch at most {WEIGHTS} weights, about", widths)
