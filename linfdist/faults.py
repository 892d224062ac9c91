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
    stage: Literal["checkpoint", "record", "table", "training", "data", "any file", "weights"]
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
        name="a damaged record with checksums of the damaged files",
        stage="record",
        outcome="named error",
        error="RecordError, where it shows: it may not",
        times=300,
        tests=("test_fuzz.py::test_a_damaged_record_with_new_checksums_raises_nothing_else",),
    ),
    Fault(
        name="a record that was edited, with checksums that fit",
        stage="record",
        outcome="named error",
        error="RecordError",
        times=140,
        tests=(
            "test_record_edits.py::test_a_json_file_that_was_edited_is_named",
            "test_record_edits.py::test_a_json_file_with_other_contents_is_named",
            "test_record_edits.py::test_a_table_that_was_edited_is_named",
            "test_record_edits.py::test_a_summary_of_a_hunt_that_was_edited_is_named",
            "test_record_edits.py::test_a_table_of_a_hunt_that_was_edited_is_named",
            "test_record_edits.py::test_a_speed_that_its_seconds_do_not_give_is_named",
        ),
    ),
    Fault(
        name="a record without its checksums",
        stage="record",
        outcome="named error",
        error="RecordError",
        times=3,
        tests=("test_fuzz.py::test_a_record_without_its_checksums_is_refused",),
    ),
    Fault(
        name="a radius below eps of an image that is certified at eps",
        stage="record",
        outcome="same result",
        times=2,
        tests=(
            "test_certified.py::test_a_radius_just_above_eps_is_not_lowered_past_it",
            "test_certified.py::test_low_radii_are_raised_once_and_nothing_else_changes",
        ),
    ),
    Fault(
        name="a copy or a backup beside the recorded runs",
        stage="table",
        outcome="same result",
        times=18,
        tests=(
            "test_beside_runs.py::test_a_copy_is_left_out_with_a_warning_that_names_it",
            "test_beside_runs.py::test_a_copy_changes_no_table_and_no_list",
            "test_beside_runs.py::test_editors_files_are_ignored_without_a_word",
        ),
    ),
    Fault(
        name="folders that cannot be written to: no permission, read-only, full, a file, too long",
        stage="record",
        outcome="named error",
        error="RecordError or CheckpointError, before any work",
        times=50,
        tests=(
            "test_disk.py::test_what_cannot_be_written_is_named_before_any_work",
            "test_disk.py::test_a_file_in_the_place_of_a_folder_is_named_before_any_work",
            "test_disk.py::test_a_folder_in_the_place_of_a_work_file_is_named",
            "test_disk.py::test_a_name_that_is_too_long_is_named_before_any_work",
        ),
    ),
    Fault(
        name="records that cannot be read",
        stage="table",
        outcome="named error",
        error="RecordError",
        times=9,
        tests=("test_disk.py::test_records_that_cannot_be_read_are_named",),
    ),
    Fault(
        name="links in the place of work files",
        stage="record",
        outcome="named error",
        error="RecordError or CheckpointError; the file that they lead to is as it was",
        times=20,
        tests=(
            "test_disk.py::test_no_link_is_followed_by_the_lock",
            "test_disk.py::test_no_link_is_followed_by_a_checkpoint",
            "test_disk.py::test_no_link_is_written_through",
        ),
    ),
    Fault(
        name="standard streams that are closed, full or without Unicode",
        stage="table",
        outcome="same result",
        times=18,
        tests=(
            "test_streams.py::test_a_terminal_without_a_letter_shows_a_question_mark",
            "test_streams.py::test_a_run_with_closed_streams_is_recorded",
            "test_streams.py::test_what_is_printed_to_a_closed_stream_is_nothing",
        ),
    ),
    Fault(
        name="another repository in git's variables or around the sources",
        stage="record",
        outcome="same result",
        times=7,
        tests=(
            "test_commit.py::test_the_variables_of_a_hook_do_not_count",
            "test_commit.py::test_sources_in_another_checkout_have_no_commit",
        ),
    ),
    Fault(
        name="a clone whose line endings git changes",
        stage="record",
        outcome="same result",
        times=3,
        tests=("test_commit.py::test_a_clone_has_every_record_whatever_its_line_endings",),
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
