"""``python -m linfdist bench``: speed and memory, ours beside the best that other libraries offer.

``peers`` says what is timed against ours, ``timing`` how, ``distances`` and ``iterations`` time the
operations and whole steps of training, ``roofline`` has what the hardware allows, ``file`` what is
written; ``recorded``, ``machine_code`` and ``plots`` are for the book's page. ``epochs`` and
``epochs_file`` time the methods of Table 4. The command lines are in ``cli``.
"""
