"""Train, evaluate and record one experiment."""

import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from linfdist import data, environment, experiments, records
from linfdist.config import from_dict, to_dict
from linfdist.evaluation import evaluate
from linfdist.experiments.base import Scale
from linfdist.nn import build_net, flop_count, parameter_count
from linfdist.training import fit


def run(
    name: str,
    *,
    scale: str = "reduced",
    seed: int = 0,
    device: torch.device | str | None = None,
    restart: bool = False,
    progress: bool = True,
) -> records.Run:
    """Train the experiment's network from ``seed``, evaluate it on the test set, write the record.

    Interrupted at any moment, the same call goes on from the checkpoint in the work folder;
    ``restart`` drops the checkpoint. ``device`` is the GPU if there is one, else the CPU. The
    trained weights are left in the work folder as weights.pt.

    Raises:
        UnknownName: no such experiment or scale.
        RunExists: this run is recorded already; nothing was trained.
        DeviceError: the device cannot be used.
        DataError: the data set is missing or damaged.
        CheckpointError: the checkpoint is of another run, or damaged.
    """
    setting = experiments.get_scale(name, scale)
    records.refuse_recorded(name, scale, seed)
    work = records.work_dir(name, scale, seed)
    device = environment.usable_device(device)
    surroundings = environment.describe(device)

    train = data.load(setting.dataset, "train").to(device)
    test = data.load(setting.dataset, "test").take(setting.test_images).to(device)
    net = build(setting, train.info, seed)
    if scale == "paper" and device.type == "cpu":
        print(_cpu_warning(name, net, setting, train), file=sys.stderr)

    work.mkdir(parents=True, exist_ok=True)
    epochs = fit(
        net,
        train,
        setting.train,
        seed=seed,
        test=test,
        checkpoint=work / "checkpoint.pt",
        restart=restart,
        progress=progress,
        device=device,
        experiment=f"{name} {scale}",
    )
    started = time.perf_counter()
    metrics, certificates = evaluate(
        net, test, setting.eps, seed=seed, device=device, progress=progress
    )
    evaluation_seconds = time.perf_counter() - started
    training_seconds = sum(row["seconds"] for row in epochs)
    weights = _save_weights(net, work / "weights.pt")
    return records.write_run(
        name,
        scale,
        seed,
        config={
            "setting": to_dict(setting),
            "num_classes": train.info.num_classes,
            "parameters": parameter_count(net),
            "flops": flop_count(net, train.info.input_shape),
        },
        metrics=metrics,
        environment={
            **surroundings,
            "training_seconds": round(training_seconds, 1),
            "evaluation_seconds": round(evaluation_seconds, 1),
            "peak_memory_mb": environment.peak_memory_mb(device),
        },
        epochs=epochs,
        certificates=certificates,
        seconds=training_seconds + evaluation_seconds,
        weights=weights,
    )


def build(setting: Scale, info: data.DatasetInfo, seed: int) -> nn.Module:
    """The network of a setting, on the CPU, with weights that are a function of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_net(
            setting.net,
            input_shape=info.input_shape,
            num_classes=info.num_classes,
            mean=info.mean,
            std=info.std,
        )


def load_trained(run: records.Run, path: Path | None = None) -> nn.Module:
    """The trained network of a recorded run, its weights read from the work folder or ``path``.

    Raises:
        RecordError: the weights are not there, or are not those of the record.
    """
    path = path or records.work_dir(run.experiment, run.scale, run.seed) / "weights.pt"
    records.check_weights(run, path)
    setting = from_dict(Scale, run.config["setting"])
    info = replace(data.DATASETS[setting.dataset], num_classes=run.config["num_classes"])
    net = build(setting, info, run.seed)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def _save_weights(net: nn.Module, path: Path) -> Path:
    # Through a buffer, so that the bytes do not depend on the file's name.
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, buffer)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(buffer.getvalue())
    os.replace(unfinished, path)
    return path


def _cpu_warning(name: str, net: nn.Module, setting: Scale, train: data.ImageSet) -> str:
    """What a run at the paper's scale will take here, from the time of one small step."""
    used = train.take(setting.train.train_images)
    images = data.to_pixels(data.center_crop(used.images[:16], net.input_shape[-1]))
    net.eval()  # so that the running means stay as they are
    started = time.perf_counter()
    net(images, p=setting.train.p_start).sum().backward()
    per_image = (time.perf_counter() - started) / len(images)
    net.zero_grad()
    net.train()
    epochs = sum(setting.train.epochs)
    days = per_image * len(used) * epochs / 86400
    return (
        f"{name} at the paper's scale trains for {epochs} epochs of {len(used)} images. On this "
        f"CPU that takes about {days:.1f} days; use a GPU, or --scale reduced. A stopped run goes "
        "on from its checkpoint."
    )
