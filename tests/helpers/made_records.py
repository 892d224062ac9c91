"""Records that are made up: whole, in order, and with the accuracies that a test asks for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from linfdist import experiments, records
from linfdist.records.checks import count_of_images
from linfdist.system.serialise import to_dict

ENVIRONMENT = {
    "commit": "0123456789",
    "dirty": False,
    "versions": {},
    "platform": "a test",
    "device": "a test",
    "threads": 1,
    "backend": "reference",
    "training_seconds": 60.0,
    "evaluation_seconds": 30.0,
    "peak_memory_mb": 1.0,
}


def config(
    name: str = "table1/mnist_net",
    scale: str = "reduced",
    *,
    epochs: int,
    num_classes: int = 10,
    test_images: int | None = None,
    flops: int = 1,
) -> dict:
    """A row's config.json, with so many epochs and test images."""
    setting = to_dict(experiments.get_setting(name, scale)) | {"test_images": test_images}
    setting["train"] |= {"epochs": [epochs, 0, 0]}
    return {"setting": setting, "num_classes": num_classes, "parameters": 1, "flops": flops}


def certificates(images: int, clean: float, pgd: float, certified: float) -> pd.DataFrame:
    """Labels of one class, wrong from the clean-th part on; flags that begin with their part."""

    def first(part: float) -> np.ndarray:
        return np.arange(images) < round(part * images)

    nothing = np.full(images, np.nan)
    return pd.DataFrame(
        {
            "index": np.arange(images),
            "label": 0,
            "predicted": np.where(first(clean), 0, 1),
            "margin_radius": nothing,
            "interval_radius": np.where(first(certified), 1.0, 0.0),
            "certified_margin": nothing,
            "certified_interval": first(certified),
            "survived_pgd": first(pgd),
        }
    )


def record(
    folder: Path,
    name: str = "table1/mnist_net",
    scale: str = "reduced",
    seed: int = 0,
    *,
    clean: float = 0.9,
    pgd: float = 0.8,
    certified: float = 0.7,
    epochs: list[dict],
    num_classes: int = 10,
    test_images: int | None = None,
    flops: int = 1,
    seconds: float = 90.0,
    **environment: object,
) -> records.Run:
    """Record a run of these accuracies, to the part that the number of its images allows."""
    weights = folder / "weights.pt"
    weights.write_bytes(b"weights")
    made = config(
        name,
        scale,
        epochs=len(epochs),
        num_classes=num_classes,
        test_images=test_images,
        flops=flops,
    )
    images = count_of_images(made["setting"]["dataset"], num_classes, test_images)
    table = certificates(images, clean, pgd, certified)
    return records.write_run(
        name,
        scale,
        seed,
        config=made,
        metrics=records.accuracies(table),
        environment=ENVIRONMENT | environment,
        epochs=epochs,
        certificates=table,
        seconds=seconds,
        weights=weights,
    )


def seal(folder: Path) -> None:
    """Make the checksums of a record's files as they are now, as whoever edits a record can."""
    sums = (
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in records.FILES
    )
    (folder / records.CHECKSUMS).write_text("".join(sums))


def rewrite(folder: Path, table: pd.DataFrame) -> None:
    """Give a record other certificates, with the metrics that they give, and new checksums."""
    table.to_csv(folder / "certificates.csv", index=False)
    stored = pd.read_csv(folder / "certificates.csv")
    summary = json.loads((folder / "metrics.json").read_text())
    summary["metrics"] = records.accuracies(stored)
    (folder / "metrics.json").write_text(json.dumps(summary))
    seal(folder)
