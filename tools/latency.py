"""Latency tables: networks to measure, their measurement here, a table fitted to it, and its check on networks that it was not fitted to.

python tools/latency.py sample fbnetv2_f 80 nets
python tools/latency.py measure nets --runtime onnxruntime --profiled 24
python tools/latency.py fit nets --output cpu.json
python tools/latency.py check cpu.json nets --picture cpu.png
"""

import sys

from mobile_cv_nas.commands.latency import main

if __name__ == "__main__":
    sys.exit(main())
