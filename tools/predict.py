"""Says what is on images: their classes, objects with their boxes, or the class of each pixel; see mobile_cv_nas/commands/predict.py."""

import sys

from mobile_cv_nas.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
