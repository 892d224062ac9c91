"""Training, resumable to the bit."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from linfdist import checkpoint as checkpoints
from linfdist.config import to_dict
from linfdist.data import ImageSet, augment, to_pixels
from linfdist.evaluation import accuracy
from linfdist.optim import LpAdamW, eps_at, lr_at, p_at, param_groups, set_p
from linfdist.robust import HingeLoss, IBPLoss, hinge_loss, ibp_loss
from linfdist.train_config import Net, TrainConfig, check_fit

__all__ = ["HingeLoss", "IBPLoss", "TrainConfig", "fit"]

CHECKPOINT_SECONDS = 60.0
REPORT_STEPS = 20  # the bar and the check for a finite loss wait for the device this often


def fit(
    net: Net,
    train: ImageSet,
    config: TrainConfig,
    *,
    seed: int,
    test: ImageSet | None = None,
    checkpoint: Path | None = None,
    restart: bool = False,
    progress: bool = True,
    device: torch.device | str = "cpu",
    experiment: str = "",
    surroundings: Sequence[dict[str, Any]] = (),
    stop_after_steps: int | None = None,
) -> list[dict[str, Any]]:
    """Train ``net`` in place and return one row an epoch.

    With ``progress`` a terminal shows a bar, and a log gets a line an epoch, on standard error.

    A row holds epoch, p, lr, eps_train, train_loss, train_accuracy, test_accuracy and seconds: p,
    lr and eps_train (None for the hinge loss) are those of the epoch's last step, and
    ``test_accuracy`` (None without ``test``) is taken at that p with the running means.
    ``train_accuracy`` and ``train_loss`` are means over the epoch, of augmented images.

    The whole data set lies on ``device`` as uint8. The order of the images and their augmentation
    depend on the seed, the epoch and the batch alone; the last batch of an epoch may be smaller and
    is used. At p < ∞ the loss treats a pixel radius eps as eps / std in the features or logits, as
    the paper does, although only at p = ∞ is that a bound.

    With ``checkpoint`` the state is saved there every minute and after each epoch, and a run that
    finds its own checkpoint goes on from it: on the CPU it ends bit for bit as if it had never
    stopped, with the same number of threads. ``net`` must be initialised as it was the first time.
    A damaged or foreign checkpoint raises ``CheckpointError``, unless ``restart``, which deletes
    it first. ``surroundings``, plain values, say what this call and those before it ran on; they
    are kept for ``checkpoint.surroundings`` and change nothing. ``stop_after_steps`` ends this call
    after so many steps, as a kill would but with a checkpoint.

    Raises ``ValueError`` for labels or images that do not fit the network, and
    ``FloatingPointError`` when the loss is not finite.
    """
    run = _Run(net, train, config, seed, test, device, experiment, surroundings)
    if checkpoint is not None and restart:
        checkpoint.unlink(missing_ok=True)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    last_saved = time.monotonic()
    with_bar = progress and sys.stderr.isatty()
    with tqdm(total=run.num_steps, initial=run.step, disable=not with_bar, unit="step") as bar:
        for step_of_call in range(1, run.num_steps - run.step + 1):
            run.train_step()
            bar.update()
            epoch_ended = run.step % run.steps_per_epoch == 0
            if epoch_ended:
                run.end_epoch()
            if epoch_ended or run.step % REPORT_STEPS == 0:
                bar.set_postfix_str(run.report(), refresh=False)
            if epoch_ended and progress and not with_bar:
                print(run.report(), file=sys.stderr, flush=True)
            stopping = step_of_call == stop_after_steps
            late = time.monotonic() - last_saved > CHECKPOINT_SECONDS
            if checkpoint is not None and (epoch_ended or stopping or late):
                run.save(checkpoint)
                last_saved = time.monotonic()
            if stopping:
                break
    net.eval()
    return run.rows


class _Run:
    """A run's whole state: what a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        net: Net,
        train: ImageSet,
        config: TrainConfig,
        seed: int,
        test: ImageSet | None,
        device: torch.device | str,
        experiment: str,
        surroundings: Sequence[dict[str, Any]] = (),
    ) -> None:
        check_fit(net, train, test, config)
        self.net = net.to(device)
        self.config = config
        self.seed = seed
        self.train = train.take(config.train_images).to(device)
        self.test = None if test is None else test.to(device)
        self.device = torch.device(device)
        self.surroundings = list(surroundings)
        self.generator = torch.Generator()
        self.optimizer = LpAdamW(
            param_groups(net, config.decay),
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.steps_per_epoch = math.ceil(len(self.train) / config.batch_size)
        self.num_steps = sum(config.epochs) * self.steps_per_epoch
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.order: tuple[int, Tensor] | None = None
        self.unchecked: list[tuple[int, float, float, Tensor]] = []
        self.p = self.lr = self.eps = math.nan
        self.start_epoch(seconds=0.0)
        self.fingerprint = {
            "experiment": experiment,
            "seed": seed,
            "train": to_dict(config),
            "net": to_dict(net.config),
            "input_shape": list(net.input_shape),
            "mean": net.features.normalize.mean.flatten().tolist(),
            "std": net.features.normalize.std,
            "num_classes": net.num_classes,
            "data": {"name": train.info.name, "images": len(self.train)},
        }

    def start_epoch(self, seconds: float) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.started = time.monotonic() - seconds

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Pixels and labels of one batch, a function of seed, epoch and index alone."""
        if self.order is None or self.order[0] != epoch:
            self.generator.manual_seed(_derive(self.seed, epoch))
            order = torch.randperm(len(self.train), generator=self.generator)
            self.order = (epoch, order.to(self.device))
        size = self.config.batch_size
        chosen = self.order[1][index * size : (index + 1) * size]
        self.generator.manual_seed(_derive(self.seed, epoch, index))
        images = augment(self.train.images[chosen], self.config.augmentation, self.generator)
        return to_pixels(images), self.train.labels[chosen]

    def train_step(self) -> None:
        config = self.config
        epoch, index = divmod(self.step, self.steps_per_epoch)
        done = self.step / self.steps_per_epoch
        self.p = p_at(done, config.epochs, config.p_start, config.p_end)
        self.lr = lr_at(done, config.epochs, config.lr)
        self.net.train()
        pixels, labels = self.batch(epoch, index)
        loss, logits = self.loss(pixels, labels, done)
        self.optimizer.zero_grad()
        loss.backward()
        set_p(self.optimizer, self.p)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        loss = loss.detach()
        self.loss_sum += loss * len(labels)
        self.correct += (logits.detach().argmax(1) == labels).sum()
        self.unchecked.append((self.step, self.p, self.lr, loss))
        self.step += 1

    def loss(self, pixels: Tensor, labels: Tensor, done: float) -> tuple[Tensor, Tensor]:
        """The loss and the logits."""
        loss = self.config.loss
        if isinstance(loss, HingeLoss):
            logits = self.net(pixels, self.p)
            threshold = float(loss.threshold) * self.net.lipschitz
            return hinge_loss(logits, labels, threshold, loss.mix), logits
        features = self.net.features(pixels, self.p)
        self.eps = eps_at(done, self.config.epochs, float(loss.eps_train))
        reach = self.eps * self.net.feature_lipschitz
        logits, margins = self.net.logits_and_ball_margins(features, reach, labels)
        return ibp_loss(logits, margins, labels, loss.kappa), logits

    def check_losses(self) -> None:
        """Refuse to go on, report or save after a loss that is not finite."""
        if not self.unchecked:
            return
        finite = torch.stack([loss for *_, loss in self.unchecked]).isfinite().tolist()
        if not all(finite):
            step, p, lr, loss = self.unchecked[finite.index(False)]
            raise FloatingPointError(
                f"fit: the loss must be finite; got {loss.item()} at step {step} (epoch "
                f"{step // self.steps_per_epoch + 1}, p={p:g}, lr={lr:g}). Lower the learning rate "
                "or p_end; the last checkpoint is from before."
            )
        self.unchecked.clear()

    def end_epoch(self) -> None:
        self.check_losses()
        images = len(self.train)
        self.rows.append(
            {
                "epoch": self.step // self.steps_per_epoch,
                "p": self.p,
                "lr": self.lr,
                "eps_train": None if math.isnan(self.eps) else self.eps,
                "train_loss": self.loss_sum.item() / images,
                "train_accuracy": self.correct.item() / images,
                "test_accuracy": None
                if self.test is None
                else accuracy(self.net, self.test, p=self.p, batch_size=self.config.batch_size),
                "seconds": time.monotonic() - self.started,
            }
        )
        self.start_epoch(seconds=0.0)

    def report(self) -> str:
        self.check_losses()
        index = self.step % self.steps_per_epoch
        if index == 0:
            row = self.rows[-1]
            epoch, loss, right = row["epoch"], row["train_loss"], row["train_accuracy"]
        else:
            seen = index * self.config.batch_size
            epoch = self.step // self.steps_per_epoch + 1
            loss, right = self.loss_sum.item() / seen, self.correct.item() / seen
        epochs = sum(self.config.epochs)
        return f"epoch {epoch}/{epochs}, loss {loss:.4f}, p {self.p:.4g}, accuracy {right:.4f}"

    def save(self, path: Path) -> None:
        self.check_losses()
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": time.monotonic() - self.started,
            "surroundings": self.surroundings,
        }
        checkpoints.save(path, self.fingerprint, state)

    def load(self, path: Path) -> None:
        state = checkpoints.load(path, self.fingerprint, self.device)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.rows = state["rows"]
        self.start_epoch(state["seconds"])
        self.loss_sum += state["loss_sum"]
        self.correct += state["correct"]


def _derive(*keys: int) -> int:
    """A seed for a generator, well mixed from the keys."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)
