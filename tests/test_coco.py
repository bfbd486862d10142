import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from pycocotools.coco import COCO

import shapeseg as ss

SHAPE = (128, 128)
CONFIG = replace(ss.CROWDED, size=128, radius=(0.1, 0.2))
SCENES = [ss.draw_scene(CONFIG, 5, n, "validation") for n in range(8)]
FIGURES = [scene.figures for scene in SCENES]


def as_objects(figures, score=0.9):
    return [ss.Object(figure.label, score, figure.centre, figure.vertices) for figure in figures]


def masks_of(figures):
    return [one.mask(SHAPE) for one in as_objects(figures)]


@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_scenes_go_out_and_come_back(tmp_path, form):
    path = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, form)
    for figures, objects in zip(FIGURES, ss.read_coco(path), strict=True):
        assert [one.label for one in objects] == [figure.label for figure in figures]
        for figure, one, mask in zip(figures, objects, masks_of(figures)):
            assert (one.mask(SHAPE) == mask).all() and (form == "rle" or (one.outline == figure.vertices).all())
    several = ss.write_coco(path, FIGURES[:2], [SHAPE, (200, 150)], form, names=["a.jpg", "b.tif"])  # of their own sizes and names
    assert [(one["file_name"], one["width"]) for one in COCO(several).imgs.values()] == [("a.jpg", 128), ("b.tif", 150)]


@pytest.mark.parametrize("form, min_iou", [("polygon", 0.93), ("rle", 1)])  # COCO draws polygons by another rule at the rim
def test_coco_own_tool_sees_the_amodal_masks(tmp_path, form, min_iou):
    truth = COCO(ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, form))
    assert [truth.cats[n + 1]["name"] for n in range(5)] == list(ss.CLASSES)
    annotations = iter(truth.anns.values())
    for image, figures in enumerate(FIGURES, start=1):
        assert truth.imgs[image]["file_name"] == f"{image - 1:05}.png"
        for mask, one in zip(masks_of(figures), annotations):
            theirs, (rows, columns) = truth.annToMask(one) > 0, np.nonzero(mask)
            assert (theirs & mask).sum() / (theirs | mask).sum() >= min_iou
            assert one["area"] == mask.sum() and one["image_id"] == image
            assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_results_go_out_and_come_back_and_score_one_and_nothing_scores_zero(tmp_path):
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, "rle")
    results = ss.write_coco(tmp_path / "results.json", [as_objects(figures, 0.25) for figures in FIGURES], SHAPE, results=True)
    nothing = ss.write_coco(tmp_path / "nothing.json", [[]] * len(FIGURES), SHAPE, results=True)
    for figures, objects in zip(FIGURES, ss.read_coco(results, truth), strict=True):
        assert [(one.label, one.score) for one in objects] == [(figure.label, 0.25) for figure in figures]
        assert all((one.mask(SHAPE) == mask).all() for one, mask in zip(objects, masks_of(figures)))
    for found, expected in ((results, 1), (nothing, 0)):
        table = ss.average_precision(truth, found)
        assert list(table.index) == [*ss.CLASSES, "mean"] and np.allclose(table.dropna(), expected)


