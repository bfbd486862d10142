"""Objects, told apart: at each object's centre the network gives its class and its whole outline."""

from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as rle
from scipy.ndimage import map_coordinates
from scipy.optimize import linear_sum_assignment
from scipy.special import expit

from shapeseg.backend import tf
from shapeseg.datasets import Batches
from shapeseg.figures import CLASSES, check_names, outline_mask
from shapeseg.inference import run_network
from shapeseg.scenes import draw_scene
from shapeseg.utils import expect, is_number

NMS_IOU = 0.5  # two outlines whose IoU is higher are one object (non-maximum suppression)
MAX_PEAKS, PIXELS_PER_PEAK = 100, 2500  # so many of the peaks are looked at, the surest, or one per so many pixels
WINDOW = 3  # side of the window in which a centre is the highest, and of that around it in which its outline is learned
LOOK, SPREAD = np.linspace(0.5, 1.5, 41), 0.25  # where a second look searches, and how far off rays may be: shares of their lengths
FAINT = 0.05  # edges that are less likely move no ray
MAX_LOG_RAY = 7.0  # the network gives the logarithms of the rays in patches, and exp must not overflow


@dataclass(frozen=True)
class Object:
    label: str  # its class
    score: float  # how sure the network is; ours are in [0, 1]
    centre: tuple  # (row, column) in pixels
    outline: np.ndarray = field(repr=False)  # (V, 2), (row, column) in pixels: whole, also where another lies over it
    def mask(self, shape):
        """All pixels inside the outline, hidden ones too; (H, W) bool for `shape` = (H, W)."""
        return outline_mask(self.outline, shape)


def find_objects(model, image, threshold=0.3, classes=None):
    """The objects in an image, (H, W, C) uint8 of any height and width, and its masks, from one pass of the network.

    The model is from ``build_model(rays=…)`` or ``load_model("objects")``; `classes` names its masks. Returns a list of the Objects
    with a score of at least `threshold`, in (0, 1), the surest first, each drawn in full, also where it lies under another; and the
    masks, (H, W, K) float32 in [0, 1], as `predict` gives them. Raises a ValueError. Sources: Zhou et al. 2019 (centres as a heat
    map), Schmidt et al. 2018, Xie et al. 2020 (outlines as rays), Blake and Isard 1998 (a second look, for edges along lines).
    """
    expect(len(getattr(model, "outputs", ())) == 4, "model", 'one from build_model(rays=64) or load_model("objects")',
           "a network without rays" if hasattr(model, "outputs") else model)
    expect(is_number(threshold) and 0 < threshold < 1, "threshold", "a number between 0 and 1", threshold)
    expect(np.ndim(image) == 3, "image", f"one image (H, W, {model.input_shape[-1]}) uint8", np.asarray(image), "image[..., None] adds a channel")
    names = check_names(classes, model.outputs[1].shape[-1])
    masks, *others = (result[0] for result in run_network(model, np.asarray(image)[None]))
    return decode(*others, model.get_layer("fold").patch, threshold, names), masks


def match_objects(figures, objects, shape, min_iou=0.5):
    """Per figure the index of its object, or -1: of one class, with the largest sum of IoUs of at least `min_iou` (Kuhn 1955)."""
    matched = [-1] * len(figures)
    if figures and objects:
        ious = rle.iou(encode_outlines([figure.vertices for figure in figures], shape),
                       encode_outlines([one.outline for one in objects], shape), [0] * len(objects))
        ious *= [[figure.label == one.label for one in objects] for figure in figures]
        for row, column in zip(*linear_sum_assignment(np.where(ious >= min_iou, ious, 0), maximize=True)):
            if ious[row, column] >= min_iou:
                matched[row] = int(column)
    return matched


def encode_outlines(outlines, shape):
    """COCO's run-length encoding of the pixels inside each outline, in an image of this (height, width)."""
    return [rle.encode(outline_mask(outline, shape).view(np.uint8)) for outline in outlines]


