"""Tests a trained model on a data set: scores, MACs, parameters and images/s.

python tools/test_net.py output/digits [--config-file CONFIG] [KEY VALUE ...]
python tools/test_net.py --config-file CONFIG MODEL.WEIGHTS output/model.safetensors [KEY VALUE ...]
python tools/test_net.py --config-file CONFIG MODEL.ARCH FBNetV2_F4 MODEL.WEIGHTS pretrained DATA.ROOT imagenet

A result folder, or a file in one, brings the configuration that it was made with. Mean, std, resize and classes are those of the model; of
a key that says otherwise a warning tells, and it counts.
"""

import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.test_net import run

if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, resumable=False, purpose="test"))
