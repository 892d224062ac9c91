"""A training run: its state, which a checkpoint holds, and the steps that change it."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from linfdist import checkpoint as checkpoints
from linfdist import distributed
from linfdist.batches import Batches
from linfdist.checkpoint import CheckpointError
from linfdist.config import to_dict
from linfdist.data import ImageSet
from linfdist.evaluation import clean_and_certified
from linfdist.nn import LogSumExp, mean_distances, set_mean_distances
from linfdist.ops.precision import matmul_precision
from linfdist.optim import LpAdamW, eps_at, lr_at, p_at, param_groups, relaxation_at, set_p
from linfdist.robust import HingeLoss, IBPLoss, hinge_loss, ibp_loss
from linfdist.train_config import Net, TrainConfig, check_fit


class _Objective(nn.Module):
    """Network and loss in one, so that DistributedDataParallel sums gradients as they appear."""

    def __init__(self, net: Net, loss: HingeLoss | IBPLoss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(
        self, pixels: Tensor, labels: Tensor, p: float | LogSumExp, radius: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; no images have the loss 0, on which all weights depend.

        ``radius``, in pixels: the hinge's threshold, or the eps of the interval bounds.
        """
        if isinstance(self.loss, HingeLoss):
            logits = self.net(pixels, p)
            loss = hinge_loss(logits, labels, radius * self.net.lipschitz, self.loss.mix)
        else:
            features = self.net.features(pixels, p)
            reach = radius * self.net.feature_lipschitz
            logits, margins = self.net.logits_and_ball_margins(features, reach, labels)
            loss = ibp_loss(logits, margins, labels, self.loss.kappa)
        return loss if len(labels) else logits.sum(), logits


class Run:
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
        train = train.take(config.train_images).to(device)
        self.batches = Batches(train, config.augmentation, config.batch_size, seed)
        self.test = None if test is None else test.to(device)
        self.device = torch.device(device)
        self.surroundings = list(surroundings)
        self.objective = _Objective(net, config.loss)
        if distributed.size() > 1:
            self.objective = DistributedDataParallel(self.objective)
        self.optimizer = LpAdamW(
            param_groups(net, config.decay),
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.images = len(train)
        self.steps_per_epoch = len(self.batches)
        self.num_steps = sum(config.epochs) * self.steps_per_epoch
        self.step = 0
        self.rows: list[dict[str, Any]] = []
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
            "data": {"name": train.info.name, "images": len(train)},
        }

    def start_epoch(self, seconds: float) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.started = time.monotonic() - seconds

    def train_step(self) -> None:
        config = self.config
        epoch, index = divmod(self.step, self.steps_per_epoch)
        done = self.step / self.steps_per_epoch
        self.p = p_at(done, config.epochs, config.p_start, config.p_end, config.p_rise)
        smoothing = config.smooth(self.p)
        self.lr = lr_at(done, config.epochs, config.lr)
        relaxed = config.relaxation if isinstance(smoothing, LogSumExp) else 1.0
        relaxation = relaxation_at(done, config.epochs, relaxed)
        if isinstance(config.loss, IBPLoss):
            radius = eps_at(done, config.epochs, float(config.loss.eps_train)) / relaxation
            self.eps = radius
        else:
            radius = float(config.loss.threshold) / relaxation
        self.net.train()
        pixels, labels = self.batches.get(epoch, index)
        with matmul_precision(config.matmul_precision):
            loss, logits = self.objective(pixels, labels, smoothing, radius)
            self.optimizer.zero_grad()
            # DistributedDataParallel takes the mean over processes; the batch's loss is a sum.
            share = distributed.size() * len(labels) / self.batches.size(index)
            (loss * share).backward()
        set_p(self.optimizer, self.p)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        loss_sum = loss.detach() * len(labels)
        correct = (logits.detach().argmax(1) == labels).sum()
        sums = distributed.total(torch.stack((loss_sum.double(), correct.double())))
        self.loss_sum += sums[0]
        self.correct += sums[1].long()
        self.unchecked.append((self.step, self.p, self.lr, sums[0]))
        self.step += 1

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
        clean = certified = None
        if self.test is not None:
            clean, certified = clean_and_certified(
                self.net,
                self.test,
                eps=self.test.info.eps,
                p=self.config.smooth(self.p),
                batch_size=self.config.batch_size,
                together=True,
            )
        self.rows.append(
            {
                "epoch": self.step // self.steps_per_epoch,
                "p": self.p,
                "lr": self.lr,
                "eps_train": None if math.isnan(self.eps) else self.eps,
                "train_loss": self.loss_sum.item() / self.images,
                "train_accuracy": self.correct.item() / self.images,
                "test_accuracy": clean,
                "test_certified": certified,
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
        if distributed.rank() > 0:
            return
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "mean_distances": mean_distances(self.net),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": time.monotonic() - self.started,
            "surroundings": self.surroundings,
        }
        checkpoints.save(path, self.fingerprint, state)

    def resume(self, path: Path, restart: bool) -> None:
        """Go on from the checkpoint at ``path``, if there is one; ``restart`` deletes it first."""
        if restart:
            path.unlink(missing_ok=True)
        if path.exists():
            self.load(path)
        steps = [
            int(step) for step in distributed.exchange(self.step)
        ]  # nobody saves before all have read
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"fit: all processes must find the same checkpoint at {path}; they are at steps "
                f"{steps}. Let it lie in a folder that all of them see."
            )

    def load(self, path: Path) -> None:
        state = checkpoints.load(path, self.fingerprint, self.device)
        self.net.load_state_dict(state["net"])
        if "mean_distances" in state:  # older checkpoints are of l_p training, which has none
            set_mean_distances(self.net, state["mean_distances"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.rows = state["rows"]
        self.start_epoch(state["seconds"])
        self.loss_sum += state["loss_sum"]
        self.correct += state["correct"]
