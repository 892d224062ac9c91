"""``python -m linfdist``."""

import sys

from linfdist.cli import main

if __name__ == "__main__":
    sys.exit(main())
