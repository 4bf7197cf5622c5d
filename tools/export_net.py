"""Writes a trained model as a file for another runtime, and checks it: ONNX, ExecuTorch, Core ML; in float or int8.

See mobile_cv_nas/commands/export_net.py.
"""

import sys

from mobile_cv_nas.commands.export_net import main

if __name__ == "__main__":
    sys.exit(main())
