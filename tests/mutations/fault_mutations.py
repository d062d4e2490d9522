"""Mutations of what guards against faults of files, machines and people; see `mutation_list.py`.

Numbers: classes of faults.
"""

from mutation import Mutation

FAULTS = (
  Mutation(
    'fault_11_stalled_data',
    'exp_jax/data/loader.py',
    'self._queue.get(timeout=self._timeout)',
    'self._queue.get(timeout=15)',
    'tests/data/test_loader.py::test_a_record_that_does_not_come_is_named',
    "the user's limit for a batch is ignored",
  ),
  Mutation(
    'fault_15_memory_of_the_machine',
    'exp_jax/errors.py',
    'if isinstance(each, MemoryError):',
    'if False:',
    'tests/test_no_room.py::test_a_machine_without_room_is_a_sentence',
    'too little memory is a traceback',
  ),
  Mutation(
    'fault_15_memory_of_the_device',
    'exp_jax/errors.py',
    "'RESOURCE_EXHAUSTED' in str(each)",
    "'RESOURCE_EXHAUSTED' == str(each)",
    'tests/test_no_room.py::test_a_machine_without_room_is_a_sentence',
    'too little memory of a device is a traceback',
  ),
  Mutation(
    'fault_17_stray_words',
    'exp_jax/commands/command_line.py',
    'if len(rest) > 1:',
    'if len(rest) > 9:',
    'tests/training/test_command_line.py',
    '--config.flag False means True',
  ),
  Mutation(
    'fault_21_picture_decoded_first',
    'exp_jax/media/images.py',
    "      check_size(\n        path, 'image', image.size",
    "      image.load()\n      check_size(\n        path, 'image', image.size",
    'tests/media/test_odd_images.py',
    'the limit of pictures comes after decoding',
  ),
  Mutation(
    'fault_21_frame_decoded_first',
    'exp_jax/media/foreign/containers.py',
    "  check_size(\n    path, 'video'",
    "  picture_format(path) or (lambda *_: None)(\n    path, 'video'",
    'tests/media/test_containers.py::test_frames_have_a_limit_before_they_are_decoded',
    'frames have no limit',
  ),
  Mutation(
    'fault_22_index_leaves_its_folder',
    'exp_jax/convert/wan_weights/wan_files.py',
    'all(_is_plain(v) for v in table.values())',
    'all(isinstance(v, str) for v in table.values())',
    'tests/convert/test_wan.py::test_an_index_names_files_of_its_own_folder',
    'an index of weights names files elsewhere',
  ),
  Mutation(
    'fault_32_two_processes',
    'exp_jax/commands/animate.py',
    '    only_one(args.output, folder=many),\n',
    '',
    'tests/test_two_at_once.py',
    'two animations write one output',
  ),
  Mutation(
    'fault_33_killed_video',
    'exp_jax/media/encode.py',
    'with replacing(path) as partial:',
    "open(path, 'ab').close()\n  with replacing(path) as partial:",
    'tests/files/test_killed_writers.py',
    'an empty video under its final name while it is written',
  ),
  Mutation(
    'fault_36_last_save',
    'exp_jax/training/loop.py',
    '      checkpoints.wait()\n      _wait_for_all_hosts()',
    '      with contextlib.suppress(SaveFailed):\n        checkpoints.wait()\n      '
    '_wait_for_all_hosts()',
    'tests/training/test_faults.py::test_the_failure_of_the_last_save_is_not_hidden',
    'the failure of the last save is hidden',
  ),
)
