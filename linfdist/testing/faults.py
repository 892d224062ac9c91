"""Every fault that the tests inject: where, how often, and the required outcome."""

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
    """One kind of fault, injected at least ``times`` times by ``tests`` ("file::function").

    The outcomes:

    - "named error": ``error`` is raised.
    - "exact resume": the next call produces the same bits as a run without the fault.
    - "named error, then exact resume": both, in this order.
    - "same result": nothing is lost, and no further call is needed.
    - "no false certificate": every certificate issued after the fault is true.
    - "caught by a test": the fault was planted in the code, and a test fails.
    """

    name: str
    stage: Literal[
        "checkpoint",
        "record",
        "table",
        "training",
        "data",
        "any file",
        "weights",
        "arguments",
        "arithmetic",
        "certificate",
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
            "training/test_resume.py::test_a_process_that_is_really_killed_is_resumed_bit_equal",
        ),
    ),
    Fault(
        name="disk full while saving a checkpoint",
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
        name="two processes writing one checkpoint",
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
        tests=("training/test_resume.py::test_a_checkpoint_of_another_run_is_refused_and_kept",),
    ),
    Fault(
        name="a checkpoint cut short, or with a bit flipped",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=300,
        tests=("faults/test_fuzz.py::test_a_damaged_checkpoint_is_never_loaded",),
    ),
    Fault(
        name="a checkpoint written before checksums existed, damaged or not",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=100,
        tests=(
            "faults/test_fuzz.py::test_a_checkpoint_of_before_is_refused_damaged_or_not",
            "training/test_checkpoint_state.py::test_a_checkpoint_without_a_checksum_is_refused_whatever_it_says_of_its_format",
        ),
    ),
    Fault(
        name="a checkpoint with a correct checksum and nonsense inside",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError; the network stays unchanged",
        times=1000,
        tests=(
            "training/test_checkpoint_state.py::test_nonsense_anywhere_in_a_checkpoint_is_named",
            "training/test_checkpoint_state.py::test_the_error_says_what_is_wrong",
            "training/test_checkpoint_state.py::test_a_missing_part_is_named",
            "training/test_checkpoint_state.py::test_permuted_moments_are_refused",
        ),
    ),
    Fault(
        name="a seed, an environment or a path that no checkpoint can hold",
        stage="checkpoint",
        outcome="named error",
        error="TypeError or ValueError, before the first step",
        times=30,
        tests=(
            "system/test_values.py::test_a_seed_that_cannot_be_saved_is_refused_before_the_first_step",
            "system/test_values.py::test_what_no_checkpoint_can_hold_is_refused_before_the_first_step",
            "system/test_values.py::test_fit_names_an_argument_of_another_type",
        ),
    ),
    Fault(
        name="a checkpoint whose moments are missing or belong to other parameters",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=21,
        tests=("training/test_resume.py::test_moments_of_other_parameters_are_refused",),
    ),
    Fault(
        name="killed while recording a run",
        stage="record",
        outcome="exact resume",
        times=25,
        tests=("faults/test_kills.py::test_killed_at_every_step_of_recording",),
    ),
    Fault(
        name="disk full during an fsync of a record",
        stage="record",
        outcome="named error, then exact resume",
        error="RecordError",
        times=14,
        tests=("faults/test_kills.py::test_a_disk_that_is_full_at_any_fsync_of_recording",),
    ),
    Fault(
        name="disk full during a write of a record",
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
        name="two processes working on one run",
        stage="record",
        outcome="named error",
        error="RunInProgress or RunExists",
        times=3,
        tests=(
            "experiments/test_runner.py::test_a_second_process_at_the_same_run_is_refused",
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
        tests=("faults/test_fuzz.py::test_a_damaged_record_is_never_read",),
    ),
    Fault(
        name="a damaged record with checksums of the damaged files",
        stage="record",
        outcome="named error",
        error="RecordError if the damage shows; it may not",
        times=300,
        tests=(
            "faults/test_fuzz.py::test_a_damaged_record_with_new_checksums_raises_nothing_else",
        ),
    ),
    Fault(
        name="a record that was edited together with its checksums",
        stage="record",
        outcome="named error",
        error="RecordError",
        times=140,
        tests=(
            "records/test_record_edits.py::test_a_json_file_that_was_edited_is_named",
            "records/test_record_edits.py::test_a_json_file_with_other_contents_is_named",
            "records/test_record_edits.py::test_a_table_that_was_edited_is_named",
            "records/test_record_edits.py::test_a_summary_of_an_attack_that_was_edited_is_named",
            "records/test_record_edits.py::test_a_table_of_an_attack_that_was_edited_is_named",
            "records/test_record_edits.py::test_a_speed_that_its_seconds_do_not_give_is_named",
        ),
    ),
    Fault(
        name="a record without its checksums",
        stage="record",
        outcome="named error",
        error="RecordError",
        times=3,
        tests=("faults/test_fuzz.py::test_a_record_without_its_checksums_is_refused",),
    ),
    Fault(
        name="a radius below eps for an image that is certified at eps",
        stage="record",
        outcome="same result",
        times=2,
        tests=(
            "records/test_certified.py::test_a_radius_just_above_eps_is_not_lowered_past_it",
            "records/test_certified.py::test_low_radii_are_raised_once_and_nothing_else_changes",
        ),
    ),
    Fault(
        name="a copy or a backup beside the recorded runs",
        stage="table",
        outcome="same result",
        times=18,
        tests=(
            "records/test_beside_runs.py::test_a_copy_is_left_out_with_a_warning_that_names_it",
            "records/test_beside_runs.py::test_a_copy_changes_no_table_and_no_list",
            "records/test_beside_runs.py::test_editors_files_are_ignored_without_a_word",
        ),
    ),
    Fault(
        name="unwritable folders: no permission, read-only, full, a file in the way, a long name",
        stage="record",
        outcome="named error",
        error="RecordError or CheckpointError, before any work",
        times=50,
        tests=(
            "system/test_disk.py::test_what_cannot_be_written_is_named_before_any_work",
            "system/test_disk.py::test_a_file_in_the_place_of_a_folder_is_named_before_any_work",
            "system/test_disk.py::test_a_folder_in_the_place_of_a_work_file_is_named",
            "system/test_disk.py::test_a_name_that_is_too_long_is_named_before_any_work",
        ),
    ),
    Fault(
        name="records that cannot be read",
        stage="table",
        outcome="named error",
        error="RecordError",
        times=9,
        tests=("system/test_disk.py::test_records_that_cannot_be_read_are_named",),
    ),
    Fault(
        name="links in place of work files",
        stage="record",
        outcome="named error",
        error="RecordError or CheckpointError; the linked file stays unchanged",
        times=20,
        tests=(
            "system/test_disk.py::test_no_link_is_followed_by_the_lock",
            "system/test_disk.py::test_no_link_is_followed_by_a_checkpoint",
            "system/test_disk.py::test_no_link_is_written_through",
        ),
    ),
    Fault(
        name="standard streams that are closed, full or without Unicode",
        stage="table",
        outcome="same result",
        times=18,
        tests=(
            "cli/test_streams.py::test_a_terminal_without_a_letter_shows_a_question_mark",
            "cli/test_streams.py::test_a_run_with_closed_streams_is_recorded",
            "cli/test_streams.py::test_what_is_printed_to_a_closed_stream_is_nothing",
        ),
    ),
    Fault(
        name="another repository in git's variables or around the sources",
        stage="record",
        outcome="same result",
        times=7,
        tests=(
            "records/test_commit.py::test_the_variables_of_a_hook_do_not_count",
            "records/test_commit.py::test_sources_in_another_checkout_have_no_commit",
        ),
    ),
    Fault(
        name="a clone in which git changes the line endings",
        stage="record",
        outcome="same result",
        times=3,
        tests=("records/test_commit.py::test_a_clone_has_every_record_whatever_its_line_endings",),
    ),
    Fault(
        name="a bench or an attack cut short, or with a bit flipped",
        stage="record",
        outcome="named error",
        error="RecordError, unless the contents are still the same",
        times=300,
        tests=(
            "faults/test_fuzz.py::test_a_damaged_file_that_stands_alone_is_named_or_says_the_same",
        ),
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
        tests=("training/test_training.py::test_a_loss_that_is_not_finite_names_step_p_and_lr",),
    ),
    Fault(
        name="NaN or infinity in weights or moments while the loss is finite",
        stage="training",
        outcome="named error, then exact resume",
        error="FloatingPointError",
        times=8,
        tests=("faults/test_inputs.py::test_an_update_that_is_not_finite_is_never_saved",),
    ),
    Fault(
        name="a configuration field that has the wrong type or cannot be saved",
        stage="training",
        outcome="named error",
        error="TypeError or ValueError",
        times=1000,
        tests=(
            "system/test_serialise.py::test_every_field_takes_what_can_be_saved_and_read_or_names_it",
            "system/test_serialise.py::test_a_value_of_another_type_is_named",
        ),
    ),
    Fault(
        name="a batch, a share or a set of one image, which a mean shift turns into 0",
        stage="training",
        outcome="named error",
        error="ValueError",
        times=6,
        tests=(
            "training/test_training.py::test_config_errors",
            "training/test_training.py::test_a_set_of_one_image_is_refused",
            "training/test_training.py::test_shares_of_one_image_are_refused_where_each_has_its_own_mean",
            "nn/test_mean_shift.py::test_training_refuses_one_value_a_feature_as_batch_normalisation_does",
            "nn/test_mean_shift.py::test_reestimation_refuses_what_it_cannot_take_and_puts_the_means_back",
        ),
    ),
    Fault(
        name="another default device or dtype in torch",
        stage="training",
        outcome="same result",
        times=6,
        tests=(
            "system/test_values.py::test_torch_s_defaults_change_nothing",
            "system/test_values.py::test_data_are_the_same_whatever_torch_s_defaults",
            "system/test_factories.py::test_every_factory_says_its_device",
        ),
    ),
    Fault(
        name="a notebook parameter of the wrong type",
        stage="training",
        outcome="named error",
        error="WrongParameter; nothing runs",
        times=200,
        tests=(
            "book/test_book.py::test_a_value_of_another_type_is_refused_before_anything_runs",
            "cli/test_cli.py::test_a_parameter_takes_values_of_its_default_s_type_alone",
        ),
    ),
    Fault(
        name="weights of another dtype, which would be rounded",
        stage="weights",
        outcome="named error",
        error="RecordError or CheckpointError",
        times=6,
        tests=(
            "faults/test_inputs.py::test_weights_of_another_dtype_are_not_loaded",
            "training/test_checkpoint_state.py::test_the_error_says_what_is_wrong",
        ),
    ),
    Fault(
        name="mismatched arrays passed to native code",
        stage="arguments",
        outcome="named error",
        error="ValueError or TypeError, before memory is touched",
        times=4000,
        tests=(
            "ops/test_bindings.py::test_every_mismatch_is_refused_by_the_module_in_use",
            "ops/test_bindings.py::"
            "test_every_mismatch_is_refused_by_both_bindings_under_a_sanitizer",
            "ops/test_bindings.py::"
            "test_an_op_that_is_called_by_itself_with_what_does_not_fit_is_refused",
        ),
    ),
    Fault(
        name="a parameter, gradient or moment replaced outside the optimizer",
        stage="arguments",
        outcome="named error",
        error="ValueError or TypeError",
        times=36,
        tests=(
            "optim/test_lp_adamw.py::test_exchanged_data_is_refused",
            "optim/test_lp_adamw.py::test_a_moment_that_was_replaced_is_refused",
        ),
    ),
    Fault(
        name="an optimizer state that belongs to other parameters",
        stage="arguments",
        outcome="named error",
        error="ValueError or TypeError; nothing is changed",
        times=20,
        tests=(
            "optim/test_lp_adamw.py::test_a_state_that_does_not_fit_is_refused_and_changes_nothing",
            "optim/test_lp_adamw.py::test_moments_that_are_no_tensors_are_refused",
        ),
    ),
    Fault(
        name="an invalid optimizer setting, however it arrives",
        stage="arguments",
        outcome="named error",
        error="ValueError or TypeError",
        times=65,
        tests=("optim/test_lp_adamw.py::test_a_setting_is_checked_however_it_comes",),
    ),
    Fault(
        name="a layer size that is not an integer",
        stage="arguments",
        outcome="named error",
        error="ValueError or TypeError",
        times=17,
        tests=("nn/test_dist.py::test_a_size_that_is_no_integer_is_refused_by_name",),
    ),
    Fault(
        name="worker threads that keep flushing denormals after one call",
        stage="arithmetic",
        outcome="same result",
        times=3,
        tests=(
            "ops/test_float_mode.py::"
            "test_workers_made_while_denormals_were_flushed_keep_them_again",
            "ops/test_float_mode.py::"
            "test_no_wrong_class_is_certified_after_denormals_were_flushed_once",
            "ops/test_float_mode.py::"
            "test_a_thread_of_python_s_has_workers_of_its_own_which_keep_denormals_too",
        ),
    ),
    Fault(
        name="denormals flushed, or another rounding mode, on any thread",
        stage="arithmetic",
        outcome="named error",
        error="ValueError",
        times=7,
        tests=(
            "ops/test_float_mode.py::test_without_the_native_module_flushing_workers_are_refused",
            "ops/test_float_mode.py::test_another_rounding_mode_is_refused",
        ),
    ),
    Fault(
        name="NaN, infinities and overflow beside finite numbers",
        stage="arithmetic",
        outcome="same result",
        times=60,
        tests=(
            "ops/test_not_finite.py::test_the_cpu_s_kernels_are_the_reference",
            "ops/test_not_finite.py::test_every_instruction_set_is_the_reference",
            "ops/test_not_finite.py::test_the_cuda_kernels_are_the_reference",
        ),
    ),
    Fault(
        name="autocast around an op",
        stage="arithmetic",
        outcome="same result",
        times=15,
        tests=("ops/test_errors.py::test_in_autocast_every_op_computes_in_float32",),
    ),
    Fault(
        name="a checkpoint without the loss's own parameters",
        stage="checkpoint",
        outcome="named error",
        error="CheckpointError",
        times=2,
        tests=("training/test_resume.py::test_a_checkpoint_that_lacks_the_scale_is_refused",),
    ),
    Fault(
        name="infinity in the loss's own parameters",
        stage="training",
        outcome="named error",
        error="FloatingPointError",
        tests=("training/test_resume.py::test_a_scale_that_is_not_finite_is_named_and_not_saved",),
    ),
    Fault(
        name="a search that would read the test set",
        stage="data",
        outcome="named error",
        error="ValueError or CheckpointError",
        times=2,
        tests=(
            "experiments/test_search.py::test_a_trial_does_not_read_the_test_set_nor_write_elsewhere",
            "training/test_resume.py::"
            "test_a_run_that_watched_the_test_set_does_not_go_on_watching_validation_images",
        ),
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
        tests=("experiments/test_runner.py::test_weights_of_another_run_are_refused",),
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
        name="uninitialised memory, after to_empty or on the meta device",
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
        name="several threads using one network",
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
        name="a bound without its rounding step or slack",
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
        name="code inside a loaded file",
        stage="any file",
        outcome="named error",
        error="CheckpointError, RecordError or DataError; the code does not run",
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
            "data/test_data.py::test_a_truncated_file_is_named",
            "data/test_data.py::test_a_changed_file_is_named",
            "data/test_data.py::test_a_missing_file_of_a_data_set_is_named",
            "data/test_data.py::test_a_missing_cifar10_binary_is_named",
            "data/test_data.py::test_a_damaged_pickled_cifar10_is_named",
        ),
    ),
    Fault(
        name="other MNIST files beside the originals",
        stage="data",
        outcome="same result",
        tests=("faults/test_inputs.py::test_only_the_originals_are_read",),
    ),
    Fault(
        name="labels out of range",
        stage="data",
        outcome="named error",
        error="DataError",
        tests=("data/test_data.py::test_a_label_out_of_range_is_named",),
    ),
    Fault(
        name="a corrupt image",
        stage="data",
        outcome="named error",
        error="DataError, unless it is still a JPEG file of 64x64 pixels",
        times=3,
        tests=("data/test_data.py::test_damaged_tinyimagenet_is_named",),
    ),
    Fault(
        name="a damaged cache of decoded images",
        stage="data",
        outcome="same result",
        times=100,
        tests=(
            "data/test_data.py::test_tinyimagenet_is_decoded_once_and_again_after_a_change",
            "faults/test_fuzz.py::test_a_damaged_cache_is_never_used",
        ),
    ),
    Fault(
        name="no home folder, or a ~ that cannot be expanded",
        stage="data",
        outcome="named error",
        error="DataError, where a home folder is needed",
        times=10,
        tests=(
            "data/test_data.py::test_without_a_home_folder_the_digits_are_there_and_the_rest_is_named",
            "data/test_data.py::test_a_cache_needs_a_home_folder_too",
            "data/test_data.py::test_a_tilde_is_the_home_folder_wherever_a_folder_is_given",
        ),
    ),
    Fault(
        name="a data file or a cache that only another user can read",
        stage="data",
        outcome="named error",
        error="DataError; a cache is rebuilt",
        times=4,
        tests=(
            "data/test_data.py::test_files_that_cannot_be_read_are_named_and_not_to_be_deleted",
            "data/test_data.py::test_a_cache_that_cannot_be_read_is_decoded_again",
            "data/test_data.py::test_the_cache_can_be_read_by_whom_the_umask_says",
        ),
    ),
    Fault(
        name="TinyImageNet in another layout, with hidden files in it",
        stage="data",
        outcome="same result",
        times=5,
        tests=("data/test_data.py::test_tinyimagenet_is_read_in_every_layout",),
    ),
    Fault(
        name="a user's data set whose labels start at 1",
        stage="data",
        outcome="named error",
        error="ValueError, which does not ask to delete a file",
        tests=(
            "data/test_data.py::test_an_own_set_with_labels_from_1_is_told_so_and_keeps_its_files",
        ),
    ),
    Fault(
        name="rubbish in place of a data file",
        stage="data",
        outcome="named error",
        error="DataError",
        times=800,
        tests=(
            "faults/test_fuzz.py::test_idx_files",
            "faults/test_fuzz.py::test_cifar10_records",
            "faults/test_fuzz.py::test_tinyimagenet_lists",
            "faults/test_fuzz.py::test_jpeg_files",
        ),
    ),
    Fault(
        name="an invalid argument of a certificate, an attack, a loss or an evaluation",
        stage="arguments",
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
        name="the same argument in another form: integers, layouts, numpy, a radius per image",
        stage="arguments",
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
        stage="arguments",
        outcome="same result",
        times=60,
        tests=(
            "robust/test_arguments.py::test_every_mode_of_autograd_gives_the_same_result",
            "theory/test_arguments.py::test_what_takes_gradients_takes_them_in_every_mode",
        ),
    ),
    Fault(
        name="an invalid argument of a network's or data set's constructor",
        stage="arguments",
        outcome="named error",
        error="TypeError or ValueError, which names the function",
        times=250,
        tests=("nn/test_arguments.py::test_what_an_argument_must_not_be_is_refused_by_name",),
    ),
    Fault(
        name="an invalid argument of a theory function",
        stage="arguments",
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
    """One row per fault: kind, stage, fault, times, outcome, error and the number of tests.

    The kinds:

    - "bad inputs": invalid arguments of functions, and invalid files of data, weights, checkpoints
      and records.
    - "faults injected": every other fault, injected into a run.
    """
    rows = [(_kind(f), f.stage, f.name, f.times, f.outcome, f.error, len(f.tests)) for f in FAULTS]
    columns = ["kind", "stage", "fault", "times", "outcome", "error", "tests"]
    return pd.DataFrame(rows, columns=columns)


def _kind(fault: Fault) -> str:
    given = fault.stage in ("any file", "weights", "data", "arguments")
    return "bad inputs" if given or fault.name.startswith("a ") else "faults injected"
