"""Make the model that notebook 03 trained the reference model, and write its card and the README's picture.

    .venv/bin/papermill notebooks/03_training.ipynb out.ipynb -p steps 6000 -p run_dir runs/reference
    .venv/bin/python data/reference.py runs/reference/masks
"""

import json
import shutil
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import shapeseg as ss
from shapeseg.files import checksum

HERE = Path(__file__).parent
METRICS = ["bce", "mse", "accuracy", "iou", "dice"]


def main(run_dir):
    run = json.loads((run_dir / "run.json").read_text())
    history = pd.read_csv(run_dir / "history.csv")
    (HERE / "models").mkdir(exist_ok=True)
    shutil.copyfile(run_dir / "model.keras", HERE / "models/masks.keras")
    model = ss.load_model(HERE / "models/masks.keras")
    table = ss.evaluate(model, ss.stream(ss.ARTICLE, 0, 8, count=500, split="test"))
    first = ss.evaluate(model, ss.stream(ss.ARTICLE, 0, 8, count=24, split="test"))
    card = {
        "sha256": checksum(HERE / "models/masks.keras"),
        "trained": {"seconds": history.seconds.iloc[-1], **run["arguments"], "scene_config": run["data"],
                    "versions": run["versions"]},
        "scenes": 500, **table.loc["mean", METRICS].to_dict(),
        "first_scenes": {"scenes": 24, **first.loc["mean", METRICS].to_dict()}}
    (HERE / "models/masks.json").write_text(json.dumps(card, indent=1) + "\n")
    (HERE / "models/masks.md").write_text(f"""# Model card: masks

`ss.load_model("masks")`: the network `FAST_MODEL` ({model.count_params():,} parameters), trained by notebook 03 with
`-p steps {run["arguments"]["steps"]}` in place of its default: {run["arguments"]["steps"]} steps of \
{run["arguments"]["batch_size"]} scenes, all of them new, {history.seconds.iloc[-1] / 60:.1f} minutes on two cores. All arguments, versions and the file's checksum are in `masks.json`.

On 500 held-out scenes (`ARTICLE`, split "test", seed 0, 512×512):

{table.round(4).reset_index().pipe(markdown)}

It knows drawn figures on even ground and nothing else. Notebook 04 shows where it fails.
""")
    picture(model)


def markdown(table):
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def picture(model):
    """The README's picture: the first held-out scenes with five figures or more."""
    matplotlib.use("Agg")
    scenes = [ss.draw_scene(ss.ARTICLE, 0, index, "test") for index in range(20)]
    shown = [scene for scene in scenes if len(scene.figures) >= 5][:3]
    images, masks = (np.stack([getattr(scene, name) for scene in shown]) for name in ("image", "masks"))
    ss.show_predictions(images, masks, ss.predict(model, images),
                        title="Held-out scenes: the image, the truth, the prediction, and where they differ")
    plt.savefig(HERE / "picture.png", dpi=70)


main(Path(sys.argv[1]))
