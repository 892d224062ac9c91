"""Every fault that the tests inject: where, how often, and what must come of it."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Outcome = Literal["named error", "exact resume", "named error, then exact resume", "same result"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault: ``times`` it is injected, at least, by tests named as "file::function".

    "exact resume": the next call ends with the same bits as if nothing had happened.
    "same result": nothing was lost, and no call is needed.
    """

    name: str
    stage: Literal[
        "checkpoint", "record", "table", "training", "data", "any file", "weights", "argument"
    ]
    outcome: Outcome
    error: str = ""
    times: int = 1
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        name="killed while saving a checkpoint",
        stage="checkpoint",
        outcome="exact resume",
        times=12,
        tests=(
            "faults/test_kills.py::test_killed_at_every_step_of_saving_a_checkpoint",
            "faults/test_kills.py::test_killed_inside_a_write_of_a_checkpoint",
            "test_resume.py::test_a_process_that_is_really_killed_is_resumed_bit_equal",
        ),
    ),
    Fault(
        name="disk full in a checkpoint",
        stage="checkpoint",
        outcome="named error, then exact resume",
        error="CheckpointError",
        times=6,
        tests=(
            "faults/test_kills.py::test_a_full_disk_keeps_the_last_checkpoint",
            "faults/test_kills.py::test_a_disk_that_is_full_at_an_fsync_keeps_a_checkpoint",
        ),
    ),
    Fault(
        name="two processes at one checkpoint",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=2,
        tests=(
            "faults/test_inputs.py::test_two_processes_do_not_write_one_checkpoint",
            "faults/test_inputs.py::test_the_checkpoint_of_another_process_is_not_emptied",
        ),
    ),
    Fault(
        name="a checkpoint of another experiment",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=5,
        tests=("test_resume.py::test_a_checkpoint_of_another_run_is_refused_and_kept",),
    ),
    Fault(
        name="a checkpoint cut short, or with a bit flipped",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=300,
        tests=("test_fuzz.py::test_a_damaged_checkpoint_is_never_loaded",),
    ),
    Fault(
        name="a damaged checkpoint of before checksums",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError, where it shows: it may not",
        times=100,
        tests=("test_fuzz.py::test_a_damaged_checkpoint_of_before_raises_nothing_else",),
    ),
    Fault(
        name="killed while recording a run",
        stage="record",
        outcome="exact resume",
        times=25,
        tests=("faults/test_kills.py::test_killed_at_every_step_of_recording",),
    ),
    Fault(
        name="disk full at an fsync of a record",
        stage="record",
        outcome="named error, then exact resume",
        error="RecordError",
        times=14,
        tests=("faults/test_kills.py::test_a_disk_that_is_full_at_any_fsync_of_recording",),
    ),
    Fault(
        name="disk full in a write of a record",
        stage="record",
        outcome="named error, then exact resume",
        error="RecordError",
        times=3,
        tests=("faults/test_kills.py::test_a_disk_too_full_for_a_record",),
    ),
    Fault(
        name="killed while amending a record",
        stage="record",
        outcome="exact resume",
        times=15,
        tests=("faults/test_kills.py::test_killed_at_every_step_of_amending_a_record",),
    ),
    Fault(
        name="power cut after recording",
        stage="record",
        outcome="exact resume",
        tests=(
            "faults/test_kills.py::test_what_a_record_needs_is_on_disk_before_the_checkpoint_goes",
        ),
    ),
    Fault(
        name="two processes at one run",
        stage="record",
        outcome="named error",
        error="RunInProgress or RunExists",
        times=3,
        tests=(
            "test_runner.py::test_a_second_process_at_the_same_run_is_refused",
            "faults/test_inputs.py::test_of_two_processes_one_records_the_run",
            "faults/test_inputs.py::test_a_run_that_another_process_recorded_meanwhile_stays",
        ),
    ),
    Fault(
        name="a record cut short, or with a bit flipped",
        stage="record",
        outcome="named error",
        error="RecordError",
        times=300,
        tests=("test_fuzz.py::test_a_damaged_record_is_never_read",),
    ),
    Fault(
        name="a damaged record of before checksums",
        stage="record",
        outcome="named error",
        error="RecordError, where it shows: it may not",
        times=300,
        tests=("test_fuzz.py::test_a_damaged_record_of_before_raises_nothing_else",),
    ),
    Fault(
        name="a bench or a hunt cut short, or with a bit flipped",
        stage="record",
        outcome="named error",
        error="RecordError, unless it still says the same",
        times=300,
        tests=("test_fuzz.py::test_a_damaged_file_that_stands_alone_is_named_or_says_the_same",),
    ),
    Fault(
        name="killed while printing a table",
        stage="table",
        outcome="same result",
        times=5,
        tests=("faults/test_kills.py::test_killed_at_every_step_of_printing_a_table",),
    ),
    Fault(
        name="NaN in the loss",
        stage="training",
        outcome="named error",
        error="FloatingPointError",
        tests=("test_training.py::test_a_loss_that_is_not_finite_names_step_p_and_lr",),
    ),
    Fault(
        name="NaN or infinity in weights or moments, the loss finite",
        stage="training",
        outcome="named error, then exact resume",
        error="FloatingPointError",
        times=8,
        tests=("faults/test_inputs.py::test_an_update_that_is_not_finite_is_never_saved",),
    ),
    Fault(
        name="NaN in weights that are evaluated",
        stage="weights",
        outcome="named error",
        error="ValueError or RecordError",
        times=2,
        tests=(
            "test_evaluation.py::test_bad_input_is_refused_by_name",
            "faults/test_inputs.py::test_weights_with_nan_are_not_loaded",
        ),
    ),
    Fault(
        name="weights of another run",
        stage="weights",
        outcome="named error",
        error="RecordError",
        tests=("test_runner.py::test_weights_of_another_run_are_refused",),
    ),
    Fault(
        name="code in a file that is loaded",
        stage="any file",
        outcome="named error",
        error="CheckpointError, RecordError or DataError; the code is not run",
        times=6,
        tests=(
            "faults/test_inputs.py::test_no_file_executes_code",
            "faults/test_inputs.py::test_every_load_in_the_package_refuses_code",
        ),
    ),
    Fault(
        name="a data file cut short, changed or missing",
        stage="data",
        outcome="named error",
        error="DataError",
        times=8,
        tests=(
            "test_data.py::test_a_truncated_file_is_named",
            "test_data.py::test_a_changed_file_is_named",
            "test_data.py::test_a_missing_file_of_a_data_set_is_named",
            "test_data.py::test_a_missing_cifar10_binary_is_named",
            "test_data.py::test_a_damaged_pickled_cifar10_is_named",
        ),
    ),
    Fault(
        name="other files of MNIST beside the originals",
        stage="data",
        outcome="same result",
        tests=("faults/test_inputs.py::test_only_the_originals_are_read",),
    ),
    Fault(
        name="labels out of range",
        stage="data",
        outcome="named error",
        error="DataError",
        tests=("test_data.py::test_a_label_out_of_range_is_named",),
    ),
    Fault(
        name="a corrupt image",
        stage="data",
        outcome="named error",
        error="DataError, unless it is still a JPEG file of 64x64 pixels",
        times=3,
        tests=("test_data.py::test_damaged_tinyimagenet_is_named",),
    ),
    Fault(
        name="a damaged cache of decoded images",
        stage="data",
        outcome="same result",
        times=100,
        tests=(
            "test_data.py::test_tinyimagenet_is_decoded_once_and_again_after_a_change",
            "test_fuzz.py::test_a_damaged_cache_is_never_used",
        ),
    ),
    Fault(
        name="rubbish in the place of a data file",
        stage="data",
        outcome="named error",
        error="DataError",
        times=800,
        tests=(
            "test_fuzz.py::test_idx_files",
            "test_fuzz.py::test_cifar10_records",
            "test_fuzz.py::test_tinyimagenet_lists",
            "test_fuzz.py::test_jpeg_files",
        ),
    ),
    Fault(
        name="an argument of a certificate, an attack, a loss or an evaluation that is none",
        stage="argument",
        outcome="named error",
        error="TypeError or ValueError, which names the function",
        times=2000,
        tests=(
            "robust/test_arguments.py::"
            "test_what_an_argument_must_not_be_is_refused_by_the_callers_name",
            "robust/test_arguments.py::test_every_public_function_is_in_the_tables",
            "robust/test_arguments.py::test_the_lipschitz_constant_of_a_network_of_ones_own_must_be_one",
        ),
    ),
    Fault(
        name="the same argument of another kind: integers, layouts, numpy, a radius of each image",
        stage="argument",
        outcome="same result",
        times=500,
        tests=(
            "robust/test_arguments.py::test_the_same_value_of_another_kind_gives_the_same_result",
            "robust/test_arguments.py::test_every_image_is_attacked_within_its_own_radius",
            "nn/test_arguments.py::test_bounds_take_the_labels_that_certificates_take",
        ),
    ),
    Fault(
        name="inference mode, or gradients off, around an attack or an evaluation",
        stage="argument",
        outcome="same result",
        times=60,
        tests=(
            "robust/test_arguments.py::test_every_mode_of_autograd_gives_the_same_result",
            "theory/test_arguments.py::test_what_takes_gradients_takes_them_in_every_mode",
        ),
    ),
    Fault(
        name="an argument of a network's or data set's constructor that is none",
        stage="argument",
        outcome="named error",
        error="TypeError or ValueError, which names the function",
        times=250,
        tests=("nn/test_arguments.py::test_what_an_argument_must_not_be_is_refused_by_name",),
    ),
    Fault(
        name="an argument of a function of the theory that is none",
        stage="argument",
        outcome="named error",
        error="TypeError or ValueError, which names the function",
        times=1000,
        tests=(
            "theory/test_arguments.py::"
            "test_what_an_argument_must_not_be_is_refused_by_the_callers_name",
            "theory/test_arguments.py::test_every_public_function_is_in_the_table",
        ),
    ),
)


def get(name: str) -> Fault:
    """The fault of that name."""
    return next(fault for fault in FAULTS if fault.name == name)


def table() -> pd.DataFrame:
    """A row for each fault: its kind, where, what, how often, what comes of it, by which error.

    The kinds: "bad inputs" are files of data, weights, checkpoints and records, and arguments of
    functions, that are not what they must be; all else is "faults injected" into a run.
    """
    rows = [(_kind(f), f.stage, f.name, f.times, f.outcome, f.error, len(f.tests)) for f in FAULTS]
    columns = ["kind", "stage", "fault", "times", "outcome", "error", "tests"]
    return pd.DataFrame(rows, columns=columns)


def _kind(fault: Fault) -> str:
    given = fault.stage in ("any file", "weights", "data", "argument")
    return "bad inputs" if given or fault.name.startswith("a ") else "faults injected"
