"""Add sound certificates to runs recorded before these certificates existed."""

import sys
import time
from collections.abc import Callable, Iterable

import pandas as pd
import torch
from tqdm import tqdm

from linfdist import records
from linfdist.evaluation import sound_columns
from linfdist.experiments.runner import load_trained, setting_of, untrained
from linfdist.records import environment as records_environment
from linfdist.robust import SOUND
from linfdist.system import devices
from linfdist.system.terminal import shows_bar, write_above
from linfdist.system.values import whole


def recertify(
    run: records.Run,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    advance: Callable[[int], object] = lambda images: None,
) -> records.Run | None:
    """Add ``sound_radius`` and ``certified_sound`` to a recorded run's certificates.

    The weights come from the work folder and are checked by their SHA-256. environment.json
    describes under ``recertified`` the machine that computed the columns.

    A run that has radii below eps of images certified at eps needs another correction: these radii
    are raised to eps, without weights, and nothing else is done. environment.json notes this under
    ``radii_raised``.

    Args:
        run: the recorded run.
        device: where to compute.
        batch_size: images certified at a time.
        advance: called after each batch with its number of images.

    Returns:
        The amended run. None if there is nothing to add or raise, or if the network has no sound
        certificate; the record is then unchanged.

    Raises:
        RecordError: the weights are missing or are not those of the record, the data set is not
            that of the record, or the record cannot be written.
        ContradictionError: a sound verdict contradicts the recorded one.
    """
    batch_size = whole(batch_size, "recertify: batch_size", least=1)
    low = records.low_radii(run)
    if low.any():
        note = records_environment.describe(device) | {"images": int(low.sum())}
        return records.raise_low_radii(run, radii_raised=note)
    if "certified_sound" in run.certificates or not isinstance(untrained(run), SOUND):
        return None
    records.try_amending(run.path)
    device = devices.usable_device(device)
    net = load_trained(run).to(device)
    assert isinstance(net, SOUND)  # as untrained(run) is
    started = time.perf_counter()
    setting = setting_of(run)
    test = setting.test_set().to(device)
    before = run.certificates
    if test.labels.tolist() != before["label"].tolist():
        raise records.RecordError(
            f"{run.path}: the labels must be those of the "
            f"{'validation' if setting.validation else 'test'} set of {setting.dataset}; they "
            "differ. The record or the data set is damaged: restore it."
        )
    radii = torch.tensor(before["interval_radius"].tolist(), dtype=torch.float64, device=device)
    certified = torch.tensor(before["certified_interval"].tolist(), device=device).bool()
    parts = []
    for start in range(0, len(test), batch_size):
        rows = slice(start, start + batch_size)
        certificates = sound_columns(
            net, test.images[rows], test.labels[rows], setting.eps, radii[rows], certified[rows]
        )
        parts.append(
            pd.DataFrame({name: value.cpu().numpy() for name, value in certificates.items()})
        )
        advance(len(certificates["certified_sound"]))
    seconds = round(time.perf_counter() - started, 1)
    environment = records_environment.describe(device) | {"seconds": seconds}
    columns = pd.concat(parts, ignore_index=True)
    return records.amend_run(run, columns, recertified=environment)


def recertify_all(
    runs: Iterable[records.Run], *, device: torch.device | str = "cpu", progress: bool = True
) -> list[str]:
    """Recertify every run, report the result of each, and return the names of failed runs."""
    runs, failed = list(runs), []
    quiet = not shows_bar(progress)
    total = sum(len(run.certificates) for run in runs)
    with tqdm(total=total, disable=quiet, unit="image") as bar:
        for run in runs:
            name = f"{run.experiment}, {run.scale}, seed {run.seed}"
            end = bar.n + len(run.certificates)
            try:
                done = recertify(run, device=device, advance=bar.update)
            except records.RecordError as error:
                failed.append(name)
                write_above(bar, f"{name}: {error}", sys.stderr)
            else:
                write_above(bar, f"{name}: {_said(run, done)}", sys.stdout)
            bar.update(end - bar.n)
    return failed


def _said(run: records.Run, done: records.Run | None) -> str:
    table = (done or run).certificates
    if done is not None and "certified_sound" in run.certificates:
        return f"{done.environment['radii_raised']['images']} radii raised to eps"
    if done is None and "certified_sound" in table and table["certified_sound"].notna().all():
        return "already has sound certificates"
    if done is None:
        return "its network has no sound certificate; see linfdist.robust.SOUND"
    lost = int((table["certified_interval"] - table["certified_sound"]).sum())
    return f"{int(table['certified_sound'].sum())} of {len(table)} certified, {lost} fewer"
