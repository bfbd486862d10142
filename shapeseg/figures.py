"""One figure: its kind, its outline, its pixels."""

from dataclasses import dataclass
from functools import partial
from math import ceil, floor

import numpy as np

from shapeseg.checks import SIDE, check_outline, expect, one_of, outline_and_box, real, whole

CLASSES = ("circle", "triangle", "quad", "pentagon", "unknown")

# Unknown figures that no training scene holds: they show whether "unknown" means anything.
NOVEL_KINDS = ("arrow", "heart", "drop")
KINDS = ("circle", "triangle", "quad", "pentagon", "star", "cross", "hexagon", "ell")
LABELS = {kind: kind if kind in CLASSES else "unknown" for kind in KINDS + NOVEL_KINDS}

# What keeps a polygon true to its class: least and greatest interior angle (degrees), and the
# shortest side as a fraction of the longest.
ANGLES_AND_SIDES = {3: (35, 100, 0.5), 4: (60, 125, 0.5), 5: (80, 135, 0.5)}

GRID = 64  # vertices are rounded to 1/64 pixel, so that no platform's sine decides about a pixel


@dataclass(frozen=True)
class Figure:
    """One drawn figure.

    Attributes
    ----------
    kind : str
        What was drawn, for example "star".
    label : str
        The class that it belongs to, for example "unknown".
    centre : (row, column)
        In pixels. The figure is star-convex about it: every ray from it leaves the figure once.
    radius : float
        Distance in pixels from the centre to the farthest vertex.
    angle : float
        Rotation in radians.
    colour : tuple of int
        One level in [0, 255] a channel: (grey,) or (red, green, blue).
    opacity : float
        In (0, 1]; at 1 nothing shows through.
    vertices : (V, 2) array of float
        The outline as (row, column) in pixels, closed from the last vertex to the first.

    Raises
    ------
    ValueError
        If a value is not as above.
    """

    kind: str
    label: str
    centre: tuple
    radius: float
    angle: float
    colour: tuple
    opacity: float
    vertices: np.ndarray

    def __post_init__(self):
        for name in ("kind", "label"):
            expect(isinstance(getattr(self, name), str), name, "a text", getattr(self, name))
        check_point(self.centre)
        expect(real(self.radius, 0), "radius", "a number from 0", self.radius)
        expect(real(self.angle), "angle", "a number", self.angle)
        expect(isinstance(self.colour, tuple) and all(whole(level, 0, 255) for level in self.colour), "colour",
               "a tuple of levels from 0 to 255", self.colour)
        expect(real(self.opacity, 0, 1), "opacity", "a number from 0 to 1", self.opacity)
        object.__setattr__(self, "vertices", check_outline(self.vertices, "vertices"))


def check_point(centre):
    """Raise a ValueError unless this is the centre of something."""
    expect(isinstance(centre, tuple) and len(centre) == 2 and all(map(real, centre)), "centre", "(row, column)", centre)


def outline(kind, rng):
    """A random outline of one kind, about the origin.

    Parameters
    ----------
    kind : str
        One of ``KINDS`` or ``NOVEL_KINDS``.
    rng : numpy.random.RandomState
        Where the random numbers come from (its stream is promised never to change).

    Returns
    -------
    (V, 2) array of float
        Vertices in order; the farthest is at distance 1.

    Raises
    ------
    ValueError
        If the kind is unknown or there are no such random numbers.
    """
    expect(one_of(kind, OUTLINES), "kind", f"one of {', '.join(OUTLINES)}", kind)
    expect(isinstance(rng, np.random.RandomState), "rng", "a numpy.random.RandomState", rng)
    vertices = OUTLINES[kind](rng)
    return vertices / np.hypot(*vertices.T).max()


