import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

import shapeseg as ss
from shapeseg.coco import _run_lengths

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
            assert (one.mask(SHAPE) == mask).all()
            assert form == "rle" or (one.outline == figure.vertices).all()
    assert [file.name for file in tmp_path.iterdir()] == ["truth.json"]


def test_coco_own_tool_sees_the_amodal_masks(tmp_path):
    truth = COCO(ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, "rle"))
    assert [truth.cats[n + 1]["name"] for n in range(5)] == list(ss.CLASSES)
    annotations = iter(truth.anns.values())
    for image, figures in enumerate(FIGURES, start=1):
        assert truth.imgs[image]["file_name"] == f"{image - 1:05}.png"
        for mask in masks_of(figures):
            one = next(annotations)
            rows, columns = np.nonzero(mask)
            assert (truth.annToMask(one) == mask).all() and one["area"] == mask.sum() and one["image_id"] == image
            assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    polygons = COCO(ss.write_coco(tmp_path / "polygons.json", FIGURES, SHAPE))
    for one, mask in zip(polygons.anns.values(), [mask for figures in FIGURES for mask in masks_of(figures)]):
        theirs = polygons.annToMask(one) > 0  # drawn by another rule at the rim
        assert (theirs & mask).sum() / (theirs | mask).sum() > 0.93


def test_results_go_out_and_come_back(tmp_path):
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE)
    results = ss.write_coco(tmp_path / "results.json", [as_objects(figures, 0.25) for figures in FIGURES], SHAPE, results=True)
    for figures, objects in zip(FIGURES, ss.read_coco(results, truth), strict=True):
        assert [(one.label, one.score) for one in objects] == [(figure.label, 0.25) for figure in figures]
        assert all((one.mask(SHAPE) == mask).all() for one, mask in zip(objects, masks_of(figures)))


def test_average_precision_of_the_truth_is_one_and_of_nothing_is_zero(tmp_path):
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, "rle")
    for objects, expected in (([as_objects(figures) for figures in FIGURES], 1), ([[]] * len(FIGURES), 0)):
        table = ss.average_precision(truth, ss.write_coco(tmp_path / "results.json", objects, SHAPE, results=True))
        assert list(table.index) == [*ss.CLASSES, "mean"] and np.allclose(table.dropna(), expected)


def test_average_precision_by_hand(tmp_path):
    """Three circles; in order of their scores: a hit, a miss, a hit whose IoU is between 0.5 and 0.75."""
    circles = [ss.Object("circle", 1.0, centre, np.add(centre, square(10))) for centre in ((20, 20), (60, 20), (100, 20))]
    found = [replace(circles[0], score=0.9), replace(circles[0], score=0.8, outline=np.add((20, 100), square(10))),
             replace(circles[1], score=0.7, outline=np.add((64, 20), square(10)))]
    truth = ss.write_coco(tmp_path / "truth.json", [circles], SHAPE, "rle")
    table = ss.average_precision(truth, ss.write_coco(tmp_path / "results.json", [found], SHAPE, results=True))
    # precision 1 up to recall 1/3 (34 of COCO's 101 points), 2/3 up to recall 2/3 (33 more)
    assert table.loc["circle", "ap50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert table.loc["circle", "ap75"] == pytest.approx(34 / 101)
    assert table.loc["quad"].isna().all() and table.loc["mean", "ap50"] == table.loc["circle", "ap50"]


def square(half):
    return np.array([(-half, -half), (-half, half), (half, half), (half, -half)], float)


def test_objects_are_scored_by_their_counts_and_pairs():
    perfect = [as_objects(figures) for figures in FIGURES]
    assert set(ss.evaluate_objects(SCENES, perfect).values()) == {1.0}
    lost = [objects[1:] for objects in perfect]  # of every scene's first pair, one is missing
    scores = ss.evaluate_objects(SCENES, lost)
    assert scores["counts"] == 0 and scores["pairs"] < 1 and scores["ap50"] < 1
    pairs = [(i, j) for figures in FIGURES for i, j, share in ss.twins(figures) if share <= 0.5]
    assert scores["pairs"] == pytest.approx(np.mean([i > 0 for i, _ in pairs]))


def test_a_traced_outline_brings_its_mask_back():
    rng = np.random.RandomState(0)
    for _ in range(20):
        mask, more = np.zeros((2, 30, 40), bool)
        mask[rng.randint(0, 10):rng.randint(11, 31), rng.randint(0, 10):rng.randint(11, 41)] = True
        mask[10, :12] = True  # a hair
        more[-1, -1] = not mask[-2:, -2:].any()  # a smaller part elsewhere
        traced = ss.Object("circle", 1.0, (0, 0), ss.trace(mask | more)).mask(mask.shape)
        assert (traced == mask).all()
    with pytest.raises(ValueError, match="mask: expected at least one pixel"):
        ss.trace(np.zeros((4, 4), bool))


def spoil(path, change):
    """A dataset as another tool might have written it."""
    dataset = json.loads(path.read_text())
    change(dataset)
    path.write_text(json.dumps(dataset))


def test_the_order_and_the_numbers_of_a_file_do_not_count(tmp_path):
    found = [[one for one in as_objects(figures) if one.label != "circle"] for figures in FIGURES]
    results = ss.write_coco(tmp_path / "results.json", found, SHAPE, results=True)
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE, "rle")
    expected = ss.average_precision(truth, results)
    assert expected.ap["circle"] == 0 and expected.ap["quad"] == 1
    spoil(truth, lambda dataset: dataset["categories"].reverse())
    spoil(truth, lambda dataset: [one.update(id=number) for number, one in enumerate(dataset["annotations"])])
    assert ss.average_precision(truth, results).equals(expected)


