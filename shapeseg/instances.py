"""Objects, told apart: at each object's centre the network gives its class and its whole outline."""

from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as rle
from scipy.optimize import linear_sum_assignment
from skimage.draw import polygon2mask

from shapeseg.backend import tf
from shapeseg.checks import as_array, check_all, check_names, check_outline, check_shape, expect, real
from shapeseg.figures import CLASSES, Figure, check_point
from shapeseg.inference import run_network
from shapeseg.models import is_network

SPREAD = 1.0  # standard deviation of a centre's bump in the heat map, in its pixels
SAME = 0.6  # two outlines whose IoU is greater are one object
MOST, ROOM = 100, 2500  # of the peaks so many are looked at, the surest, or one for so many pixels of the image
NEAR = 3  # side of the window in which a centre is the highest, and of that around it in which its outline is learned


@dataclass(frozen=True)
class Object:
    """One found object.

    Attributes
    ----------
    label : str
        Its class.
    score : float
        How sure the network is; ours are in [0, 1].
    centre : (row, column)
        In pixels.
    outline : (V, 2) array of float
        The whole outline as (row, column) in pixels, also where another object lies over it.

    Raises
    ------
    ValueError
        If a value is not as above.
    """

    label: str
    score: float
    centre: tuple
    outline: np.ndarray = field(repr=False)

    def __post_init__(self):
        expect(isinstance(self.label, str), "label", "a text", self.label)
        expect(real(self.score), "score", "a number", self.score)
        check_point(self.centre)
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "outline", check_outline(self.outline, "outline"))

    def mask(self, shape):
        """The amodal mask: all pixels inside the outline; (H, W) bool for `shape` = (H, W)."""
        return polygon2mask(check_shape(shape), self.outline)


def find_objects(model, image, threshold=0.3, classes=CLASSES):
    """The objects in an image, and its masks, from one pass of the network.

    Parameters
    ----------
    model : keras.Model
        From ``build_model(rays=…)`` or ``load_model("objects")``.
    image : (H, W, C) array of uint8
        Any height and width.
    threshold : float
        In (0, 1); objects with a lower score are left out.
    classes : sequence of str
        Names of the mask channels.

    Returns
    -------
    objects : list of Object
        The surest first. Each is drawn in full, also where it lies under another of its class.
    masks : (H, W, K) array of float32
        What `predict` gives for this image.

    Raises
    ------
    ValueError
        If the model has no rays, or another argument is not as above.

    References
    ----------
    Centres as a heat map: Zhou et al. 2019, "Objects as points". Outlines as distances along rays:
    Schmidt et al. 2018 (StarDist); Xie et al. 2020 (PolarMask).
    """
    expect(is_network(model) and len(model.outputs) == 3, "model",
           'a network that finds objects, from build_model(rays=64) or load_model("objects")', model)
    expect(real(threshold) and 0 < threshold < 1, "threshold", "a number between 0 and 1", threshold)
    image, channels, names = as_array(image, "image"), model.input_shape[-1], check_names(classes, model.outputs[1].shape[-1])
    expect(image.ndim == 3 and image.dtype == np.uint8 and image.size and image.shape[-1] == channels, "image",
           f"one image (H, W, {channels}) uint8", image)
    masks, centres, outlines = (result[0] for result in run_network(model, image[None]))
    return decode(centres, outlines, model.get_layer("fold").patch, float(threshold), names), masks


