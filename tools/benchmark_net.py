"""Measures networks in several runtimes, in turn: CPU time and wall time, size, MACs, parameters, beside accuracy where it is known.

python tools/benchmark_net.py FBNetV2_F1 FBNetV2_F4
python tools/benchmark_net.py output/digits digits.onnx --runtimes eager,folded,onnxruntime --batch 1,16 --json digits.json

A source is a result folder, a .safetensors file, a name of the zoo (its weights are not needed), or a file of tools/export_net.py.
"""

import sys

from mobile_cv_nas.commands.benchmark_net import main

if __name__ == "__main__":
    sys.exit(main())
