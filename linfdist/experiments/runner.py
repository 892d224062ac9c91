"""Train, evaluate and record one experiment."""

import contextlib
import io
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from linfdist import data, experiments, records
from linfdist.evaluation import evaluate
from linfdist.experiments import networks
from linfdist.experiments.base import Setting
from linfdist.nn import flop_count, parameter_count
from linfdist.nn.state import check_state_dict
from linfdist.records import environment as records_environment
from linfdist.records.checks import count_of_images
from linfdist.records.files import json_text, named
from linfdist.robust.checks import check_finite
from linfdist.system import devices, disk, distributed, values
from linfdist.system.disk import sync_folder, write_file
from linfdist.system.serialise import from_dict, to_dict
from linfdist.system.terminal import say
from linfdist.training import CheckpointConfig, fit
from linfdist.training import checkpoint as checkpoints
from linfdist.training.config import Net
from linfdist.training.recipe import recipe_of

WEIGHTS = "weights.pt"  # in the work folder


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

    After an interruption at any moment the same call continues from the checkpoint in the work
    folder. The checkpoint is deleted when the run is recorded. The trained weights stay in the work
    folder as weights.pt.

    Processes that torchrun started train together. Process 0 then evaluates and records the run,
    and the others return None.

    Args:
        name: the experiment. "validation/table1/mnist_net" is "table1/mnist_net" without the test
            set: the network trains on the first set of ``data.split_validation`` and is evaluated
            on the second. Its record lies under validation/ beside the tables' folders, and no
            table shows it.
        scale: one of ``experiments.SCALES``.
        seed: of the weights, the order of the images, their augmentation and the attack.
        device: by default the GPU if there is one, else the CPU.
        restart: delete the checkpoint first.
        progress: show the progress of training and evaluation.
        seconds: the time limit for the training of this call. Evaluation follows when training is
            complete.

    Raises:
        OutOfTime: the seconds passed before training was complete; the same call continues.
        UnknownName: no such experiment or scale.
        RunExists: this run is already recorded; nothing was trained.
        RunInProgress: another process is working on this run.
        DeviceError: the device cannot be used.
        DataError: the data set is missing or damaged.
        CheckpointError: the checkpoint belongs to another run, or is damaged.
    """
    seed = values.seed(seed, "run")
    with contextlib.ExitStack() as until_recorded:
        with distributed.join(device) as device:
            setting = experiments.get_setting(name, scale)
            records.refuse_recorded(name, scale, seed)
            work = records.work_dir(name, scale, seed)
            first = distributed.rank() == 0
            if first:
                until_recorded.enter_context(records.lock(work))
                # Check again: the process that held the lock before may have recorded this run.
                records.try_recording(records.refuse_recorded(name, scale, seed))
                _try_weights(work / WEIGHTS)
            checkpoint = work / "checkpoint.pt"
            environment = records_environment.describe(device) | {"processes": distributed.size()}
            earlier = _earlier_environments(checkpoint, environment, restart) if first else []
            with distributed.first_process_first():
                train, test = setting.train_set().to(device), setting.test_set().to(device)
            _check_test_images(setting, test, train.info.num_classes)
            net = build(setting, train.info, seed)
            config = {
                "setting": to_dict(setting),
                "num_classes": train.info.num_classes,
                **_split(train, test),
                **counts(net),
            }
            json_text(config | environment)  # refuses before training what cannot be recorded
            if scale == "paper" and device.type == "cpu" and first:
                say(_cpu_warning(name, net, setting, train))
            epochs = fit(
                net,
                train,
                setting.train,
                seed=seed,
                test=test,
                checkpoint=CheckpointConfig(
                    checkpoint,
                    restart=restart,
                    experiment=f"{name} {scale}",
                    environments=[*earlier, environment],
                ),
                progress=progress,
                device=device,
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
        weights = _save_weights(net, work / WEIGHTS)
        run = records.write_run(
            name,
            scale,
            seed,
            config=config,
            metrics=metrics,
            environment={
                **environment,
                **({"resumed_from": earlier} if earlier else {}),
                "training_seconds": round(training_seconds, 1),
                "evaluation_seconds": round(evaluation_seconds, 1),
                "peak_memory_mb": devices.peak_memory_mb(device),
            },
            epochs=epochs,
            certificates=certificates,
            seconds=training_seconds + evaluation_seconds,
            weights=weights,
        )
        checkpoint.unlink()  # after its record is deleted, a run trains again
        return run


def _split(train: data.ImageSet, test: data.ImageSet) -> dict[str, dict[str, int]]:
    """The numbers of training and validation images; empty if the test set was used."""
    return {"split": {"train": len(train), "validation": len(test)}} if test.validation else {}


def _earlier_environments(
    checkpoint: Path, now: dict[str, Any], restart: bool
) -> list[dict[str, Any]]:
    """The environments of earlier calls that differ from ``now``; warns if the last one's do."""
    if restart or not checkpoint.exists():
        return []
    calls = checkpoints.environments(checkpoint)
    last = calls[-1] if calls else now
    fields = ("commit", "dirty", "threads", "processes", "backend")
    before, after = ({name: call.get(name) for name in fields} for call in (last, now))
    changed = checkpoints.differences(before, after)
    if changed:
        say(
            f"{checkpoint} was written in another environment: {'; '.join(changed)}. The run "
            "continues and its record says so, but the result may differ from that of an "
            "uninterrupted run."
        )
    return [call for call in calls if call != now]