def test_average_precision_by_hand(tmp_path):
    """Three circles; in order of their scores: a hit, a miss, a hit whose IoU is between 0.5 and 0.75."""
    square = np.array([(-10.0, -10), (-10, 10), (10, 10), (10, -10)])
    circles = [ss.Object("circle", 1.0, centre, square + centre) for centre in ((20, 20), (60, 20), (100, 20))]
    found = [replace(circles[0], score=0.9), replace(circles[0], score=0.8, outline=square + (20, 100)),
             replace(circles[1], score=0.7, outline=square + (64, 20))]
    truth = ss.write_coco(tmp_path / "truth.json", [circles], SHAPE, "rle")
    table = ss.average_precision(truth, ss.write_coco(tmp_path / "results.json", [found], SHAPE, results=True))
    # precision 1 up to recall 1/3 (34 of COCO's 101 points), 2/3 up to recall 2/3 (33 more)
    assert table.loc["circle", "ap50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert table.loc["circle", "ap75"] == pytest.approx(34 / 101)
    assert table.loc["quad"].isna().all() and table.loc["mean", "ap50"] == table.loc["circle", "ap50"]


def test_objects_are_scored_by_their_counts_and_pairs():
    perfect = [as_objects(figures) for figures in FIGURES]
    assert set(ss.evaluate_objects(SCENES, perfect).values()) == {1.0}
    lost = [objects[1:] for objects in perfect]  # of every scene's first pair, one is missing
    scores = ss.evaluate_objects(SCENES, lost)
    assert scores["counts"] == 0 and scores["pairs"] < 1 and scores["ap50"] < 1
    pairs = [(i, j) for figures in FIGURES for i, j, share in ss.overlapping_pairs(figures) if share <= 0.5]
    assert scores["pairs"] == pytest.approx(np.mean([i > 0 for i, _ in pairs]))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_polygon_of_a_mask_brings_all_its_parts_and_holes_back(mask):
    mask[0, 0] |= not mask.any()
    assert (ss.Object("circle", 1.0, (0, 0), ss.mask_to_polygon(mask)).mask(mask.shape) == mask).all()


def test_crowds_and_what_has_no_mask_are_left_out_and_nothing_else_is_lost(tmp_path, capsys):
    square, runs = [1, 1, 4, 1, 4, 4, 1, 4], dict(size=[9, 9], counts=[10, 3, 6, 1, 1, 1, 6, 3, 50])  # a ring of 3 × 3
    parts = [dict(segmentation=[square]), dict(segmentation=[square, [6, 6, 9, 6, 9, 9, 6, 9]]), dict(segmentation=runs),
             dict(segmentation=runs, iscrowd=1), dict(segmentation=[]), {}]
    annotations = [dict(id=n, image_id=1, category_id=1) | part for n, part in enumerate(parts)]  # no area, no box
    dataset = dict(images=[dict(id=1, height=9, width=9)], categories=[dict(id=1, name="quad")], annotations=annotations)
    (truth := tmp_path / "truth.json").write_text(json.dumps(dataset))
    [objects] = ss.read_coco(truth)
    assert [one.mask((9, 9)).sum() for one in objects] == [9, 18, 8]
    assert "2 annotations without a mask" in capsys.readouterr().out
    (results := tmp_path / "results.json").write_text(json.dumps([one | dict(score=1) for one in annotations[:3]]))
    again = ss.write_coco(tmp_path / "again.json", [objects], (9, 9), "rle", classes=["quad"])
    for path in (truth, again):
        assert ss.average_precision(path, results).loc["mean"].tolist() == [1, 1, 1]
    assert ss.average_precision(again, ss.write_coco(results, [objects], (9, 9), results=True, classes=["quad"])).ap["mean"] == 1


def test_the_order_and_the_numbers_of_a_file_do_not_count(tmp_path):
    found = [[one for one in as_objects(figures) if one.label != "circle"] for figures in FIGURES]
    results = ss.write_coco(tmp_path / "results.json", found, SHAPE, results=True)
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, "rle")
    expected, dataset = ss.average_precision(truth, results), json.loads(truth.read_text())
    assert expected.ap["circle"] == 0 and expected.ap["quad"] == 1
    dataset["categories"].reverse()
    for number, one in enumerate(dataset["annotations"]):
        one.update(id=number)
    truth.write_text(json.dumps(dataset))
    assert ss.average_precision(truth, results).equals(expected)


@pytest.mark.parametrize("text", ["", "{", '{"images": []}', '["quad"]'])
def test_files_that_are_no_datasets_or_no_results(tmp_path, text):
    truth, path = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE), tmp_path / "other.json"
    path.write_text(text)
    for call in (lambda: ss.read_coco(path), lambda: ss.average_precision(truth, path)):
        with pytest.raises(ValueError, match="other.json: expected COCO"):
            call()
