"""Every fault that the tests inject: where, how often, and what must come of it."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Outcome = Literal[
    "named error",
    "exact resume",
    "named error, then exact resume",
    "same result",
    "no false certificate",
    "caught by a test",
]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault: ``times`` it is injected, at least, by tests named as "file::function".

    "exact resume": the next call ends with the same bits as if nothing had happened.
    "same result": nothing was lost, and no call is needed. "no false certificate": what is
    certified then is true. "caught by a test": the fault was planted in the code.
    """

    name: str
    stage: Literal[
        "checkpoint", "record", "table", "training", "data", "any file", "weights", "certificate"
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
        name="weights of another mean or std",
        stage="weights",
        outcome="named error",
        error="RuntimeError of load_state_dict",
        times=5,
        tests=("nn/test_normalize.py::test_weights_of_another_mean_or_std_are_refused_by_name",),
    ),
    Fault(
        name="memory without values, after to_empty or on the device meta",
        stage="weights",
        outcome="named error",
        error="RuntimeError or ValueError",
        times=22,
        tests=(
            "nn/test_normalize.py::test_memory_without_values_is_refused_everywhere",
            "nn/test_normalize.py::test_a_net_on_meta_is_refused_by_name",
        ),
    ),
    Fault(
        name="a mean or std that was changed, or rounded by a cast and back",
        stage="certificate",
        outcome="no false certificate",
        times=8,
        tests=(
            "nn/test_normalize.py::test_the_constant_of_every_certificate_is_that_of_forward",
            "nn/test_normalize.py::test_the_margin_radius_is_true_after_a_cast_and_back",
            "nn/test_normalize.py::test_a_filled_divisor_gives_no_false_margin_certificate",
        ),
    ),
    Fault(
        name="float32 numbers that overflow",
        stage="certificate",
        outcome="no false certificate",
        times=140,
        tests=(
            "robust/test_overflow.py::test_a_bias_that_overflows_the_logits_certifies_nothing",
            "robust/test_overflow.py::test_features_whose_middle_overflows_certify_nothing",
            "robust/test_overflow.py::test_what_overflows_before_tanh_is_not_hidden_behind_it",
            "robust/test_overflow.py::test_sound_implies_interval_implies_forward_at_any_magnitude",
            "robust/test_overflow.py::test_the_compared_methods_certify_nothing_that_overflows",
        ),
    ),
    Fault(
        name="autocast, or products in TF32 or bfloat16",
        stage="certificate",
        outcome="same result",
        times=13,
        tests=("robust/test_float32.py::test_every_answer_is_that_of_float32",),
    ),
    Fault(
        name="several threads at one network",
        stage="certificate",
        outcome="same result",
        times=4,
        tests=(
            "robust/test_threads.py"
            "::test_threads_get_what_one_thread_gets_and_leave_the_network_alone",
        ),
    ),
    Fault(
        name="a network inside one of torch's wrappers",
        stage="certificate",
        outcome="named error",
        error="TypeError",
        times=85,
        tests=("robust/test_wrapped.py::test_every_entry_refuses_what_wraps_a_network",),
    ),
    Fault(
        name="a rounding without its step or slack",
        stage="certificate",
        outcome="caught by a test",
        times=17,
        tests=(
            "robust/test_sound_faults.py::test_one_missing_step_is_caught",
            "robust/test_sound_faults.py::test_a_missing_step_after_a_convolution_is_caught",
            "robust/test_head_slack.py::test_a_slack_without_float64_s_part_is_caught",
            "robust/test_head_slack.py::test_the_half_width_reaches_both_ends",
            "robust/test_head_slack.py"
            "::test_the_slack_covers_every_rounding_of_the_interval_margins",
        ),
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
)


def get(name: str) -> Fault:
    """The fault of that name."""
    return next(fault for fault in FAULTS if fault.name == name)


def table() -> pd.DataFrame:
    """A row for each fault: its kind, where, what, how often, what comes of it, by which error.

    The kinds: "bad inputs" are files of data, weights, checkpoints and records that are not what
    they must be; all else is "faults injected" into a run.
    """
    rows = [(_kind(f), f.stage, f.name, f.times, f.outcome, f.error, len(f.tests)) for f in FAULTS]
    columns = ["kind", "stage", "fault", "times", "outcome", "error", "tests"]
    return pd.DataFrame(rows, columns=columns)


def _kind(fault: Fault) -> str:
    files = fault.stage in ("any file", "weights", "data")
    return "bad inputs" if files or fault.name.startswith("a ") else "faults injected"
