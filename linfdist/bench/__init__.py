"""``python -m linfdist bench``: our speed and memory beside the best that other libraries offer.

- ``peers``: the functions that are timed against ours.
- ``timing``: how a call is timed.
- ``distances``, ``iterations``: timings of the operations and of whole training steps.
- ``roofline``: the speed that the hardware allows.
- ``file``: the file that the bench writes.
- ``recorded``, ``machine_code``, ``plots``: tables and pictures for the book's page.
- ``epochs``, ``epochs_file``: timings of the methods of Table 4.

The command lines are in ``cli``.
"""
