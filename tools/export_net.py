"""Writes a trained model as a file for another runtime, and checks it: ONNX, ExecuTorch, Core ML; in float or int8.

python tools/export_net.py output/digits digits.onnx
python tools/export_net.py FBNetV2_F4 net.pte --batch 1
python tools/export_net.py output/digits small.onnx --int8 data --test
python tools/export_net.py output/photos small.pte --int8 photos/calibration --keep-float blocks.s0b0 classifier

A model is a result folder, its .safetensors file, or a name of the zoo. --int8 calibrates on a folder of images, or with "data" on the
training images of the data set; --test scores both on its test images. The data set is that of the run, or of --config-file and KEY VALUE.
"""

import sys

from mobile_cv_nas.commands.export_net import main

if __name__ == "__main__":
    sys.exit(main())
