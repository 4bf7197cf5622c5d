"""Measures networks in several runtimes, in turn: CPU time and wall time, size, MACs, parameters, beside accuracy where it is known.

See mobile_cv_nas/commands/benchmark_net.py.
"""

import sys

from mobile_cv_nas.commands.benchmark_net import main

if __name__ == "__main__":
    sys.exit(main())
