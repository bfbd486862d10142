import zlib
from dataclasses import replace

import numpy as np
import pytest
from skimage.draw import polygon2mask

import shapeseg as ss
from shapeseg.figures import ANGLES_AND_SIDES, LABELS, OUTLINES, angles_and_sides, place


# CRC-32 of twenty outlines of each kind in 1/64 of a pixel: the same on every machine, for ever.
CHECKSUMS = {
    "circle": 63595891, "triangle": 535305171, "quad": 744348500, "pentagon": 1991290414, "star": 4188797983,
    "cross": 3014406258, "hexagon": 2024503427, "ell": 1867905777, "arrow": 3130508477, "heart": 871456141,
    "drop": 67573845}
FIGURE = ss.Figure("star", "unknown", (8.0, 8.0), 4.0, 0.0, (0, 255), 1, np.array([(4, 4), (4, 12), (12, 8)]))


def drawn(kind, count=200):
    rng = np.random.RandomState(1)
    return [ss.outline(kind, rng) for _ in range(count)]


@pytest.mark.parametrize("kind, corners", [("triangle", 3), ("quad", 4), ("pentagon", 5)])
def test_polygons_are_true_to_their_class(kind, corners):
    least, greatest, shortest = ANGLES_AND_SIDES[corners]
    for vertices in drawn(kind):
        assert vertices.shape == (corners, 2)
        angles, sides = angles_and_sides(vertices)
        assert angles.min() >= least and angles.max() <= greatest < 180  # so it is convex
        assert np.isclose(angles.sum(), 180 * (corners - 2))
        assert sides.min() >= shortest * sides.max()


def test_no_polygon_is_close_to_one_with_a_corner_less():
    """Leaving out any corner cuts off at least a tenth of the area."""
    def area(v):
        return 0.5 * abs(np.sum(v[:, 0] * np.roll(v[:, 1], -1) - v[:, 1] * np.roll(v[:, 0], -1)))

    for kind in ("quad", "pentagon", "hexagon"):
        for v in drawn(kind):
            assert max(area(np.delete(v, k, axis=0)) for k in range(len(v))) < 0.9 * area(v)


@pytest.mark.parametrize("kind", OUTLINES)
def test_outlines_are_scaled_and_star_convex_about_their_centre(kind):
    for vertices in drawn(kind, 50):
        assert np.isclose(np.hypot(*vertices.T).max(), 1)
        # Clockwise on the screen about the origin: every edge turns the same way.
        (r0, c0), (r1, c1) = vertices.T, np.roll(vertices, -1, axis=0).T
        assert (c0 * r1 - r0 * c1 >= -1e-9).all()


@pytest.mark.parametrize("kind", OUTLINES)
def test_the_same_outlines_everywhere(kind):
    rng = np.random.RandomState(7)
    vertices = np.concatenate([place(ss.outline(kind, rng), (256, 256), 200, 0.5) for _ in range(20)])
    assert zlib.crc32(np.rint(64 * vertices).astype("<i4")) == CHECKSUMS[kind]


def test_a_circle_is_round():
    vertices = drawn("circle", 1)[0]
    assert len(vertices) >= 64
    assert np.allclose(np.hypot(*vertices.T), 1)


def test_novel_kinds_are_unknown_and_not_in_training():
    assert len(ss.NOVEL_KINDS) >= 3 and not set(ss.NOVEL_KINDS) & set(ss.KINDS)
    assert {LABELS[kind] for kind in ss.NOVEL_KINDS} == {"unknown"}
    assert sum(LABELS[kind] == "unknown" for kind in ss.KINDS) >= 3


@pytest.mark.parametrize("kind", OUTLINES)
def test_fill_agrees_with_scikit_image(kind):
    rng = np.random.RandomState(2)
    for vertices in drawn(kind, 10):
        # Off the grid, so that no pixel centre lies on an edge, where the two may differ.
        vertices = place(vertices, (40, 45), 35, rng.uniform(0, 7)) + (np.pi / 1e4, np.e / 1e4)
        filled = np.zeros((80, 90), bool)
        box, inside = ss.fill(vertices)
        filled[box] = inside
        assert (filled == polygon2mask((80, 90), vertices)).all()


