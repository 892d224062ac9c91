"""The state of a training run, which checkpoints store, and the steps that change it."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from linfdist.data import ImageSet
from linfdist.data.batches import Batches
from linfdist.evaluation import clean_and_certified
from linfdist.nn import Normalize, by_running_means, mean_distances, set_mean_distances
from linfdist.ops.precision import matmul_precision
from linfdist.system import distributed, values
from linfdist.system.devices import usable_device
from linfdist.system.serialise import to_dict
from linfdist.training import checkpoint as checkpoints
from linfdist.training.checkpoint import CheckpointConfig, CheckpointError
from linfdist.training.checks import check_fit, check_share
from linfdist.training.config import AnyTrainConfig, Net
from linfdist.training.recipe import recipe_of
from linfdist.training.resume import check_state, objective_state


class TrainingState:
    """A run's whole state, which checkpoints store, and the steps that change it."""

    def __init__(
        self,
        net: Net,
        train: ImageSet,
        config: AnyTrainConfig,
        seed: int,
        test: ImageSet | None,
        device: torch.device | str,
        *,
        checkpoint: CheckpointConfig | None = None,
        sync: bool = True,
    ) -> None:
        """Check the arguments of ``fit`` and prepare the first step.

        Args:
            net: the network, moved to ``device``.
            train: the training images.
            config: the training's settings.
            seed: of the order of the images and of their augmentation.
            test: images to measure accuracy on after each epoch; None for none.
            device: where to train.
            checkpoint: the file for the state; None for none.
            sync: with several processes, shift by the mean of the whole batch.

        Raises:
            TypeError, ValueError: arguments do not fit together, or cannot be saved.
            DeviceError: the device cannot be used.
        """
        check_fit(net, train, test, config)
        if not sync:
            check_share(config)
        seed = values.seed(seed, "fit")
        device = usable_device(device)
        self.checkpoint = checkpoint
        self.sync = sync
        self.net = net.to(device)
        self.config = config
        train = train.take(config.train_images).to(device)
        self.batches = Batches(train, config.augmentation, config.batch_size, seed)
        self.test = None if test is None else test.to(device)
        self.device = device
        self.watched = "validation" if test is not None and test.validation else "test"
        self.recipe = recipe_of(config, net)
        self.objective: nn.Module = self.recipe.objective
        if distributed.size() > 1:
            self.objective = DistributedDataParallel(self.objective)
        self.optimizer = self.recipe.optimizer
        self.images = len(train)
        self.steps_per_epoch = len(self.batches)
        self.num_steps = sum(config.epochs) * self.steps_per_epoch
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.unchecked: list[tuple[int, float, float, Tensor]] = []
        self.start_epoch(seconds=0.0)
        normalize = next(layer for layer in net.modules() if isinstance(layer, Normalize))
        fingerprint = {
            "experiment": "" if checkpoint is None else checkpoint.experiment,
            "seed": seed,
            "train": to_dict(config),
            "net": to_dict(net.config),
            "input_shape": list(net.input_shape),
            "mean": normalize.mean.flatten().tolist(),
            "std": normalize.std,
            "num_classes": net.num_classes,
            "data": {"name": train.info.name, "images": len(train)},
        }
        if self.watched == "validation":
            fingerprint["watched"] = self.watched
        self.fingerprint = values.plain(fingerprint, "fit: the configuration")

    def start_epoch(self, seconds: float) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.started = time.monotonic() - seconds

    def train_step(self) -> None:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        progress = self.recipe.set_progress(self.step / self.steps_per_epoch)
        self.net.train()
        pixels, labels = self.batches.get(epoch, index)
        shifted_together = self.batches.size(index) if self.sync else len(labels)
        shifts = by_running_means(self.net) if shifted_together == 1 else nullcontext()
        with matmul_precision(self.config.matmul_precision), shifts:
            loss, logits = self.objective(pixels, labels, *progress)
            self.optimizer.zero_grad()
            # DistributedDataParallel averages over processes, but the batch's loss is their sum.
            share = distributed.size() * len(labels) / self.batches.size(index)
            (loss * share).backward()
        self.optimizer.step()
        loss_sum = loss.detach() * len(labels)
        correct = (logits.detach().argmax(1) == labels).sum()
        sums = distributed.total(torch.stack((loss_sum.double(), correct.double())))
        self.loss_sum += sums[0]
        self.correct += sums[1].long()
        self.unchecked.append((self.step, self.recipe.p, self.recipe.lr, sums[0]))
        self.step += 1

    def check_finite(self) -> None:
        """Raise FloatingPointError if a loss or an update since the last check is not finite."""
        if not self.unchecked:
            return
        finite = torch.stack([loss for *_, loss in self.unchecked]).isfinite().tolist()
        if not all(finite):
            step, p, lr, loss = self.unchecked[finite.index(False)]
            raise FloatingPointError(
                f"fit: the loss must be finite; got {loss.item()} at step {step} (epoch "
                f"{step // self.steps_per_epoch + 1}, p={p:g}, lr={lr:g}). Lower the learning rate "
                "or p_end; the last checkpoint is older."
            )
        # A finite loss can have a gradient that is not finite; its update must not be saved.
        changed = dict(self._values())
        finite = torch.stack([value.isfinite().all() for value in changed.values()]).tolist()
        if not all(finite):
            step, p, lr, _ = self.unchecked[-1]
            raise FloatingPointError(
                f"fit: weights and moments must be finite; {[*changed][finite.index(False)]} is "
                f"not after step {step} (epoch {step // self.steps_per_epoch + 1}, p={p:g}, "
                f"lr={lr:g}). Lower the learning rate or p_end; the last checkpoint is older."
            )
        self.unchecked.clear()

    def _own_state(self) -> dict[str, Tensor]:
        """The objective's state, except the network's."""
        state = self.recipe.objective.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("net.")}

    def _values(self) -> Iterator[tuple[str, Tensor]]:
        """All values that an update changes, each with its name."""
        objective = self.recipe.objective
        for name, value in chain(objective.named_parameters(), objective.named_buffers()):
            if value.is_floating_point():
                yield name.removeprefix("net."), value
        for name, parameter in objective.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.device == parameter.device:
                    yield f"{key} of {name.removeprefix('net.')}", value

    def end_epoch(self) -> None:
        self.check_finite()
        clean = certified = None
        if self.test is not None:
            clean, certified = clean_and_certified(
                self.net,
                self.test,
                eps=self.test.info.eps,
                p=self.recipe.eval_p,
                batch_size=self.config.batch_size,
                together=True,
            )
        self.rows.append(
            {
                "epoch": self.step // self.steps_per_epoch,
                "p": self.recipe.p,
                "lr": self.recipe.lr,
                "eps_train": self.recipe.eps_train,
                "train_loss": self.loss_sum.item() / self.images,
                "train_accuracy": self.correct.item() / self.images,
                f"{self.watched}_accuracy": clean,
                f"{self.watched}_certified": certified,
                "seconds": time.monotonic() - self.started,
            }
        )
        self.start_epoch(seconds=0.0)

    def report(self) -> str:
        self.check_finite()
        index = self.step % self.steps_per_epoch
        if index == 0:
            row = self.rows[-1]
            epoch, loss, right = row["epoch"], row["train_loss"], row["train_accuracy"]
        else:
            seen = index * self.config.batch_size
            epoch = self.step // self.steps_per_epoch + 1
            loss, right = self.loss_sum.item() / seen, self.correct.item() / seen
        epochs = sum(self.config.epochs)
        return (
            f"epoch {epoch}/{epochs}, loss {loss:.4f}, p {self.recipe.p:.4g}, accuracy {right:.4f}"
        )

    @property
    def _file(self) -> CheckpointConfig:
        """The checkpoint of a run that has one: only such a run is saved and resumed."""
        assert self.checkpoint is not None
        return self.checkpoint

    def save(self) -> None:
        """Write the checkpoint, unless a value is not finite; only process 0 writes."""
        self.check_finite()
        if distributed.rank() > 0:
            return
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "objective": self._own_state(),
            "mean_distances": mean_distances(self.net),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": time.monotonic() - self.started,
            "environments": list(self._file.environments),
        }
        checkpoints.save(self._file.path, self.fingerprint, state)

    def resume(self) -> None:
        """Continue from the checkpoint if the file exists; its ``restart`` deletes it first."""
        path = Path(self._file.path)
        if self._file.restart:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CheckpointError(
                    f"checkpoint: {path} must be a file that can be deleted; deleting it failed "
                    f"({error}). Give another path."
                ) from error
        if path.exists():
            self.load()
        steps = [
            int(step) for step in distributed.all_gather_float(self.step)
        ]  # no process saves before all have read
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"fit: all processes must find the same checkpoint at {path}; they are at steps "
                f"{steps}. Put it on a file system that all processes share."
            )

    def load(self) -> None:
        """Take over the checkpoint's state, after checking that all of it belongs to this run."""
        path = self._file.path
        state = checkpoints.load(path, self.fingerprint, self.device)
        try:
            check_state(state, self)
        except (TypeError, ValueError) as error:
            raise checkpoints.damaged(path, error) from error
        self.recipe.objective.load_state_dict(objective_state(state))
        set_mean_distances(self.net, state["mean_distances"])
        # The groups keep the configuration's settings, whatever the file says.
        groups = self.optimizer.state_dict()["param_groups"]
        moments = state["optimizer"]["state"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = state["step"]
        self.rows = state["rows"]
        self.start_epoch(state["seconds"])
        self.loss_sum += state["loss_sum"]
        self.correct += state["correct"]
