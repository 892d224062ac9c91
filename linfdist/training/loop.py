"""The training loop, which resumes from a checkpoint bit for bit."""

import os
import time
from typing import Any

import torch
from tqdm import tqdm

from linfdist.data import ImageSet
from linfdist.nn import synchronized
from linfdist.system import distributed, values
from linfdist.system.terminal import say, shows_bar
from linfdist.training import checkpoint as checkpoints
from linfdist.training.checkpoint import CheckpointConfig
from linfdist.training.checks import check_seconds
from linfdist.training.config import AnyTrainConfig, Net
from linfdist.training.state import TrainingState

CHECKPOINT_SECONDS = 60.0  # not after every epoch: at the paper's width a file has 1 to 2 GB
REPORT_STEPS = 20  # steps between two waits for the device: the bar and the check of the loss


class OutOfTime(RuntimeError):
    """A call's time limit passed before the run ended; the checkpoint holds its progress."""


def fit(
    net: Net,
    train: ImageSet,
    config: AnyTrainConfig,
    *,
    seed: int,
    test: ImageSet | None = None,
    checkpoint: CheckpointConfig | os.PathLike[str] | str | None = None,
    progress: bool = True,
    device: torch.device | str = "cpu",
    stop_after_steps: int | None = None,
    seconds: float | None = None,
    sync_mean_shift: bool = True,
) -> list[dict[str, Any]]:
    """Train ``net`` in place and return one row per epoch.

    Args:
        net: the network, initialised. To resume, initialise it as for the first call.
        train: the training images. The whole set lies on ``device`` as uint8.
        config: the training's settings.
        seed: the order of the images and their augmentation depend only on the seed, the epoch and
            the batch.
        test: images to measure accuracy on after each epoch; None for none. If it is the second
            set of ``data.split_validation``, ``train`` should be the first.
        checkpoint: the file for the run's state, saved every minute and at the end; None for none.
            A path stands for ``CheckpointConfig(path)``. A run that finds its own checkpoint
            continues from it. On the CPU, with the same number of threads, the run then ends bit
            for bit as if it had never stopped.
        progress: report on standard error: a bar in a terminal, one line per epoch in a log.
        device: where to train.
        stop_after_steps: end this call after a given number of steps, with a checkpoint.
        seconds: the time limit of this call; needs ``checkpoint``. The call raises ``OutOfTime``
            after the first step that ends later, unless that is the run's last step. On a GPU up to
            20 steps are then under way, and the call finishes them.
        sync_mean_shift: with several processes, shift by the mean of the whole batch. False saves
            the communication: each process shifts by the mean of its share, which must have at
            least two images, and the running means are those of process 0.

    Returns:
        One dictionary per epoch:

        - epoch: counted from 1.
        - p, lr, eps_train: those of the epoch's last step. eps_train is None for the losses on
          margins of Lipschitz logits.
        - train_loss, train_accuracy: means over the epoch's augmented images.
        - test_accuracy, test_certified: by ``evaluation.clean_and_certified`` at that p and the
          data set's eps; None without ``test``. They are called validation_accuracy and
          validation_certified if ``test`` is the second set of ``data.split_validation``.
        - seconds: the epoch's duration.

    The last batch of an epoch may be smaller and is used. If it is a single image, the mean shifts
    subtract their running means from it. At p < ∞ the loss treats a pixel radius eps as eps / std
    in the features or logits, as the paper does, although this is a bound only at p = ∞.

    Most steps do not wait for the GPU. Training waits at every 20th step, to report and to check
    that the losses are finite, at the end of an epoch, and for a checkpoint.

    Processes that ``distributed.join`` joined must all make the same call. Each trains on its share
    of every batch of ``batch_size`` images. The result is that of a single process up to
    floating-point summation order: gradients are those of the whole batch's loss, and the mean
    shifts use the whole batch's means. Only process 0 writes the checkpoint, and all processes read
    it. Any number of processes can continue from it.

    Raises:
        TypeError, ValueError: before the first step, an argument does not fit the network or cannot
            be saved.
        DeviceError: before the first step, the device cannot be used.
        CheckpointError: the checkpoint is damaged or belongs to another run, and its
            ``restart`` is False; or it cannot be written.
        OutOfTime: ``seconds`` passed before the run ended.
        FloatingPointError: a loss, a weight or a moment is not finite.
    """
    called = time.monotonic()
    values.flag(progress, "fit: progress")
    values.flag(sync_mean_shift, "fit: sync_mean_shift")
    if stop_after_steps is not None:
        stop_after_steps = values.whole(stop_after_steps, "fit: stop_after_steps", least=1)
    if not (checkpoint is None or isinstance(checkpoint, CheckpointConfig)):
        checkpoint = CheckpointConfig(values.file(checkpoint, "fit: checkpoint"))
    seconds = check_seconds(seconds, checkpoint)
    run = TrainingState(
        net, train, config, seed, test, device, checkpoint=checkpoint, sync=sync_mean_shift
    )
    if checkpoint is not None:
        if distributed.rank() == 0:
            checkpoints.try_saving(checkpoint.path)
        run.resume()
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
                out_of_time = any(distributed.all_gather_float(time.monotonic() - called > seconds))
            stopping = out_of_time or step_of_call == stop_after_steps
            late = time.monotonic() - last_saved > CHECKPOINT_SECONDS
            if checkpoint is not None and (ended or stopping or late):
                run.save()
                last_saved = time.monotonic()
            if stopping:
                break
    # All processes wait until process 0 has saved: one that raised earlier would end them all.
    distributed.all_gather_float(0)
    net.eval()
    if out_of_time:
        done, epochs = run.step / run.steps_per_epoch, sum(config.epochs)
        raise OutOfTime(
            f"fit: out of time after {seconds:g} seconds: {done:.2f} of {epochs} epochs are done, "
            f"{epochs - done:.2f} are left. Repeat the call to continue from the checkpoint."
        )
    return run.rows
