"""Trains a segmenter on images with masks, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

See mobile_cv_nas/commands/train_segmenter.py.
"""

import sys

from mobile_cv_nas.commands.train_segmenter import main

if __name__ == "__main__":
    sys.exit(main())