def directions(rays):
    angles = 2 * np.pi * np.arange(rays) / rays  # evenly spread
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1)


def anchor(figure):
    """The middle of all points that see the whole outline: it moves as little as that does. Where none does, `figure.centre`."""
    v, w = figure.vertices, np.roll(figure.vertices, -1, axis=0)
    def cross(a, b):
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    def sides(points):  # -1 or 1: whether a point is left or right of each side; all the same if it sees the whole outline
        return np.sign(cross(v - points[:, None], w - points[:, None]))
    if np.ptp(sides(v)) < 2:  # convex: its centre of mass
        return ((v + w) * cross(v, w)[:, None]).sum(axis=0) / (3 * cross(v, w).sum())
    points = v.min(axis=0) + np.ptp(v, axis=0) * np.argwhere(np.ones((32, 32))) / 31
    see = abs(sides(points).sum(axis=1)) == len(v)
    return points[see].mean(axis=0) if see.any() else np.array(figure.centre)


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
    meets = (t >= 0) & (s >= -1e-9) & (s <= 1 + 1e-9)
    return np.where(meets, t, 0).max(axis=1)


def encode(scene, rays, rows, classes=CLASSES):
    """A scene's targets, (rows, 3 + R) float32: a figure's class number, `anchor` and rays per row; class -1 where none is left."""
    table = np.zeros((rows, 3 + rays), np.float32)
    table[:, 0] = -1
    for row, figure in zip(table, scene.figures):
        centre = anchor(figure)
        row[:] = classes.index(figure.label), *centre, *measure_rays(figure.vertices, centre, rays)
    return table


def draw_edges(scene):
    """The pixels on both sides of each outline, also where another figure lies over it; (H, W, 1) bool."""
    edges = np.zeros((*scene.masks.shape[:2], 1), bool)
    for figure in scene.figures:
        inside = outline_mask(figure.vertices, edges.shape[:2])[..., None]
        for ours, other in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
            edges[ours] |= (differ := inside[ours] != inside[other])
            edges[other] |= differ
    return edges


def stream_targets(config, model, seed, **place):
    """Batches of scenes for a network with rays: images; and masks, the table of `encode` for centres and outlines, and edges."""
    def load(n):
        scene = draw_scene(config, seed, n)
        table = encode(scene, model.outputs[2].shape[-1] - 2, config.figures[1], config.classes)
        return scene.image, scene.masks, table, draw_edges(scene)
    return ((images, (masks, table, table, edges)) for images, masks, table, edges in Batches(load, seed, **place))


def centres_loss(patch, classes):
    """The loss of the centres: a heat map for each class, with a bump at each centre."""
    def loss(targets, logits):
        figure = tf.one_hot(tf.cast(targets[..., 0], tf.int32), classes)  # (N, M, K); none for the rows left over
        centres = (targets[..., 1:3] - (patch - 1) / 2) / patch  # in pixels of the map
        away = [tf.range(tf.cast(tf.shape(logits)[1 + axis], tf.float32)) - centres[..., axis, None] for axis in (0, 1)]
        rows, columns = [tf.exp(-tf.square(pixels) / 2) for pixels in away]  # (N, M, h), (N, M, w): a standard deviation is a pixel
        heat = tf.minimum(tf.einsum("nmk,nmh,nmw->nhwk", figure, rows, columns), 1)
        # Squared errors as weights: the many pixels that are easily seen to be no centre count little (Li et al. 2020).
        error = tf.square(heat - tf.sigmoid(logits)) * tf.nn.sigmoid_cross_entropy_with_logits(heat, logits)
        return tf.reduce_mean(tf.reduce_sum(error, (1, 2, 3)) / tf.maximum(tf.reduce_sum(figure, (1, 2)), 1))
    return loss