def match(figures, objects, shape, least=0.5):
    """Which object is which figure: of one class, with the greatest sum of IoUs (Kuhn 1955).

    Parameters
    ----------
    figures : sequence of Figure
    objects : sequence of Object
    shape : (int, int)
        Height and width of the image in pixels.
    least : float
        In (0, 1]: pairs with a lower IoU are none.

    Returns
    -------
    list of int
        For each figure the index of its object, or -1. No object stands for two figures.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    figures = check_all(figures, Figure, "figures", "Figures")
    objects, shape = check_all(objects, Object, "objects", "Objects"), check_shape(shape)
    expect(real(least, 0, 1) and least > 0, "least", "a number in (0, 1]", least)
    matched = [-1] * len(figures)
    if figures and objects:
        ious = rle.iou(runs([figure.vertices for figure in figures], shape), runs([one.outline for one in objects], shape),
                       [0] * len(objects))
        ious *= [[figure.label == one.label for one in objects] for figure in figures]
        for row, column in zip(*linear_sum_assignment(np.where(ious >= least, ious, 0), maximize=True)):
            if ious[row, column] >= least:
                matched[row] = int(column)
    return matched


def directions(rays):
    """Unit vectors (row, column) of evenly spread rays; (R, 2)."""
    angles = 2 * np.pi * np.arange(rays) / rays
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1)


def star(vertices, centre):
    """Is an outline star-convex about a point? Then every ray from there leaves it once."""
    spokes = vertices - centre
    ends = np.roll(spokes, -1, axis=0)
    turns = spokes[:, 0] * ends[:, 1] - spokes[:, 1] * ends[:, 0]
    return bool((turns > 0).all() or (turns < 0).all())


def middle(figure):
    """The point that stands for a figure: its centre of mass or, if that sees not all of the outline, `figure.centre`.

    All figures that are drawn are star-convex about one of the two.
    """
    v, w = figure.vertices, np.roll(figure.vertices, -1, axis=0)
    areas = v[:, 0] * w[:, 1] - v[:, 1] * w[:, 0]
    mass = ((v + w) * areas[:, None]).sum(axis=0) / (3 * areas.sum())
    return mass if star(figure.vertices, mass) else np.array(figure.centre)


def measure_rays(vertices, centre, rays):
    """The distances from a centre to an outline along `rays` evenly spread directions; (R,), pixels."""
    v = vertices - centre
    along = directions(rays)
    side = np.roll(v, -1, axis=0) - v
    # Each ray t·d meets each side v + s·side where both equations agree; s must lie on the side.
    across = along[:, None, 0] * side[:, 1] - along[:, None, 1] * side[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (v[:, 0] * side[:, 1] - v[:, 1] * side[:, 0]) / across
        s = (v[:, 0] * along[:, None, 1] - v[:, 1] * along[:, None, 0]) / across
    hit = (t >= 0) & (s >= -1e-9) & (s <= 1 + 1e-9)
    return np.where(hit, t, 0).max(axis=1)


def encode(scene, rays, most, classes=CLASSES):
    """What the network learns about a scene's objects.

    Parameters
    ----------
    scene : Scene
    rays : int
        R, of the network.
    most : int
        Rows of the result, at least as many as figures.
    classes : sequence of str
        Names of the mask channels.

    Returns
    -------
    (most, 3 + R) array of float32
        One row a figure: class number, row and column of its `middle`, distances along the rays, in
        pixels. The class number is -1 in the rows that are left over.
    """
    table = np.zeros((most, 3 + rays), np.float32)
    table[:, 0] = -1
    for row, figure in zip(table, scene.figures, strict=False):
        centre = middle(figure)
        row[0], row[1:3] = classes.index(figure.label), centre
        row[3:] = measure_rays(figure.vertices, centre, rays)
    return table


def centres_loss(patch, classes):
    """The loss of the centres: a heat map for each class, with a bump at each centre.

    Cross-entropy with a soft target, weighted by the squared error, so that the many pixels that are
    easily seen to be no centre count little (Li et al. 2020, "Generalized focal loss").
    """
    def loss(targets, logits):
        figure = tf.one_hot(tf.cast(targets[..., 0], tf.int32), classes)  # (N, M, K); none for the rows left over
        centres = in_pixels_of(targets[..., 1:3], patch)

        def bumps(size, at):  # (N, M, size)
            away = tf.range(tf.cast(size, tf.float32)) - at[..., None]
            return tf.exp(-tf.square(away / SPREAD) / 2)

        rows, columns = bumps(tf.shape(logits)[1], centres[..., 0]), bumps(tf.shape(logits)[2], centres[..., 1])
        heat = tf.minimum(tf.einsum("nmk,nmh,nmw->nhwk", figure, rows, columns), 1)
        miss = tf.square(heat - tf.sigmoid(logits)) * tf.nn.sigmoid_cross_entropy_with_logits(heat, logits)
        return _mean(tf.reduce_sum(miss, (1, 2, 3)) / tf.maximum(tf.reduce_sum(figure, (1, 2)), 1))

    return loss


def outlines_loss(patch):
    """The loss of the outlines, at the pixels around each centre: the way to the centre, and the rays from there.

    Of the rays it is −log of an IoU: the polar areas that target and prediction have in common, over
    those that either has (PolarMask, with squares); of the way, the distance in pixels of the map.
    """
    steps = tf.range(NEAR, dtype=tf.float32) - NEAR // 2
    window = tf.reshape(tf.stack(tf.meshgrid(steps, steps, indexing="ij"), -1), (-1, 2))

    def loss(targets, found):
        figure = tf.cast(targets[..., 0] >= 0, tf.float32)
        centres, true = in_pixels_of(targets[..., 1:3], 2 * patch), targets[:, :, None, 3:]
        pixels = tf.round(centres)[:, :, None] + window  # (N, M, 9, 2)
        last = tf.cast(tf.shape(found)[1:3], tf.float32) - 1
        weight = figure[..., None] * tf.cast(tf.reduce_all((pixels >= 0) & (pixels <= last), -1), tf.float32)
        at = tf.gather_nd(found, tf.cast(tf.clip_by_value(pixels, 0, last), tf.int32), batch_dims=1)
        way = tf.norm(at[..., :2] - (centres[:, :, None] - pixels) + 1e-6, axis=-1)
        ours = rays_of(at[..., 2:], patch, tf)
        both, either = (tf.reduce_sum(tf.square(f(ours, true)), -1) for f in (tf.minimum, tf.maximum))
        miss = weight * (way / 4 - tf.math.log(tf.maximum(both / either, 1e-3)))
        return _mean(tf.reduce_sum(miss, (1, 2)) / tf.maximum(tf.reduce_sum(weight, (1, 2)), 1))

    return loss


def _mean(of_scenes):
    return tf.reduce_mean(of_scenes) / tf.distribute.get_strategy().num_replicas_in_sync  # each has a part of the batch


def in_pixels_of(points, size):
    """Points (row, column) of the image in pixels of a map whose pixels are `size` wide and high."""
    return (points - (size - 1) / 2) / size


def rays_of(channels, patch, library=np):
    """Distances in pixels from the rays' channels."""
    return patch * library.exp(library.minimum(channels, 7.0))


