"""A search for settings that never reads the test set. Each trial is kept in a file.

    base = experiments.get_setting("validation/table1/cifar10_net_mixture", "reduced")
    for lr in (0.01, 0.02):
        setting = replace(base, train=replace(base.train, lr=lr))
        trial(f"lr {lr}", setting, folder=Path("work/search/lr"))
    print(trials(Path("work/search/lr")))

The chosen setting is then trained as a row of a table, on all training images, and evaluated on
the test set once.
"""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from linfdist.evaluation import clean_and_certified
from linfdist.experiments.base import Setting
from linfdist.experiments.runner import build
from linfdist.records import RecordError, environment
from linfdist.records.files import read_sealed, replace_file, sealed_text
from linfdist.system.serialise import to_dict
from linfdist.training import fit


def trial(
    name: str,
    setting: Setting,
    *,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Train a setting on one part of the training images, and certify the validation images.

    A trial that already has a file in ``folder`` is read, not repeated. Trials of one folder may
    run side by side.

    Args:
        name: the trial's name; it becomes a part of the file's name.
        setting: a setting with ``validation=True``.
        folder: where the file <name>-seed<k>.json is written.
        seed: of the weights, the order of the images and their augmentation.
        device: where to train.
        progress: show the progress of training.

    Returns:
        The content of the file:

        - name, seed.
        - clean, certified: fractions of the validation images at p = ∞ and the setting's eps, by
          ``clean_and_certified``.
        - seconds, cpu_seconds: by the clock, and by the processors.
        - split: how many images are in each part.
        - setting.
        - last_epoch: the row of the last epoch.
        - environment: what the trial ran on.

    Raises:
        ValueError: the setting has no ``validation=True``, or ``name`` is not a file name.
        RecordError: the file is damaged, or belongs to another setting.
    """
    if not setting.validation:
        raise ValueError(
            "trial: setting.validation must be True, so that a trial never reads the test set; got "
            'False. Take the setting from get_setting("validation/<row>", scale).'
        )
    if Path(name).name != name:
        raise ValueError(f"trial: name must be the name of a file, without folders; got {name!r}.")
    path = folder / f"{name}-seed{seed}.json"
    if path.exists():
        return _known(path, setting)
    train, validation = setting.train_set().to(device), setting.test_set().to(device)
    net = build(setting, train.info, seed)
    started, started_cpu = time.perf_counter(), time.process_time()
    rows = fit(
        net, train, setting.train, seed=seed, test=validation, device=device, progress=progress
    )
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    clean, certified = clean_and_certified(net, validation, eps=setting.eps)
    record = {
        "name": name,
        "seed": seed,
        "clean": clean,
        "certified": certified,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "split": {"train": len(train), "validation": len(validation)},
        "setting": to_dict(setting),
        "last_epoch": to_dict(rows[-1]),
        "environment": environment.describe(device),
    }
    replace_file(path, sealed_text(record))
    return record


def trials(folder: Path) -> pd.DataFrame:
    """One row per trial of a folder, the best first.

    Columns: name, seed, clean, certified, seconds and cpu_seconds.

    Raises:
        RecordError: a file is damaged.
    """
    columns = ["name", "seed", "clean", "certified", "seconds", "cpu_seconds"]
    table = pd.DataFrame([read_sealed(path) for path in sorted(folder.glob("*.json"))])
    return table.reindex(columns=columns).sort_values("certified", ascending=False, kind="stable")


def _known(path: Path, setting: Setting) -> dict[str, Any]:
    """The trial in a file; RecordError if it belongs to another setting."""
    record = read_sealed(path)
    if record["setting"] != to_dict(setting):
        raise RecordError(
            f"{path} must belong to this setting; it belongs to another. Give the trial another "
            "name, or delete the file to run the trial again."
        )
    return record
