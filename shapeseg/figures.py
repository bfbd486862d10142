"""One figure: its kind, its outline, its pixels."""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from shapeseg.utils import expect

CLASSES = ("circle", "triangle", "quad", "pentagon", "unknown")
KINDS = ("circle", "triangle", "quad", "pentagon", "star", "cross", "hexagon", "ell")
NOVEL_KINDS = ("arrow", "heart", "drop")  # unknown figures that no training scene holds: they show whether "unknown" means anything
# An open family of unknown figures: each of these kinds is random itself, so that "unknown" is learned as none of the four.
OPEN_KINDS = ("blob", "irregular", "spiky", "ring", "comb", "letter", "moon", "sector", "rod")
LABELS = {kind: kind if kind in CLASSES else "unknown" for kind in KINDS + NOVEL_KINDS + OPEN_KINDS}

# What keeps a polygon true to its class: smallest and largest interior angle in degrees, shortest side as a share of the longest.
ANGLES_AND_SIDES = {3: (35, 100, 0.5), 4: (60, 125, 0.5), 5: (80, 135, 0.5)}
GRID = 64  # vertices are rounded to 1/64 pixel, so that no platform's sine decides about a pixel


def check_names(classes, count=None):
    """Return class names as a list, `count` of them, or raise a ValueError; None: ours if there are five, else "class 1", …"""
    if classes is None:
        classes = CLASSES if count == len(CLASSES) else [f"class {n + 1}" for n in range(count)]
    expect(isinstance(classes, (list, tuple)) and len({*classes}) == len(classes) == (count or len(classes) or 1), "classes",
           f"{count or 'a list of'} different names", classes)
    return list(classes)


@dataclass(frozen=True)
class Figure:
    kind: str  # what was drawn, for example "star"
    label: str  # the class that it belongs to, for example "unknown"
    centre: tuple  # (row, column) in pixels
    radius: float  # distance in pixels from the centre to the farthest vertex
    angle: float  # rotation in radians
    colour: tuple  # one level in [0, 255] per channel: (grey,) or (red, green, blue)
    opacity: float  # in (0, 1]; at 1 nothing shows through
    vertices: np.ndarray  # (V, 2) float, (row, column) in pixels, closed from the last vertex to the first


def place(vertices, centre, radius, angle):
    """Rotate, scale and move an outline from `outline`; (V, 2), rounded to 1/64 pixel."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.rint((centre + radius * (vertices @ np.array([[cos, sin], [-sin, cos]]))) * GRID) / GRID


def fill(vertices, shape=None):
    """The pixels whose centres (whole numbers) are inside an outline, by the even-odd rule: their box, two slices, (h, w) bool.

    With a shape (height, width), only those that are in an image of that size.
    """
    vertices = np.asarray(vertices, float)
    expect(vertices.shape[1:] == (2,) and len(vertices) >= 3 and np.isfinite(vertices).all(), "vertices",
           "(V, 2) finite numbers, V from 3", vertices)
    (top, left), (bottom, right) = vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()
    top, left, bottom, right = ceil(top), ceil(left), floor(bottom) + 1, floor(right) + 1
    height, width = max(bottom - top, 0), max(right - left, 0)
    # The scan lines that each edge crosses: first to last, all edges one after another.
    closed = np.concatenate([vertices, vertices[:1]])
    line = np.ceil(closed[:, 0])
    count = np.abs(line[1:] - line[:-1]).astype(int)
    skip = np.minimum(line[:-1], line[1:]) - count.cumsum() + count
    edges = np.concatenate([closed[:-1], closed[1:] - closed[:-1], skip[:, None]], axis=1)
    r, c, r_side, c_side, skip = np.repeat(edges, count, axis=0).T
    row = np.arange(len(skip)) + skip
    column = np.ceil(c + (row - r) * (c_side / r_side)) - left
    # Each row has an even number of crossings, so all rows can be taken as one: every second stretch of pixels is inside.
    crossings = np.sort((row - top) * width + np.minimum(np.maximum(column, 0), width))
    ends = np.concatenate([[0], crossings, [height * width]]).astype(int)
    odd = np.zeros(len(ends) - 1, bool)
    odd[1::2] = True
    box, inside = (slice(top, bottom), slice(left, right)), np.repeat(odd, ends[1:] - ends[:-1]).reshape(height, width)
    if shape is None:
        return box, inside
    seen = tuple(slice(max(-side.start, 0), max(size - side.start, 0)) for side, size in zip(box, shape))
    return tuple(slice(max(side.start, 0), max(min(side.stop, size), 0)) for side, size in zip(box, shape)), inside[seen]


def outline_mask(vertices, shape):
    """The pixels inside an outline in an image of this (height, width), also of an outline that leaves it; (H, W) bool."""
    mask = np.zeros(shape, bool, "F")  # as COCO encodes it, column by column
    box, inside = fill(vertices, shape)
    mask[box] = inside
    return mask


def overlap(first, second):
    """Pixels that two figures share, as a share of the smaller one's, in [0, 1]."""
    (rows, columns), both = fill(np.concatenate([first.vertices, second.vertices]))
    a, b = (outline_mask(figure.vertices - (rows.start, columns.start), both.shape) for figure in (first, second))
    return float((a & b).sum() / max(min(a.sum(), b.sum()), 1))


