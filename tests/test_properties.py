"""Whatever a function is given: the right answer, or a ValueError that begins with the argument's name."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.extra.numpy as hnp
import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shapeseg as ss
import shapeseg.training

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
CONFIG = ss.SceneConfig(size=32, figures=(1, 3), radius=(0.15, 0.3))
FULL = ss.SceneConfig(size=16, figures=(9, 9), radius=(0.45, 0.45))  # more figures than there is room for
SCENE, SHAPE = ss.draw_scene(CONFIG), (32, 32)
IMAGES, MASKS, FIGURE = SCENE.image[None], SCENE.masks[None], SCENE.figures[0]
OBJECT = ss.Object(FIGURE.label, 0.5, FIGURE.centre, FIGURE.vertices)
HALF = np.full((1, 4, 4, 5), 0.5)
PLAIN = ss.build_model(blocks=1, widths=(8,), kernels=(3,))
MODEL = ss.build_model(blocks=1, widths=(8,), kernels=(3,), rays=8, skip="add")
NOWHERE = "\0"  # no path: it is looked at last, so nothing is trained or written

numbers = st.one_of(
    st.integers(-3, 40), st.integers(), st.floats(), st.booleans(), st.complex_numbers(), st.fractions(),
    st.builds(pow, st.just(10), st.just(5000)),  # Python does not print it
    st.sampled_from([10**30, -10**30, 10**400, Fraction(10**400), Decimal("NaN"), np.float16("inf"), np.int8(100),
                     np.uint64(2**64 - 1), np.bool_(True), np.longdouble("1e4000"), np.datetime64("NaT"), np.timedelta64(1, "Y")]))
dtypes = hnp.scalar_dtypes() | st.sampled_from(["?", "u1", "f4", "O"]).map(np.dtype)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
                                                 elements=st.none() if dtype == object else None))
likely = st.sampled_from([0, 1, 2, 3, 8, 0.5, 1.0, None, True, (1,), (3,), (0.2, 0.4), (1, 3), "none", "concat", "silu",
                          "softmax", "test", "constant", "adam", ["a"] * 5, "rle", np.int64(2), np.float16(0.1), HALF > 0])
things = st.one_of(numbers, arrays, st.text(max_size=5), st.binary(max_size=3), st.dates(), st.builds(object), st.sampled_from(
    [len, ss, SCENE, CONFIG, FIGURE, OBJECT, MODEL, "\ud800", "x" * 300, "circle"]), st.builds(count))  # one without end
few = st.lists(likely | things, max_size=3)
anything = st.one_of(likely, likely, numbers, things, few, few.map(tuple), st.lists(few, min_size=2, max_size=2),
                     st.tuples(numbers, numbers), st.dictionaries(st.text(max_size=2), things, max_size=2))
no_path = st.sampled_from([NOWHERE, "\ud800", "x" * 300, "README.md/model.keras"])


def examples(number):
    return settings(max_examples=number * settings.default.max_examples // 100)  # 25 times as many in the profile "long"


def answer(function, /, **arguments):
    """What a function gives; nothing if it refuses an argument, or a part of one, by its name."""
    names = "|".join([*arguments, "config", "name", "images", "masks", "figures", "twins", "noise, gradient",
                      re.escape(str(ROOT / "data/samples")) + "[^:]*"])  # a file of a dataset is named by its path
    words = "expected|found|leave|there already|no such file|not a readable"
    try:
        return function(**arguments)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        assert re.match(rf"({names})( and \w+)?: .*({words})", str(error)), error


def first_batch(encode, **arguments):
    stream = ss.stream(**arguments, encode=(lambda scene: 1) if callable(encode) else encode)
    return next(iter(stream), None) if stream.batch_size <= 50 else None


def write(folder, **arguments):
    with TemporaryDirectory() as home:
        return ss.write_dataset(Path(home, "new") if folder is None else folder, **arguments)


def are_scenes(images, masks, config=None, *_):
    shape = (len(images), config.size, config.size) if config else images.shape[:3]
    assert images.shape == shape + (config.channels if config else 1,) and images.dtype == np.uint8
    assert masks.shape == shape + (len(config.classes) if config else 5,) and masks.dtype == bool
    return True


def are_probabilities(p, shape):
    return p.shape == shape and p.dtype == np.float32 and 0 <= p.min() and p.max() <= 1


def is_network(model):
    images = np.zeros((1, 3, 5, model.input_shape[-1]), np.uint8)
    return ss.predict(model, images).max() <= 1


FUNCTIONS = {  # arguments of each that are good and, last, what is true of its answer
    ss.Figure: dict(vars(FIGURE)), ss.Object: dict(vars(OBJECT)), ss.Scene: dict(vars(SCENE)), OBJECT.mask: dict(shape=SHAPE),
    ss.outline: dict(kind="star", rng=np.random.RandomState(0), so=lambda v: np.isclose(np.hypot(*v.T).max(), 1)),
    ss.fill: dict(vertices=FIGURE.vertices, so=lambda found: found[1].dtype == bool),
    ss.draw_scene: dict(config=CONFIG, seed=0, index=0, split="test", so=lambda s: are_scenes(s.image[None], s.masks[None])),
    ss.draw_scenes: dict(config=CONFIG, seed=0, indices=[2, 1], split="test", so=lambda pair: are_scenes(*pair)),
    ss.topmost: dict(scene=SCENE, classes=ss.CLASSES, so=lambda masks: masks.sum(-1).max() <= 1),
    first_batch: dict(data=CONFIG, seed=0, batch_size=2, start=1, count=3, split="test", repeat=2, encode=None,
                      so=lambda batch: are_scenes(*batch[:2])),
    write: dict(folder=None, config=FULL, seed=0, count=1, split="test"),
    ss.read_dataset: dict(folder=ROOT / "data/samples", classes=ss.CLASSES, so=lambda pair: len(pair) == 2),
    ss.Counts: dict(threshold=0.5), ss.Counts().add: dict(probabilities=HALF, truth=HALF > 0),
    ss.Counts().add(HALF, HALF > 0).table: dict(classes=ss.CLASSES, so=lambda table: len(table) == 6),
    ss.iou: dict(predicted=HALF > 0, truth=HALF > 0, so=lambda iou: iou.ndim == 1),
    ss.boundary: dict(masks=HALF > 0, width=1, so=lambda rim: rim.dtype == bool), ss.interval: dict(values=[1.0, 2.0]),
    ss.compose: dict(masks=MASKS[0], image=IMAGES[0], classes=ss.CLASSES, so=lambda picture: picture.shape[-1] == 3),
    ss.build_model: dict(
        classes=2, channels=1, blocks=1, widths=(4,), depths=(1,), kernels=(3,), skip="add", patch=1,
        contrast=None, activation="relu", output="sigmoid", dropout=0.1, normalize=True, residual=True, rays=0, seed=0,
        so=is_network),
    ss.cut_skips: dict(model=MODEL, names=None, so=is_network),
    ss.receptive_field: dict(model=MODEL, row=3, so=lambda rows: rows[0] < rows[1]),
    ss.multiply_adds: dict(model=MODEL, size=3, so=lambda work: min(work.values()) > 0),
    ss.predict: dict(model=MODEL, images=IMAGES, so=lambda p: are_probabilities(p, MASKS.shape)),
    ss.evaluate: dict(model=MODEL, batches=[(IMAGES, MASKS)], threshold=0.5, classes=ss.CLASSES, so=lambda table: len(table) == 6),
    ss.find_objects: dict(model=MODEL, image=IMAGES[0], threshold=0.3, classes=ss.CLASSES, so=lambda found: len(found) == 2),
    ss.match: dict(figures=[FIGURE], objects=[OBJECT], shape=SHAPE, least=0.5, so=lambda found: set(found) <= {-1, 0}),
    ss.twins: dict(figures=[FIGURE, FIGURE]), ss.trace: dict(mask=MASKS[0, ..., 0]),
    ss.write_coco: dict(path=NOWHERE, objects=[[FIGURE]], shape=SHAPE, form="rle", results=False, classes=ss.CLASSES),
    ss.read_coco: dict(path=ROOT / "README.md", truth=None), ss.average_precision: dict(truth=ROOT / "README.md", results="x"),
    ss.evaluate_objects: dict(scenes=[SCENE], objects=[[OBJECT]], so=lambda scores: 0 <= scores["ap"] <= 1),
    ss.train: dict(
        model=PLAIN, data=CONFIG, steps=1, run_dir=NOWHERE, seed=0, callbacks=(), batch_size=2, optimizer="muon", learning_rate=0.1,
        warmup=0, schedule="cosine", weight_decay=None, repeat=None, validation=None, every=1),
    ss.save_model: dict(model=MODEL, path=NOWHERE), ss.load_model: dict(name="none"), ss.run_directory: dict(run_dir=NOWHERE),
    ss.write_results: dict(run_dir=NOWHERE, iou=0.5, skip="none"),
    ss.sweep: dict(notebook="notebooks/one_run.ipynb", grid={"seed": [0]}, run_dir=NOWHERE, executor=None),
    ss.check_parameters: dict(size=(16, range(99)), skips=(["add"], [("none", "add")]), run_dir=("runs", str)),
}
SLOW = {ss.build_model, ss.cut_skips, ss.multiply_adds, write, ss.evaluate_objects}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_answers_or_names_what_is_wrong(function):
    good = dict(FUNCTIONS[function])
    so = good.pop("so", lambda result: True)

    @examples(15 if function in SLOW else 75)
    @given(st.data())
    def check(data):
        changed = data.draw(st.sets(st.sampled_from(sorted(good)), min_size=1, max_size=2))
        given = {name: data.draw(anything, name) for name in changed}
        for name in given.keys() & {"path", "run_dir", "folder"}:
            given[name] = data.draw(no_path) if isinstance(given[name], str) else given[name]
        if function is ss.check_parameters:
            given = {name: (value, good[name][1]) for name, value in given.items()}
        result = answer(function, **good | given)
        assert result is None or so(result)

    check()


fields = {
    "size": st.integers(10, 48), "channels": st.sampled_from([1, 3, np.int8(3)]), "visible": st.floats(0, 1),
    "figures": st.tuples(st.integers(0, 3), st.integers(1, 4)), "opacity": st.tuples(st.floats(0, 1), st.floats(0.5, 1)),
    "radius": st.lists(st.floats(0.1, 0.5), min_size=2, max_size=2), "blur": st.integers(0, 11), "gradient": st.floats(0, 30),
    "noise": st.floats(0, 12) | st.floats(0, 12, width=16).map(np.float16), "texture": st.fractions(0, 20),
    "twins": st.none() | st.tuples(st.floats(0, 1), st.floats(0.5, 1)), "classes": st.just(("quad", "unknown")),
    "kinds": st.sampled_from([("quad", "star"), ["quad", "heart", "ell"], ("quad", "circle"), "quad"])}


@examples(400)
@given(st.fixed_dictionaries({}, optional=fields), st.sets(st.sampled_from(sorted(fields)), max_size=1), st.data())
def test_a_config_draws_what_it_says(values, wrong, data):
    config = answer(ss.SceneConfig, **asdict(CONFIG) | values | {name: data.draw(anything, name) for name in wrong})
    assert config is None or ss.SceneConfig(**json.loads(json.dumps(asdict(config)))) == config
    small_or_refused = config and not 100 < config.size < 10**6
    scene = answer(ss.draw_scene, config=config, seed=2**40, index=1) if small_or_refused else None
    if scene:
        are_scenes(scene.image[None], scene.masks[None], config)
        assert config.figures[0] <= len(scene.figures) <= config.figures[1]
        assert {figure.kind for figure in scene.figures} <= set(config.kinds)
        again = ss.draw_scene(replace(config, size=np.int16(config.size), noise=Fraction(config.noise)), 2**40, 1)
        assert (again.image == scene.image).all() and (again.masks == scene.masks).all()


points = hnp.arrays(float, st.tuples(st.integers(3, 8), st.just(2)), elements=st.one_of(
    st.integers(-5, 20), st.floats(-5, 20), st.sampled_from([5e-324, 1e-300, 3 - 1e-15])))


@examples(300)
@given(points)
def test_a_pixel_is_inside_if_a_ray_from_it_crosses_the_outline_an_odd_number_of_times(vertices):
    box, inside = ss.fill(vertices)
    found, crossings, near = np.zeros((3, 32, 32), int)
    found[box[0].start + 6:box[0].stop + 6, box[1].start + 6:box[1].stop + 6] = inside
    rows, columns = np.mgrid[-6:26, -6:26]
    vertices = np.round(vertices * 2**36) / 2**36
    for (r0, c0), (r1, c1) in zip(vertices, np.roll(vertices, -1, axis=0)):
        if r0 != r1:
            crossed = (min(r0, r1) <= rows) & (rows < max(r0, r1))
            away = columns - c0 - (rows - r0) * ((c1 - c0) / (r1 - r0))
            crossings, near = crossings + (crossed & (away >= 0)), near | (crossed & (abs(away) < 1e-9))
    assert (near | (found == crossings % 2)).all()


@st.composite
def batches(draw):
    """Probabilities and masks of one shape, which may be empty."""
    shape, bits = draw(hnp.array_shapes(min_dims=4, max_dims=4, min_side=0, max_side=4)), draw(st.sampled_from([16, 32, 64]))
    return draw(hnp.arrays(f"f{bits // 8}", shape, elements=st.floats(0, 1, width=bits))), draw(hnp.arrays(bool, shape))


@examples(300)
@given(batches(), st.floats(0, 1, width=16))
def test_every_metric_is_its_formula(batch, threshold):
    p, truth = np.float64(batch[0]), batch[1]
    names, predicted, given = [f"{k}" for k in range(truth.shape[-1])], p > threshold, np.where(truth, p, 1 - p)
    table = ss.Counts(threshold).add(*batch).table(names)
    shares = dict(
        bce=(-np.log(given.clip(1e-7, 1 - 1e-7)), p >= 0), mse=((p - truth) ** 2, p >= 0), accuracy=(predicted == truth, p >= 0),
        precision=(predicted & truth, predicted), recall=(predicted & truth, truth), iou=(predicted & truth, predicted | truth),
        dice=(2 * (predicted & truth), predicted * 1 + truth))
    for metric, (part, whole) in shares.items():
        with np.errstate(invalid="ignore"):
            expected = part.sum((0, 1, 2)) / whole.sum((0, 1, 2))
        assert np.allclose(table.loc[names, metric], expected, rtol=1e-4, atol=2e-7, equal_nan=True), metric
        seen = expected[~np.isnan(expected)]
        assert np.isclose(table.loc["mean", metric], seen.mean() if len(seen) else np.nan, rtol=1e-4, atol=2e-7, equal_nan=True)
    assert np.array_equal(ss.iou(predicted, truth), table.loc[names, "iou"], equal_nan=True)


@examples(150)
@given(batches(), st.integers(1, 6) | st.sampled_from([np.uint8(130), 10**30]))
def test_the_rim_of_a_mask_is_where_a_window_leaves_it(batch, width):
    masks, reach = batch[1], min(width, 6)
    padded = np.pad(masks, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    rim = ss.boundary(masks, width)
    assert rim.shape == masks.shape
    if masks.size:
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1), (1, 2))
        assert (rim == masks & ~windows.all((-2, -1))).all()


@examples(150)
@given(hnp.arrays(st.sampled_from(["f2", "f4", "i1", "u8"]), st.integers(1, 6), elements=dict(allow_nan=False, allow_infinity=False)))
def test_an_interval_is_students(values):
    mean, half = ss.interval(values)
    runs, atol = values.astype(float), 1e-6 * np.abs(values.astype(float)).max()
    assert np.isclose(mean, sum(runs) / len(runs), atol=atol)
    if len(runs) > 1:
        spread = np.sqrt(sum((runs - mean) ** 2) / (len(runs) - 1))
        assert np.isclose(half, stats.t(len(runs) - 1).ppf(0.975) * spread / np.sqrt(len(runs)), rtol=1e-6, atol=atol)


@examples(60)
@given(points.map(lambda v: np.abs(v) + 1), st.sampled_from(ss.CLASSES), st.floats(-9, 9), st.sampled_from(["polygon", "rle"]))
def test_an_object_goes_out_and_comes_back(tmp_path_factory, outline, label, score, form):
    path, one = tmp_path_factory.getbasetemp() / "coco.json", ss.Object(label, score, (0, 0), outline)
    ss.write_coco(path, [[], [one]], SHAPE, form)
    found = answer(ss.read_coco, path=path)
    if found is None:
        assert form == "rle" and not one.mask(SHAPE).any()  # it has no pixel to trace
    else:
        assert found[0] == [] and found[1][0].label == label
        assert form == "rle" or np.allclose(found[1][0].outline, outline)
    results = ss.write_coco(path.with_name("results.json"), [[], [one]], SHAPE, results=True)
    assert 0 <= ss.average_precision(path, results).loc["mean", "ap"] <= 1


ONE = dict(id=1, image_id=1, category_id=1, iscrowd=0, area=9, bbox=[1, 1, 3, 3], segmentation=[[1, 1, 4, 1, 4, 4]])
DATASET = dict(images=[dict(id=1, height=9, width=9)], categories=[dict(id=1, name="quad")], annotations=[ONE])
runs = st.fixed_dictionaries(dict(size=st.just([9, 9]), counts=st.text(max_size=9) | st.lists(st.integers(-9, 99), max_size=9)))
polygons = st.lists(st.lists(st.floats() | st.integers(-99, 10**9), max_size=8), max_size=2)
json_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), runs, polygons)


@examples(200)
@given(st.sampled_from([(part, key) for part in DATASET for key in (None, *DATASET[part][0])]), json_values)
def test_a_coco_file_is_read_or_refused(tmp_path_factory, place, value):
    (part, key), path, dataset = place, tmp_path_factory.getbasetemp() / "any.json", json.loads(json.dumps(DATASET))
    dataset[part] = value if key is None else [dataset[part][0] | {key: value}]
    path.write_text(json.dumps(dataset))
    objects = answer(ss.read_coco, path=path)
    assert objects is None or all(isinstance(one, ss.Object) for one in objects[0])
    results = path.with_name("found.json")
    for score in ({}, {"score": 0.5}):
        results.write_text(json.dumps([ONE | ({key: value} if part == "annotations" and key else {}) | score]))
        answer(ss.average_precision, truth=path, results=results)


@examples(8)
@given(st.integers(1, 3), st.sampled_from([1, 3]), st.sampled_from(["none", "add", "concat"]), st.sampled_from(["sigmoid", "softmax"]),
       st.sampled_from([1, 2]), st.sampled_from([0, 8]), hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), st.data())
def test_a_network_gives_probabilities_for_any_image(classes, channels, skip, output, patch, rays, shape, data):
    model = ss.build_model(classes, channels, 1, (4,), kernels=(3,), skip=skip, output=output, patch=patch, rays=rays)
    images, masks = data.draw(hnp.arrays("u1", (*shape, channels))), data.draw(hnp.arrays(bool, (*shape, classes)))
    p, names = ss.predict(model, images), [f"{k}" for k in range(classes)]
    assert are_probabilities(p, masks.shape)
    assert ss.evaluate(model, [(images, masks)], classes=names).equals(ss.Counts().add(p, masks).table(names))
    if rays:
        assert (ss.find_objects(model, images[0], classes=names)[1] == ss.predict(model, images[:1])[0]).all()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_the_parameter_that_is_wrong(path):
    """The code from its parameters to the last check of them is run with other values, as papermill would."""
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    place = next(n for n, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    lines = ast.parse("\n".join(cell.source for cell in code[place + 1:place + 3])).body
    last = max(n for n, line in enumerate(lines) if "check_" in ast.unparse(line) or "find_objects" in ast.unparse(line))
    checks = "\n".join(map(ast.unparse, lines[:last + 1]))
    defaults, imported = {}, {}
    exec(code[place].source, {}, defaults)
    exec(code[0].source, imported)
    assert all(f"{name}=" in checks or f"={name}" in checks for name in defaults)

    def run(**parameters):
        exec(checks, imported | parameters)

    run(**defaults)

    @examples(60)
    @given(st.sampled_from(sorted(defaults)), anything)
    def check(name, value):
        answer(run, **defaults | {name: value})

    check()


@pytest.mark.parametrize("notebook, parameter", [("one_run", ["steps", "many"]), ("01_dataset", ["size", "nan"])])
def test_papermill_names_the_parameter_that_is_wrong(tmp_path, notebook, parameter):
    command = [sys.executable, "-m", "papermill", ROOT / f"notebooks/{notebook}.ipynb", tmp_path / "out.ipynb", "-p", *parameter]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"ValueError: {parameter[0]}: expected a whole number" in done.stderr and done.returncode