def test_run_lengths_are_those_of_cocos_tool():
    rng = np.random.RandomState(0)
    for density in (0.0, 0.01, 0.5, 1.0):
        mask = rng.uniform(size=(67, 41)) < density
        changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=~mask[-1, -1]))
        text = rle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        assert _run_lengths(text) == np.diff(changes, prepend=0).tolist()


@pytest.mark.parametrize("counts", [[100, 50], [100, 50, 200 * 200], [1.5, 50], [-1, 200 * 200 + 1], "`31b", "", "PX", None])
def test_runs_that_do_not_fill_the_image(tmp_path, counts):
    square = ss.Object("quad", 1.0, (20, 20), np.add((20, 20), [(-5, -5), (-5, 5), (5, 5), (5, -5)]))
    truth = ss.write_coco(tmp_path / "truth.json", [[square]], (200, 200), "rle")
    spoil(truth, lambda dataset: dataset["annotations"][0]["segmentation"].update(counts=counts))
    with pytest.raises(ValueError, match="truth.json"):
        ss.read_coco(truth)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": []}', '{"images": [{"id": 1}], "annotations": [{}]}'])
def test_files_that_are_no_datasets(tmp_path, text):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a COCO dataset"):
        ss.read_coco(path)


@pytest.mark.parametrize("results", ["", "{}", '[{"image_id": 99, "category_id": 1, "score": 1}]', "[1]", "[{}]"])
def test_files_that_are_no_results(tmp_path, results):
    truth = ss.write_coco(tmp_path / "truth.json", FIGURES, SHAPE)
    path = tmp_path / "results.json"
    path.write_text(results)
    with pytest.raises(ValueError, match="list of results"):
        ss.average_precision(truth, path)


def test_wrong_arguments(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("before")
    for call, words in ((lambda: ss.write_coco(path, FIGURES, SHAPE, "mask"), "form: expected"),
                        (lambda: ss.write_coco(path, FIGURES, 128), "shape: expected"),
                        (lambda: ss.write_coco(path, [["circle"]], SHAPE), "objects: expected Objects"),
                        (lambda: ss.write_coco(path, FIGURES, SHAPE, results=True), "objects: expected Objects"),
                        (lambda: ss.write_coco(path, FIGURES, SHAPE, classes=["circle"]), "objects: expected Objects")):
        with pytest.raises(ValueError, match=words):
            call()
    assert path.read_text() == "before"
    with pytest.raises(FileNotFoundError):
        ss.read_coco(tmp_path / "none.json")
    assert json.loads(ss.write_coco(path, [[]], SHAPE).read_text())["annotations"] == []