def decode(centres, outlines, patch, threshold, classes=CLASSES):
    """Objects from the centres (h, w, K) and outlines (h / 2, w / 2, 2 + R) of one image; the surest first."""
    heat = 1 / (1 + np.exp(-centres))
    highest = tf.nn.max_pool2d(heat[None], NEAR, 1, "SAME").numpy()[0]
    peaks = np.argwhere((heat == highest) & (heat >= threshold))
    scores = heat[tuple(peaks.T)]
    shape = tuple(patch * side for side in heat.shape[:2])
    objects, kept = [], []
    for number in np.argsort(-scores, kind="stable")[:max(MOST, np.prod(shape) // ROOM)]:
        row, column, label = peaks[number]
        pixel = np.array([row, column]) // 2
        channels = outlines[tuple(pixel)]
        centre = (pixel + channels[:2]) * 2 * patch + (2 * patch - 1) / 2
        rays = np.minimum(rays_of(channels[2:], patch), 2 * max(shape))  # what is longer ends outside, too
        outline = centre + rays[:, None] * directions(len(rays))
        inside = runs([outline], shape)
        if not kept or rle.iou(inside, kept, [0] * len(kept)).max() <= SAME:
            objects.append(Object(classes[label], float(scores[number]), tuple(centre.tolist()), outline))
            kept += inside
    return objects


def runs(outlines, shape):
    """COCO's run-length encoding of the pixels inside each outline, in an image of this (height, width)."""
    return rle.frPyObjects([(outline[:, ::-1] + 0.5).ravel().tolist() for outline in outlines], *shape)