def test_fill_turns_with_the_outline():
    vertices = place(drawn("star", 1)[0], (40, 40), 30, 0.3) + (np.pi / 1e4, np.e / 1e4)
    masks = []
    for v in (vertices, np.stack([80 - vertices[:, 1], vertices[:, 0]], axis=1)):
        mask = np.zeros((81, 81), bool)
        box, inside = ss.fill(v)
        mask[box] = inside
        masks.append(mask)
    assert (np.rot90(masks[0]) == masks[1]).all()


def test_touching_outlines_share_no_pixel_and_leave_none_out():
    left = np.array([(2, 2), (2, 10), (20, 10), (20, 2)], float)
    right = left + (0, 8)
    counts = np.zeros((30, 30), int)
    for v in (left, right):
        box, inside = ss.fill(v)
        counts[box] += inside
    assert counts.max() == 1 and counts.sum() == 18 * 16


def test_the_box_of_an_outline_holds_its_pixels_and_no_more():
    (rows, columns), inside = ss.fill(np.array([(2.5, 3.5), (2.5, 9.5), (7.5, 9.5), (7.5, 3.5)]))
    assert (rows, columns) == (slice(3, 8), slice(4, 10)) and inside.shape == (5, 6) and inside.all()
    for thin in ([(2.2, 0), (2.2, 9), (2.8, 9)], [(0, 2.2), (9, 2.2), (9, 2.8)]):  # between two rows, two columns
        (rows, columns), inside = ss.fill(np.array(thin))
        assert inside.shape == (len(range(rows.start, rows.stop)), len(range(columns.start, columns.stop)))
        assert inside.size == 0


def test_a_figure_at_its_limits():
    assert replace(FIGURE, vertices=[[4, 4], [4, 12], [12, 8]]).vertices.dtype == float
    assert replace(FIGURE, radius=0.5, opacity=0, colour=()).radius == 0.5


@pytest.mark.parametrize("wrong, words", [
    (dict(kind=3), "kind: expected a text, got 3"),
    (dict(label=None), "label: expected a text, got None"),
    (dict(centre=[1, 2]), "centre: expected (row, column), got [1, 2]"),
    (dict(centre=(1, 2, 3)), "centre: expected (row, column), got (1, 2, 3)"),
    (dict(centre=(1, "2")), "centre: expected (row, column), got (1, '2')"),
    (dict(radius=-1), "radius: expected a number from 0, got -1"),
    (dict(angle=float("inf")), "angle: expected a number, got inf"),
    (dict(colour=[0]), "colour: expected a tuple of levels from 0 to 255, got [0]"),
    (dict(colour=(256,)), "colour: expected a tuple of levels from 0 to 255, got (256,)"),
    (dict(opacity=1.5), "opacity: expected a number from 0 to 1, got 1.5"),
    (dict(vertices=[]), "vertices: expected (V, 2) finite numbers, V from 3, within 65536 pixels and a box of 1073741824, got []"),
])
def test_a_wrong_figure(wrong, words):
    with pytest.raises(ValueError) as error:
        replace(FIGURE, **wrong)
    assert str(error.value) == words


def test_wrong_arguments():
    for call, words in [
        (lambda: ss.outline("blob", np.random.RandomState(0)), f"kind: expected one of {', '.join(OUTLINES)}, got 'blob'"),
        (lambda: ss.outline("star", 5), "rng: expected a numpy.random.RandomState, got 5"),
        (lambda: ss.fill(None), "vertices: expected (V, 2) finite numbers, V from 3, within 65536 pixels and a box of "
                                "1073741824, got None"),
        (lambda: ss.fill([(0, 0), (0,), (1, 1)]), "vertices: expected an array, got [(0, 0), (0,), (1, 1)] ("),
    ]:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(words)
