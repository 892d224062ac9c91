"""Train, evaluate and record one experiment."""

import contextlib
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linfdist import _values, baselines, data, distributed, environment, experiments, records
from linfdist import checkpoint as checkpoints
from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.config import from_dict, to_dict
from linfdist.evaluation import evaluate
from linfdist.experiments.base import Scale
from linfdist.nn import build_net, flop_count, parameter_count
from linfdist.nn.state import check_state_dict
from linfdist.recipe import recipe_of
from linfdist.record_files import json_text, sync_folder, write_file
from linfdist.robust.checks import check_finite
from linfdist.training import fit


def run(
    name: str,
    *,
    scale: str = "reduced",
    seed: int = 0,
    device: torch.device | str | None = None,
    restart: bool = False,
    progress: bool = True,
    seconds: float | None = None,
) -> records.Run | None:
    """Train the experiment's network from ``seed``, evaluate it on the test set, write the record.

    The name "validation/table1/mnist_net" stands for "table1/mnist_net" without the test set: the
    network trains on the first and is evaluated on the second set of ``data.split_validation``. Its
    record lies under validation/ beside the tables' folders, and no table shows it.

    Interrupted at any moment, the same call goes on from the checkpoint in the work folder, which
    is deleted once the run is recorded; ``restart`` drops the checkpoint. ``device`` is the GPU if
    there is one, else the CPU. The trained weights are left in the work folder as weights.pt.
    ``seconds`` limits the training of this call; evaluation comes when training is done.

    In processes that torchrun started, all train together; process 0 then evaluates and records,
    and the others return None.

    Raises:
        OutOfTime: the seconds are over before training is done; the same call goes on.
        UnknownName: no such experiment or scale.
        RunExists: this run is recorded already; nothing was trained.
        RunInProgress: another process is at this run.
        DeviceError: the device cannot be used.
        DataError: the data set is missing or damaged.
        CheckpointError: the checkpoint is of another run, or damaged.
    """
    seed = _values.seed(seed, "run")
    with contextlib.ExitStack() as until_recorded:
        with distributed.join(device) as device:
            setting = experiments.get_scale(name, scale)
            records.refuse_recorded(name, scale, seed)
            work = records.work_dir(name, scale, seed)
            first = distributed.rank() == 0
            if first:
                until_recorded.enter_context(records.lock(work))
                records.refuse_recorded(name, scale, seed)  # by whoever had the lock before
            checkpoint = work / "checkpoint.pt"
            surroundings = environment.describe(device) | {"processes": distributed.size()}
            earlier = _earlier_surroundings(checkpoint, surroundings, restart) if first else []
            with distributed.first_process_first():
                train, test = setting.train_set().to(device), setting.test_set().to(device)
            net = build(setting, train.info, seed)
            config = {
                "setting": to_dict(setting),
                "num_classes": train.info.num_classes,
                **_split(train, test),
                **counts(net),
            }
            json_text(config | surroundings)  # what cannot be recorded is refused before training
            if scale == "paper" and device.type == "cpu" and first:
                print(_cpu_warning(name, net, setting, train), file=sys.stderr)
            epochs = fit(
                net,
                train,
                setting.train,
                seed=seed,
                test=test,
                checkpoint=checkpoint,
                restart=restart,
                progress=progress,
                device=device,
                experiment=f"{name} {scale}",
                surroundings=[*earlier, surroundings],
                seconds=seconds,
            )
        if not first:
            return None

        started = time.perf_counter()
        metrics, certificates = evaluate(
            net, test, setting.eps, seed=seed, device=device, progress=progress
        )
        evaluation_seconds = time.perf_counter() - started
        training_seconds = sum(row["seconds"] for row in epochs)
        weights = _save_weights(net, work / "weights.pt")
        run = records.write_run(
            name,
            scale,
            seed,
            config=config,
            metrics=metrics,
            environment={
                **surroundings,
                **({"resumed_from": earlier} if earlier else {}),
                "training_seconds": round(training_seconds, 1),
                "evaluation_seconds": round(evaluation_seconds, 1),
                "peak_memory_mb": environment.peak_memory_mb(device),
            },
            epochs=epochs,
            certificates=certificates,
            seconds=training_seconds + evaluation_seconds,
            weights=weights,
        )
        checkpoint.unlink()  # so that a record that is deleted is trained again
        return run


def _split(train: data.ImageSet, test: data.ImageSet) -> dict[str, dict[str, int]]:
    """How many images were trained on and kept; nothing where the test set was used."""
    return {"split": {"train": len(train), "validation": len(test)}} if test.validation else {}


