import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

import shapeseg as ss
from shapeseg.figures import ANGLES_AND_SIDES, OPEN_KINDS, angles_and_sides, outline_mask, place

# CRC-32 of twenty outlines of each kind in 1/64 of a pixel: the same on every machine, for ever.
CHECKSUMS = {
    "circle": 63595891, "triangle": 535305171, "quad": 744348500, "pentagon": 1991290414, "star": 4188797983,
    "cross": 3014406258, "hexagon": 2024503427, "ell": 1867905777, "arrow": 3130508477, "heart": 871456141,
    "drop": 67573845, "blob": 35101971, "irregular": 3475978581, "spiky": 590018779, "ring": 951322578, "comb": 527179674,
    "letter": 1356538999, "moon": 3125504538, "sector": 335670756, "rod": 2248217391}
OFF_THE_GRID = np.pi / 1e4, np.e / 1e4  # no pixel centre lies on an edge, where rules differ


def drawn(kind, count=100):
    rng = np.random.RandomState(1)
    return [ss.outline(kind, rng) for _ in range(count)]


@pytest.mark.parametrize("kind", ss.LABELS)
def test_the_same_outlines_everywhere(kind):
    rng = np.random.RandomState(7)
    vertices = np.concatenate([place(ss.outline(kind, rng), (256, 256), 200, 0.5) for _ in range(20)])
    assert zlib.crc32(np.rint(64 * vertices).astype("<i4")) == CHECKSUMS[kind]


@pytest.mark.parametrize("kind, corners", [("triangle", 3), ("quad", 4), ("pentagon", 5)])
def test_polygons_are_true_to_their_class(kind, corners):
    smallest, largest, shortest = ANGLES_AND_SIDES[corners]
    for vertices in drawn(kind):
        angles, sides = angles_and_sides(vertices)
        assert vertices.shape == (corners, 2) and np.isclose(angles.sum(), 180 * (corners - 2))
        assert smallest <= angles.min() and angles.max() <= largest < 180  # so it is convex
        assert sides.min() >= shortest * sides.max()


@pytest.mark.parametrize("kind", ss.LABELS)
def test_outlines_are_scaled_and_those_of_old_star_convex_about_their_centre(kind):
    assert kind in ss.KINDS or kind in ss.NOVEL_KINDS + OPEN_KINDS and ss.LABELS[kind] == "unknown"
    for vertices in drawn(kind, 50):
        assert np.isclose(np.hypot(*vertices.T).max(), 1) and (kind != "circle" or np.allclose(np.hypot(*vertices.T), 1))
        if kind in OPEN_KINDS:
            continue
        # Clockwise on the screen about the origin: every edge turns the same way.
        (r0, c0), (r1, c1) = vertices.T, np.roll(vertices, -1, axis=0).T
        assert (c0 * r1 - r0 * c1 >= -1e-9).all()


@pytest.mark.parametrize("kind", ss.LABELS)
def test_fill_agrees_with_scikit_image_and_turns_with_the_outline(kind):
    rng = np.random.RandomState(2)
    for vertices in drawn(kind, 10):
        vertices = place(vertices, (40, 40), 35, rng.uniform(0, 7)) + OFF_THE_GRID
        mask = outline_mask(vertices, (81, 81))
        assert (mask == polygon2mask((81, 81), vertices)).all()
        turned = np.stack([80 - vertices[:, 1], vertices[:, 0]], axis=1)
        assert (outline_mask(turned, (81, 81)) == np.rot90(mask)).all()


def test_touching_outlines_share_no_pixel_and_leave_none_out_and_a_box_holds_its_pixels_and_no_more():
    left = np.array([(2, 2), (2, 10), (20, 10), (20, 2)], float)
    counts = outline_mask(left, (30, 30)) + outline_mask(left + (0, 8), (30, 30)).astype(int)
    assert counts.max() == 1 and counts.sum() == 18 * 16
    (rows, columns), inside = ss.fill(np.array([(2.5, 3.5), (2.5, 9.5), (7.5, 9.5), (7.5, 3.5)]))
    assert (rows, columns) == (slice(3, 8), slice(4, 10)) and inside.shape == (5, 6) and inside.all()
    for thin in ([(2.2, 0), (2.2, 9), (2.8, 9)], [(0, 2.2), (9, 2.2), (9, 2.8)]):  # between two rows, two columns
        (rows, columns), inside = ss.fill(np.array(thin))
        assert inside.shape == (rows.stop - rows.start, columns.stop - columns.start) and inside.size == 0


@given(hnp.arrays(float, st.tuples(st.integers(3, 8), st.just(2)), elements=st.integers(-5, 20) | st.floats(-5, 20, width=32)))
def test_a_pixel_is_inside_if_a_ray_from_it_crosses_the_outline_an_odd_number_of_times(vertices):
    vertices = np.round(vertices, 6)  # they may leave the image
    found = outline_mask(vertices, (16, 12))
    rows, columns = np.mgrid[:16, :12]
    crossings, near = np.zeros((2, 16, 12), int)
    for (r0, c0), (r1, c1) in zip(vertices, np.roll(vertices, -1, axis=0)):
        if r0 != r1:
            crossed = (min(r0, r1) <= rows) & (rows < max(r0, r1))
            away = columns - c0 - (rows - r0) * ((c1 - c0) / (r1 - r0))
            crossings, near = crossings + (crossed & (away >= 0)), near | (crossed & (abs(away) < 1e-9))
    assert (near | (found == crossings % 2)).all()
    assert not outline_mask(vertices + 90, (16, 12)).any() and not outline_mask(vertices - 90, (16, 12)).any()
