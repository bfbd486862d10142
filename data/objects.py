"""Train the reference model that finds objects, and one for masks alone beside it; write its card.

    .venv/bin/python data/objects.py [RUN_DIR]

A run that was stopped goes on. Each takes up to 20 minutes on two cores.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

import shapeseg as ss
from shapeseg.files import checksum

HERE = Path(__file__).parent
STEPS, RAYS = 4500, 64
TRAINING_SCENES = replace(ss.CROWDED, figures=(6, 14))  # more to learn from in a scene


def main(run_dir="runs/objects"):
    rows = {}
    for name, rays in (("objects", RAYS), ("masks alone", 0)):
        model = ss.build_model(**ss.FAST_MODEL, rays=rays)
        history = ss.train(model, TRAINING_SCENES, STEPS, f"{run_dir}/{name.replace(' ', '_')}", **ss.FAST_TRAINING)
        rows[name] = {"parameters": model.count_params(), **score(model, 300)}
        if rays:
            minutes = history.seconds.iloc[-1] / 60
            run = json.loads((ss.run_directory(f"{run_dir}/objects") / "run.json").read_text())
            shutil.copyfile(ss.run_directory(f"{run_dir}/objects") / "model.keras", HERE / "models/objects.keras")
            first = {"scenes": 24, **score(model, 24)}
    card = {"sha256": checksum(HERE / "models/objects.keras"), "trained": {"minutes": minutes, **run["arguments"], "scene_config": run["data"], "versions": run["versions"]}, "scenes": 300, **rows,
            "first_scenes": first}
    (HERE / "models/objects.json").write_text(json.dumps(card, indent=1) + "\n")
    table = pd.DataFrame({name: {key: str(round(value, 4)) for key, value in row.items()} for name, row in rows.items()})
    table = table.fillna("").reset_index(names="")
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    (HERE / "models/objects.md").write_text(f"""# Model card: objects

`ss.load_model("objects")`: the network `FAST_MODEL` with {RAYS} rays, trained by `data/objects.py`: {STEPS} steps of \
{run["arguments"]["batch_size"]} crowded scenes with 6 to 14 figures, all of them new, {minutes:.1f} minutes on two cores. All arguments, versions and the file's checksum are in `objects.json`. Beside it the same
network without rays, trained alike for its masks alone.

On 300 held-out scenes (`CROWDED`, split "test", seed 0, 512×512): mean IoU of the masks; COCO's average precision of the objects; the share of scenes with the
exact number of objects of each class; the share of pairs of one class that overlap by up to half and come out as two.

{chr(10).join("| " + " | ".join(line) + " |" for line in lines)}

It knows drawn figures on even ground and nothing else; notebook 07 shows where it fails.
""")


def score(model, count):
    """Of the masks and, if the model finds any, of the objects, on the first scenes of the test split."""
    scenes = [ss.draw_scene(ss.CROWDED, 0, n, "test") for n in range(count)]
    scores = {"iou": ss.evaluate(model, [(scene.image[None], scene.masks[None]) for scene in scenes]).loc["mean", "iou"]}
    if len(model.outputs) > 1:
        scores |= ss.evaluate_objects(scenes, [ss.find_objects(model, scene.image)[0] for scene in scenes])
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