def _earlier_surroundings(
    checkpoint: Path, now: dict[str, Any], restart: bool
) -> list[dict[str, Any]]:
    """What the calls before this one ran on, where it differs; warns if the last one's did."""
    if restart or not checkpoint.exists():
        return []
    calls = checkpoints.surroundings(checkpoint)
    last = calls[-1] if calls else now
    fields = ("commit", "dirty", "threads", "processes", "backend")
    changed = checkpoints.differences(*({f: call.get(f) for f in fields} for call in (last, now)))
    if changed:
        print(
            f"{checkpoint} is from other surroundings: {'; '.join(changed)}. The run goes on, and "
            "its record says so; but it may not end as it would have in one go.",
            file=sys.stderr,
        )
    return [call for call in calls if call != now]


def build(setting: Scale, info: data.DatasetInfo, seed: int) -> nn.Module:
    """The network of a setting, on the CPU, with weights that are a function of ``seed``."""
    seed = _values.seed(seed, "build")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_any = build_baseline if isinstance(setting.net, BaselineConfig) else build_net
        return build_any(
            setting.net,
            input_shape=info.input_shape,
            num_classes=info.num_classes,
            mean=info.mean,
            std=info.std,
        )


def counts(net: nn.Module) -> dict[str, int]:
    """Weights and FLOPs."""
    if isinstance(net, baselines.BaselineNet):
        parameters, flops = baselines.parameter_count(net), baselines.flop_count(net)
    else:
        parameters, flops = parameter_count(net), flop_count(net, net.input_shape)
    return {"parameters": parameters, "flops": flops}


def untrained(run: records.Run) -> nn.Module:
    """The network of a recorded run as its training began."""
    setting = from_dict(Scale, run.config["setting"])
    info = replace(data.DATASETS[setting.dataset], num_classes=run.config["num_classes"])
    return build(setting, info, run.seed)


def load_trained(run: records.Run, path: os.PathLike[str] | str | None = None) -> nn.Module:
    """The trained network of a recorded run, its weights read from the work folder or ``path``.

    Raises:
        RecordError: the weights are not there, or are not those of the record.
    """
    if path is None:
        path = records.work_dir(run.experiment, run.scale, run.seed) / "weights.pt"
    path = _values.file(path, "load_trained: path")
    records.check_weights(run, path)
    net = untrained(run)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        check_state_dict(net, found, "the file", older=True)
        net.load_state_dict(found)
        check_finite(net, "load_trained")
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise records.RecordError(
            f"{path} must hold the finite weights of this network, and nothing else; it cannot be "
            f"used ({error}). Its SHA-256 is the record's: both are of another source or version."
        ) from error
    return net.eval()


def _save_weights(net: nn.Module, path: Path) -> Path:
    # Through a buffer, so that the bytes do not depend on the file's name.
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, buffer)
    unfinished = path.with_suffix(".part")
    try:
        write_file(unfinished, buffer.getvalue())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise records.RecordError(
            f"{path} must be written whole; it cannot be ({error}). The checkpoint beside it is "
            "kept. Free some space: the same call goes on."
        ) from error
    return path


def _cpu_warning(name: str, net: nn.Module, setting: Scale, train: data.ImageSet) -> str:
    """What a run at the paper's scale will take here."""
    images = len(train.take(setting.train.train_images))
    epochs = sum(setting.train.epochs)
    days = _epochs_seconds(net, setting, train) * images / 86400
    return (
        f"{name} at the paper's scale trains for {epochs} epochs of {images} images. On this CPU "
        f"that takes about {days:.1f} days; use a GPU, or --scale reduced. A stopped run goes on "
        "from its checkpoint."
    )


def _epochs_seconds(net: nn.Module, setting: Scale, train: data.ImageSet) -> float:
    """Seconds for one image in all epochs, from a small batch in the middle of each phase.

    Powers cost several times a maximum, and more at a p that is not small and whole.
    """
    recipe = recipe_of(net, setting.train)
    images = data.to_pixels(data.center_crop(train.images[:16], net.input_shape[-1]))
    labels = train.labels[:16]
    net.eval()  # so that the running means stay as they are
    total, begin = 0.0, 0
    for epochs in setting.train.epochs:
        values = recipe.at(begin + epochs / 2)
        begin += epochs
        started = time.perf_counter()
        loss, _ = recipe.objective(images, labels, *values)
        loss.backward()
        total += epochs * (time.perf_counter() - started) / len(images)
    net.zero_grad()
    net.train()
    return total