def place(vertices, centre, radius, angle):
    """Rotate, scale and move an outline from `outline`; (V, 2), rounded to 1/64 pixel."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = vertices @ np.array([[cos, sin], [-sin, cos]])
    return np.rint((np.asarray(centre) + radius * turned) * GRID) / GRID


def fill(vertices):
    """The pixels whose centres lie inside an outline (even-odd rule, scan line by scan line).

    Parameters
    ----------
    vertices : (V, 2) array of float
        (row, column) in pixels; pixel centres have whole coordinates.

    Returns
    -------
    box : (slice, slice)
        Rows and columns of the bounding box.
    inside : (h, w) array of bool
        The pixels inside, within the box.

    Raises
    ------
    ValueError
        If the vertices are fewer than 3, or are no finite numbers, or too far apart for the memory.
    """
    vertices, box = outline_and_box(vertices, "vertices")
    top, left, bottom, right = [(side + SIDE) - SIDE for side in box]  # to 2**-36 of a pixel: no slope overflows
    closed = (np.concatenate([vertices, vertices[:1]]) + SIDE) - SIDE
    top, left, bottom, right = ceil(top), ceil(left), floor(bottom) + 1, floor(right) + 1
    height, width = max(bottom - top, 0), max(right - left, 0)
    # The scan lines that each edge crosses: first to last, all edges one after another.
    line = np.ceil(closed[:, 0])
    count = np.abs(line[1:] - line[:-1]).astype(int)
    skip = np.minimum(line[:-1], line[1:]) - count.cumsum() + count
    edges = np.concatenate([closed[:-1], closed[1:] - closed[:-1], skip[:, None]], axis=1)
    r, c, r_step, c_step, skip = np.repeat(edges, count, axis=0).T
    row = np.arange(len(skip)) + skip
    column = np.ceil(c + (row - r) * (c_step / r_step)) - left
    # A crossing turns the rest of its row over, and each row has an even number of them. So all rows can be taken
    # as one: from crossing to crossing, every second run of pixels is inside.
    crossings = np.sort((row - top) * width + np.minimum(np.maximum(column, 0), width))
    ends = np.concatenate([[0], crossings, [height * width]]).astype(int)
    odd = np.zeros(len(ends) - 1, bool)
    odd[1::2] = True
    inside = np.repeat(odd, ends[1:] - ends[:-1]).reshape(height, width)
    return (slice(top, bottom), slice(left, right)), inside


def _polar(angles, radii):
    return np.stack([-radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


def _circle(rng):
    return _polar(2 * np.pi * np.arange(128) / 128, 1.0)


def _polygon(corners, rng):
    least, greatest, shortest = ANGLES_AND_SIDES[corners]
    while True:  # about one candidate in four is good
        jitter = rng.uniform(-0.25, 0.25, (16, corners))
        candidates = _polar(2 * np.pi * (np.arange(corners) + jitter) / corners,
                            rng.uniform(0.7, 1.0, (16, corners)))
        angles, sides = angles_and_sides(candidates)
        good = (angles >= least) & (angles <= greatest) & (sides >= shortest * sides.max(axis=1, keepdims=True))
        best = good.all(axis=1).argmax()
        if good[best].all():
            return candidates[best]


def angles_and_sides(vertices):
    """Interior angles in degrees (over 180 where it is not convex) and side lengths of polygons.

    Parameters
    ----------
    vertices : (..., V, 2) array of float
        In the order that `outline` gives: clockwise on the screen.

    Returns
    -------
    angles, sides : (..., V) arrays of float
        The angle at each vertex, and the side from it to the next.
    """
    points = np.ascontiguousarray(vertices, float).view(complex)[..., 0]
    closed = np.concatenate([points[..., -1:], points, points[..., :1]], axis=-1)
    sides = closed[..., 1:] - closed[..., :-1]  # the first one leads to the first vertex
    turn = np.angle(sides[..., :-1] / sides[..., 1:])
    return 180 - np.degrees(turn), np.abs(sides[..., 1:])


def _star(rng):
    points = rng.randint(5, 7)
    radii = np.where(np.arange(2 * points) % 2, rng.uniform(0.35, 0.5), 1.0)
    return _polar(np.pi * np.arange(2 * points) / points, radii)


def _cross(rng):
    w = rng.uniform(0.22, 0.34)  # half the width of an arm
    arm = np.array([(-w, -w), (-1, -w), (-1, w)])
    quarter = np.array([[0, -1], [1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, k) for k in range(4)])


def _hexagon(rng):
    return _polar(2 * np.pi * np.arange(6) / 6, rng.uniform(0.85, 1.0, 6))


def _ell(rng):
    w, (a, b) = rng.uniform(0.18, 0.28), rng.uniform(0.75, 1.0, 2)
    return np.array([(-w, -w), (-w, a), (w, a), (w, w), (b, w), (b, -w)])


def _arrow(rng):
    w, barb = rng.uniform(0.15, 0.25), rng.uniform(0.6, 0.8)
    return np.array([(-1, 0), (0, barb), (0, w), (0.9, w), (0.9, -w), (0, -w), (0, -barb)])


def _heart(rng):
    t = 2 * np.pi * np.arange(64) / 64
    row = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([row, 16 * np.sin(t) ** 3], axis=-1)


def _drop(rng):
    t = 2 * np.pi * np.arange(64) / 64
    return np.stack([-np.cos(t), np.sin(t) * np.sin(t / 2) ** rng.uniform(1.5, 2.5)], axis=-1)


OUTLINES = {
    "circle": _circle, "triangle": partial(_polygon, 3), "quad": partial(_polygon, 4),
    "pentagon": partial(_polygon, 5),
    "star": _star, "cross": _cross, "hexagon": _hexagon, "ell": _ell,
    "arrow": _arrow, "heart": _heart, "drop": _drop,
}