def build(setting: Setting, info: data.DatasetInfo, seed: int) -> Net:
    """The network of a setting, on the CPU; its weights depend only on ``seed``."""
    return networks.build(setting.net, info, seed)


def counts(net: Net) -> dict[str, int]:
    """The numbers of weights and of FLOPs."""
    return {"parameters": parameter_count(net), "flops": flop_count(net)}


def setting_of(run: records.Run) -> Setting:
    """The setting in the run's config.json; RecordError if this package cannot read it."""
    try:
        return from_dict(Setting, run.config["setting"])
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise records.RecordError(
            f"{run.path / 'config.json'} must hold a setting that can be run; it does not "
            f"({error}). Restore it, or use the version of linfdist that recorded it."
        ) from error


def untrained(run: records.Run) -> Net:
    """The network of a recorded run as it was before training."""
    setting = setting_of(run)
    info = replace(data.DATASETS[setting.dataset], num_classes=run.config["num_classes"])
    return build(setting, info, run.seed)


def load_trained(run: records.Run, path: os.PathLike[str] | str | None = None) -> Net:
    """The trained network of a recorded run, with weights from the work folder or ``path``.

    Raises:
        RecordError: the weights are missing, or are not those of the record.
    """
    if path is None:
        path = records.work_dir(run.experiment, run.scale, run.seed) / WEIGHTS
    path = values.file(path, "load_trained: path")
    records.check_weights(run, path)
    net = untrained(run)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_state_dict(net, state, "the file", older=True)
        net.load_state_dict(state)
        check_finite(net, "load_trained")
    except Exception as error:  # damaged bytes make torch.load raise any error
        raise records.RecordError(
            f"{path} must hold the finite weights of this network, and nothing else; it cannot be "
            f"used ({error}). Its SHA-256 matches the record, so both come from another source or "
            "version."
        ) from error
    return net.eval()


def _save_weights(net: Net, path: Path) -> Path:
    # torch.save writes the file's name into the file; a buffer keeps the bytes free of it.
    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, buffer)
    kept = ". Then repeat the call to continue. The checkpoint beside it is kept."
    with (
        named(path, "be written completely; writing it failed", kept),
        _unfinished(path) as unfinished,
    ):
        write_file(unfinished, buffer.getvalue())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    return path


def _try_weights(path: Path) -> None:
    """RecordError unless the weights can be saved at ``path``."""
    undone = ". LINFDIST_WORK sets this folder. Nothing was done yet."
    with named(path, "be a file that can be written; writing it failed", undone):
        disk.refuse_folder(path)
        with _unfinished(path) as unfinished, disk.create(unfinished) as file:
            file.write(b"\n")


def _unfinished(path: Path) -> contextlib.AbstractContextManager[Path]:
    """A temporary name for the file until it is whole; a leftover file is deleted at the end."""
    return disk.removed_after(path.with_suffix(".part"))


def _check_test_images(setting: Setting, test: data.ImageSet, num_classes: int) -> None:
    """Refuse an incomplete test set before training: its record could not be read."""
    wanted = count_of_images(
        setting.dataset, num_classes, setting.test_images, validation=setting.validation
    )
    if len(test) != wanted:
        raise data.DataError(
            f"{test.info.title}: the test set must have {wanted} images for {num_classes} classes; "
            f"got {len(test)}. Restore the missing files."
        )


def _cpu_warning(name: str, net: Net, setting: Setting, train: data.ImageSet) -> str:
    """A warning with the estimated days of a run at the paper's scale on this CPU."""
    images = len(train.take(setting.train.train_images))
    epochs = sum(setting.train.epochs)
    days = _epochs_seconds(net, setting, train) * images / 86400
    return (
        f"{name} at the paper's scale trains for {epochs} epochs of {images} images. On this CPU "
        f"that takes about {days:.1f} days; use a GPU, or --scale reduced. A stopped run continues "
        "from its checkpoint."
    )


def _epochs_seconds(net: Net, setting: Setting, train: data.ImageSet) -> float:
    """Estimated seconds for one image in all epochs: a small batch timed mid-way in each phase.

    The phases differ: a power costs several times as much as a maximum, and more if p is not a
    small whole number.
    """
    recipe = recipe_of(setting.train, net)
    images = data.to_pixels(data.center_crop(train.images[:16], net.input_shape[-1]))
    labels = train.labels[:16]
    net.eval()  # keeps the running means unchanged
    total, begin = 0.0, 0
    for epochs in setting.train.epochs:
        progress = recipe.set_progress(begin + epochs / 2)
        begin += epochs
        started = time.perf_counter()
        loss, _ = recipe.objective(images, labels, *progress)
        loss.backward()
        total += epochs * (time.perf_counter() - started) / len(images)
    net.zero_grad()
    net.train()
    return total