def outlines_loss(patch):
    """The loss of the outlines, at the pixels around each centre: the offset to the centre, and the rays from there."""
    offsets = tf.range(WINDOW, dtype=tf.float32) - WINDOW // 2
    window = tf.reshape(tf.stack(tf.meshgrid(offsets, offsets, indexing="ij"), -1), (-1, 2))

    def loss(targets, found):
        figure = tf.cast(targets[..., 0] >= 0, tf.float32)
        centres, true = (targets[..., 1:3] - (2 * patch - 1) / 2) / (2 * patch), targets[:, :, None, 3:]
        pixels = tf.round(centres)[:, :, None] + window  # (N, M, 9, 2)
        last = tf.cast(tf.shape(found)[1:3], tf.float32) - 1
        weight = figure[..., None] * tf.cast(tf.reduce_all((pixels >= 0) & (pixels <= last), -1), tf.float32)
        at = tf.gather_nd(found, tf.cast(tf.clip_by_value(pixels, 0, last), tf.int32), batch_dims=1)
        offset = tf.norm(at[..., :2] - (centres[:, :, None] - pixels) + 1e-6, axis=-1)
        ours = patch * tf.exp(tf.minimum(at[..., 2:], MAX_LOG_RAY))
        # Of the rays, −log of an IoU (PolarMask, with squares): the polar areas that target and prediction have in common, over
        # those that either has; of the offset, the distance in pixels of the map.
        intersection, union = (tf.reduce_sum(tf.square(f(ours, true)), -1) for f in (tf.minimum, tf.maximum))
        error = weight * (offset / 4 - tf.math.log(tf.maximum(intersection / union, 1e-3)))
        return tf.reduce_mean(tf.reduce_sum(error, (1, 2)) / tf.maximum(tf.reduce_sum(weight, (1, 2)), 1))
    return loss


def decode(centres, outlines, edges, patch, threshold, classes=CLASSES):
    """Objects from the centres (h, w, K), outlines (h / 2, w / 2, 2 + R) and edges (H, W, 1) of one image; the surest first."""
    heat, shape = expit(centres), edges.shape[:2]
    highest = tf.nn.max_pool2d(heat[None], WINDOW, 1, "SAME").numpy()[0]
    peaks = np.argwhere((heat == highest) & (heat >= threshold))
    surest = np.argsort(-heat[tuple(peaks.T)], kind="stable")[:max(MAX_PEAKS, np.prod(shape) // PIXELS_PER_PEAK)]
    pixels, objects, kept = peaks[surest, :2] // 2, [], []
    offsets, rays = np.split(outlines[tuple(pixels.T)], [2], axis=1)
    places = (pixels + offsets) * 2 * patch + (2 * patch - 1) / 2
    rays = np.minimum(patch * np.exp(np.minimum(rays, MAX_LOG_RAY)), 2 * max(shape))  # what is longer ends outside, too
    ends = places[:, None] + refine(edges[..., 0], places, rays)[..., None] * directions(rays.shape[1])
    for peak, centre, outline in zip(peaks[surest], places, ends):
        inside = encode_outlines([outline], shape)
        if not kept or rle.iou(inside, kept, [0] * len(kept)).max() <= NMS_IOU:
            objects.append(Object(classes[peak[2]], float(heat[tuple(peak)]), tuple(centre.tolist()), outline))
            kept += inside
    return objects


def refine(edges, centres, rays):
    """A second look along the rays (M, R): each ends at the surest edge near the length that the network gave it, to the pixel."""
    lengths = rays[..., None] * LOOK
    points = centres[:, None, None] + lengths[..., None] * directions(rays.shape[1])[:, None]
    found = expit(map_coordinates(edges, np.moveaxis(points, -1, 0), order=1, cval=-MAX_LOG_RAY))
    near = np.exp(-np.square((LOOK - 1) / SPREAD) / 2)
    return rays * LOOK[np.argmax(np.maximum(found, FAINT) * near, axis=-1)]
