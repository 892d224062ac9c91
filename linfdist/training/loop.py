"""Training, resumable to the bit."""

import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from linfdist.data import ImageSet
from linfdist.nn import synchronized
from linfdist.robust import GatedLoss, HingeLoss, IBPLoss, Loss, MixtureLoss
from linfdist.system import distributed, values
from linfdist.system.terminal import say, shows_bar
from linfdist.training import checkpoint as checkpoints
from linfdist.training.bounds import BoundTrainConfig
from linfdist.training.checks import check_seconds
from linfdist.training.colt import LayerwiseTrainConfig
from linfdist.training.config import AnyTrainConfig, Net, TrainConfig
from linfdist.training.state import Run

__all__ = [
    "AnyTrainConfig",
    "BoundTrainConfig",
    "GatedLoss",
    "HingeLoss",
    "IBPLoss",
    "LayerwiseTrainConfig",
    "Loss",
    "MixtureLoss",
    "OutOfTime",
    "TrainConfig",
    "fit",
]

CHECKPOINT_SECONDS = 60.0  # not after every epoch: at the paper's width it is 1 to 2 GB
REPORT_STEPS = 20  # the bar and the check for a finite loss wait for the device this often


class OutOfTime(RuntimeError):
    """The seconds of a call are over before the run is; its checkpoint holds what was done."""


def fit(
    net: Net,
    train: ImageSet,
    config: AnyTrainConfig,
    *,
    seed: int,
    test: ImageSet | None = None,
    checkpoint: os.PathLike[str] | str | None = None,
    restart: bool = False,
    progress: bool = True,
    device: torch.device | str = "cpu",
    experiment: str = "",
    surroundings: Sequence[dict[str, Any]] = (),
    stop_after_steps: int | None = None,
    seconds: float | None = None,
    sync_mean_shift: bool = True,
) -> list[dict[str, Any]]:
    """Train ``net`` in place and return one row an epoch.

    With ``progress`` a terminal shows a bar, and a log gets a line an epoch, on standard error.

    A row holds epoch, p, lr, eps_train, train_loss, train_accuracy, test_accuracy, test_certified
    and seconds: p, lr and eps_train (None for the losses on margins of Lipschitz logits) are those
    of the epoch's last step, and ``test_accuracy`` and ``test_certified`` (None without ``test``)
    are those of ``evaluation.clean_and_certified`` at that p and the data set's eps. The two are
    called ``validation_accuracy`` and ``validation_certified`` where ``test`` is the second set of
    ``data.split_validation``, and ``train`` should then be the first.
    ``train_accuracy`` and ``train_loss`` are means over the epoch, of augmented images.

    The whole data set lies on ``device`` as uint8. The order of the images and their augmentation
    depend on the seed, the epoch and the batch alone; the last batch of an epoch may be smaller and
    is used. If that batch is a single image, the mean shifts subtract their running means from it.
    At p < ∞ the loss treats a pixel radius eps as eps / std in the features or logits, as the paper
    does, although only at p = ∞ is that a bound.

    With ``checkpoint`` the state is saved there every minute and at the end, and a run that finds
    its own checkpoint goes on from it: on the CPU it ends bit for bit as if it had never stopped,
    with the same number of threads. ``net`` must be initialised as it was the first time. A damaged
    or foreign checkpoint raises ``CheckpointError``, unless ``restart``, which deletes it first.
    ``surroundings``, plain values, say what this call and those before it ran on; they are kept for
    ``checkpoint.surroundings`` and change nothing. ``stop_after_steps`` ends this call after so
    many steps, as a kill would but with a checkpoint. ``seconds`` does so, by raising
    ``OutOfTime``, at the first step that ends later than that after the call, unless it is the
    run's last; on a GPU up to 20 steps are under way then and are finished.

    Steps do not wait for the GPU: only every 20th, which reports and checks that the losses are
    finite, the end of an epoch and a checkpoint do.

    In processes that ``distributed.join`` joined, all of which make the same call, each trains on
    its share of every batch of ``batch_size`` images, and the result is that of one process up to
    the order of summation: gradients are those of the loss of the whole batch, and the mean shifts
    take its means. ``sync_mean_shift=False`` saves their communication: each process shifts by the
    mean of its share, which must be two images or more, and the running means are those of process
    0. Process 0 alone writes the checkpoint, which all read; any number of processes can go on from
    it.

    Before the first step, ``TypeError`` and ``ValueError`` refuse what does not fit the network or
    could not be saved, and ``DeviceError`` a device that cannot be used. Raises
    ``FloatingPointError`` when the loss is not finite.
    """
    called = time.monotonic()
    for name, value in (
        ("restart", restart),
        ("progress", progress),
        ("sync_mean_shift", sync_mean_shift),
    ):
        values.flag(value, f"fit: {name}")
    if stop_after_steps is not None:
        stop_after_steps = values.whole(stop_after_steps, "fit: stop_after_steps", least=1)
    if checkpoint is not None:
        checkpoint = values.file(checkpoint, "fit: checkpoint")
    seconds = check_seconds(seconds, checkpoint)
    run = Run(
        net, train, config, seed, test, device, experiment, surroundings, sync=sync_mean_shift
    )
    if checkpoint is not None:
        if distributed.rank() == 0:
            checkpoints.try_saving(checkpoint)
        run.resume(checkpoint, restart)
    last_saved = time.monotonic()
    progress = progress and distributed.rank() == 0
    with_bar = shows_bar(progress)
    out_of_time = False
    with (
        synchronized(net, sync_mean_shift),
        tqdm(total=run.num_steps, initial=run.step, disable=not with_bar, unit="step") as bar,
    ):
        for step_of_call in range(1, run.num_steps - run.step + 1):
            run.train_step()
            bar.update()
            epoch_ended = run.step % run.steps_per_epoch == 0
            if epoch_ended:
                run.end_epoch()
            if epoch_ended or run.step % REPORT_STEPS == 0:
                bar.set_postfix_str(run.report(), refresh=False)
            if epoch_ended and progress and not with_bar:
                say(run.report())
            ended = run.step == run.num_steps
            if seconds is not None and not ended:
                # All processes stop at the same step.
                out_of_time = any(distributed.exchange(time.monotonic() - called > seconds))
            stopping = out_of_time or step_of_call == stop_after_steps
            late = time.monotonic() - last_saved > CHECKPOINT_SECONDS
            if checkpoint is not None and (ended or stopping or late):
                run.save(checkpoint)
                last_saved = time.monotonic()
            if stopping:
                break
    distributed.exchange(0)  # nobody leaves, or ends all by raising, before process 0 has saved
    net.eval()
    if out_of_time:
        done, epochs = run.step / run.steps_per_epoch, sum(config.epochs)
        raise OutOfTime(
            f"fit: out of time after {seconds:g} seconds: {done:.2f} of {epochs} epochs are done, "
            f"{epochs - done:.2f} are left. The same call goes on from the checkpoint."
        )
    return run.rows