def blend(under, colour, opacity):
    """Levels after a figure of this colour and opacity was laid over them; uint8, rounded."""
    under = under.astype(np.float32)
    return np.rint(under + np.float32(opacity) * (np.float32(colour) - under)).astype(np.uint8)


def rim(inside):
    """Rows and columns of the pixels of a mask that have one of their four neighbours outside of it."""
    padded = np.zeros((inside.shape[0] + 2, inside.shape[1] + 2), bool)
    padded[1:-1, 1:-1] = inside
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return (inside > core).nonzero()


def angles_and_sides(vertices):
    """Interior angles in degrees (over 180 where it is not convex) and side lengths of polygons (..., V, 2), clockwise."""
    points = np.ascontiguousarray(vertices, float).view(complex)[..., 0]
    closed = np.concatenate([points[..., -1:], points, points[..., :1]], axis=-1)
    sides = closed[..., 1:] - closed[..., :-1]  # the first one leads to the first vertex
    return 180 - np.degrees(np.angle(sides[..., :-1] / sides[..., 1:])), np.abs(sides[..., 1:])


def _polar(jitter, radii):
    """Vertices (..., V, 2), clockwise from the top, one in each V-th part of the circle."""
    angles = 2 * np.pi * (np.arange(radii.shape[-1]) + jitter) / radii.shape[-1]
    return np.stack([-radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


def _polygon(corners, rng):
    min_angle, max_angle, shortest = ANGLES_AND_SIDES[corners]
    while True:  # about one candidate in four is good
        candidates = _polar(rng.uniform(-0.25, 0.25, (16, corners)), rng.uniform(0.7, 1.0, (16, corners)))
        angles, sides = angles_and_sides(candidates)
        good = ((angles >= min_angle) & (angles <= max_angle) & (sides >= shortest * sides.max(axis=1, keepdims=True))).all(axis=1)
        if good.any():
            return candidates[good.argmax()]


LETTERS = {  # corners in units of (height, width), where 2 is to be 1 - the stroke and -1 the stroke
    "T": [(0, 0), (0, 3), (1, 3), (1, 2), (3, 2), (3, 1), (1, 1), (1, 0)], "U": [(0, 0), (3, 0), (3, 3), (0, 3), (0, 2), (2, 2), (2, 1), (0, 1)],
    "Z": [(0, 0), (0, 2), (2, 2), (2, 3), (3, 3), (3, 1), (1, 1), (1, 0)],
    "F": [(0, 0), (3, 0), (3, 1), (2, 1), (2, 2.5), (1.5, 2.5), (1.5, 1), (1, 1), (1, 3), (0, 3)],
    "H": [(0, 0), (3, 0), (3, 1), (2, 1), (2, 2), (3, 2), (3, 3), (0, 3), (0, 2), (1, 2), (1, 1), (0, 1)]}


def outline(kind, rng):
    """A random outline of one kind about the origin, (V, 2), the farthest vertex at distance 1; `rng` is a RandomState."""
    around = 2 * np.pi * np.arange(64) / 64
    cos, sin = np.cos(around), np.sin(around)
    match kind:
        case "circle":
            vertices = _polar(0, np.ones(128))
        case "triangle" | "quad" | "pentagon":
            vertices = _polygon(CLASSES.index(kind) + 2, rng)
        case "star":
            vertices = _polar(0, np.array(rng.randint(5, 7) * [1.0, rng.uniform(0.35, 0.5)]))
        case "cross":
            w = rng.uniform(0.22, 0.34)  # half the width of an arm
            arm, quarter = np.array([(-w, -w), (-1, -w), (-1, w)]), np.array([[0, -1], [1, 0]])
            vertices = np.concatenate([arm @ np.linalg.matrix_power(quarter, k) for k in range(4)])
        case "hexagon":
            vertices = _polar(0, rng.uniform(0.85, 1.0, 6))
        case "ell":
            w, (a, b) = rng.uniform(0.18, 0.28), rng.uniform(0.75, 1.0, 2)
            vertices = np.array([(-w, -w), (-w, a), (w, a), (w, w), (b, w), (b, -w)])
        case "arrow":
            w, barb = rng.uniform(0.15, 0.25), rng.uniform(0.6, 0.8)
            vertices = np.array([(-1, 0), (0, barb), (0, w), (0.9, w), (0.9, -w), (0, -w), (0, -barb)])
        case "heart":
            rows = -13 * cos + 5 * np.cos(2 * around) + 2 * np.cos(3 * around) + np.cos(4 * around)
            vertices = np.stack([rows, 16 * sin**3], axis=-1)
        case "drop":
            vertices = np.stack([-cos, sin * np.sin(around / 2) ** rng.uniform(1.5, 2.5)], axis=-1)
        case "blob":
            waves = np.arange(2, rng.randint(4, 8))
            swing = np.cos(waves * around[:, None] + rng.uniform(0, 6.28, len(waves)))
            vertices = _polar(0, np.maximum(1 + swing @ (rng.uniform(0.15, 0.4, len(waves)) / waves ** 0.5), 0.25))
        case "irregular":
            vertices = _polar(0, np.tile([0.5, 0], n := rng.randint(4, 7)) + rng.uniform(0.25, 0.5, 2 * n))
        case "spiky":
            vertices = _polar(0, np.array(rng.randint(4, 10) * [1.0, rng.uniform(0.25, 0.55)]))
        case "ring":
            corners, thin = (64, 3, 4, 6)[rng.randint(4)], rng.uniform(0.4, 0.75)
            outer = np.pad(_polar(0, np.ones(corners)) * (1, rng.uniform(0.75, 1)), ((0, 1), (0, 0)), "wrap")
            vertices = np.concatenate([outer, thin * outer[::-1]])  # a seam that nobody sees leads from one to the other
        case "comb":
            teeth, height, back = rng.randint(2, 5), rng.uniform(0.4, 1.2), rng.uniform(0.2, 0.5)
            columns = np.arange(2 * teeth).repeat(2)[1:-1] / (2 * teeth - 1)
            rows = height * np.resize([1, 1, back, back], 4 * teeth - 2)
            vertices = np.array([(0, 0), (height, 0), *zip(rows, columns), (height, 1), (0, 1)])
        case "letter":
            stroke = rng.uniform(0.22, 0.38)
            corners = [*LETTERS.values()][rng.randint(len(LETTERS))]
            vertices = np.interp(corners, [0, 1, 2, 3], [0, stroke, 1 - stroke, 1]) * (1, rng.uniform(0.7, 1))
        case "moon":
            angles = np.linspace(-np.pi / 2, np.pi / 2, 40)
            half = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
            vertices = np.concatenate([half, half[::-1] * (1, rng.uniform(-0.3, 0.75))])
        case "sector":
            angles = np.linspace(0, rng.uniform(0.7, 4.6), 40)
            vertices = np.array([*zip(np.cos(angles), np.sin(angles)), (0, 0)])
        case "rod":
            power, both = 2 / rng.uniform(1.5, 6), np.stack([cos, sin], axis=-1)
            vertices = np.sign(both) * np.abs(both) ** power * (1, rng.uniform(0.12, 0.4))
    if kind in ("comb", "letter", "moon", "sector"):
        vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return vertices / np.hypot(*vertices.T).max()
