"""A run directory that survives being killed: what the run is, its history, its last checkpoint and the one before."""

import importlib.metadata
import json
import platform
import time
import zlib
from dataclasses import asdict, is_dataclass
from functools import reduce

import numpy as np
import pandas as pd

from shapeseg.backend import keras
from shapeseg.inference import evaluate
from shapeseg.models import save_model
from shapeseg.utils import atomic_write

CHECKPOINT, BEST = "checkpoint.npz", "best.keras"


class Checkpoints(keras.callbacks.Callback):
    """Restores the checkpoint of a run, then writes one, and a row of the history, after each epoch."""
    def __init__(self, trainer, run_dir, steps, keep, validation):
        super().__init__()
        self.trainer, self.run_dir, self.steps, self.keep, self.validation = trainer, run_dir, steps, keep, validation
        self.variables = [*trainer.variables, *trainer.optimizer.variables]  # weights, statistics, states of the random generators, …
        self.step, self.rows, self.seconds, self.since = 0, [], 0.0, time.monotonic()
        for left_over in run_dir.glob(".*.partial.*"):  # by a process that was killed
            left_over.unlink()
        (self.restore if (run_dir / CHECKPOINT).exists() else self.save)()  # the weights that the run begins with

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.trainer.stop_training |= self.step == self.steps

    def on_epoch_end(self, epoch, logs):
        row = dict(step=self.step, seconds=round(self.seconds + time.monotonic() - self.since, 1),
                   learning_rate=float(self.trainer.optimizer.learning_rate))
        for name in sorted(logs, key=lambda name: name != "loss"):  # Keras has longer names where there are several outputs
            short = name.replace("masks_iou", "iou").replace("_head", "")
            row[short] = logs[short] = float(logs[name])  # what the callbacks after this one monitor
        if self.validation:
            mean = evaluate(self.trainer, [self.validation]).loc["mean"].fillna(0.0)  # nan: in none of them is anything, nor found
            row["val_loss"], row["val_iou"] = logs["val_loss"], logs["val_iou"] = float(mean.bce), float(mean.iou)
        if not all(np.isfinite(array).all() for array in (row["loss"], *self.trainer.get_weights())):
            raise RuntimeError(f"loss: {row['loss']} at step {self.step}, or weights that are not finite; lower the learning rate "
                               f"({row['learning_rate']:.2g} at this step) and give another run_dir")
        if self.keep == "best" and row["val_iou"] > max((before["val_iou"] for before in self.rows), default=-1):
            save_model(self.model, self.run_dir / BEST)  # before the checkpoint: a killed run does this epoch again
        self.rows.append(row)
        self.save(row["seconds"])
        self.write_history()

    def write_history(self):
        history = pd.DataFrame(self.rows)
        with atomic_write(self.run_dir / "history.csv") as partial:
            history.to_csv(partial, index=False)
        return history

    def save(self, seconds=0.0):
        with atomic_write(self.run_dir / CHECKPOINT) as partial:
            np.savez(partial, step=self.step, seconds=seconds, rows=json.dumps(self.rows),
                     **{str(n): variable.numpy() for n, variable in enumerate(self.variables)})
    def restore(self):
        with np.load(self.run_dir / CHECKPOINT, allow_pickle=False) as saved:
            self.step, self.seconds, self.rows = int(saved["step"]), float(saved["seconds"]), json.loads(str(saved["rows"]))
            for n, variable in enumerate(self.variables):
                variable.assign(saved[str(n)])


def describe_run(run_dir, model, data, validation, arguments):
    """Write run.json, all that is needed to repeat the run, or raise a ValueError that names what differs from the one there."""
    def fingerprint(arrays):  # one array, or a list of them
        crc32 = reduce(lambda crc, array: zlib.crc32(np.ascontiguousarray(array), crc), arrays, 0)
        return {"shape": arrays.shape if isinstance(arrays, np.ndarray) else [array.shape for array in arrays],
                "dtype": str(arrays[0].dtype), "crc32": crc32}
    run = json.loads(json.dumps({
        "data": asdict(data) if is_dataclass(data) else [*map(fingerprint, data)], "arguments": arguments,
        "validation": validation and [*map(fingerprint, validation)], "model": json.loads(model.to_json())["config"],
        "versions": {"python": platform.python_version(), "machine": platform.machine(), **{
            name: importlib.metadata.version(name) for name in ("shapeseg", "tensorflow", "keras", "numpy", "scikit-image")}},
    }, default=lambda number: number.item()))  # NumPy's numbers
    path = run_dir / "run.json"
    if not (run_dir / CHECKPOINT).exists():
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(run, indent=1) + "\n")
        return
    before = json.loads(path.read_text())
    differ = [f"{name} (was {before['arguments'].get(name)!r}, now {value!r})"
              for name, value in run["arguments"].items() if before["arguments"].get(name) != value]
    differ += [name for name in ("data", "validation", "model") if before[name] != run[name]]
    if differ:
        raise ValueError(f"run_dir: {run_dir} holds a run with other arguments: {', '.join(differ)}; give another run_dir, or delete "
                         f"{run_dir} and train again")

