"""Trains a detector on images with boxes, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

See mobile_cv_nas/commands/train_detector.py.
"""

import sys

from mobile_cv_nas.commands.train_detector import main

if __name__ == "__main__":
    sys.exit(main())
