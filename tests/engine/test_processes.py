"""Processes that torchrun launched, and how they end."""

import subprocess
import sys

LEAVES = """
import atexit, os, weakref

def say():
    open(os.environ["RANK"], "w").write("held" if group() else "gone")

atexit.register(say)  # after what is registered later

import torch
import torch.distributed as dist
from mobile_cv_nas.engine.runtime import start_runtime

runtime = start_runtime()
group = weakref.ref(dist.group.WORLD)
weight = torch.nn.Parameter(torch.ones(3))
weight.sum().backward()
torch.optim.SGD([weight]).step()  # the first optimizer imports torch._dynamo
assert runtime.sum([1.0, 2.0]) == [2.0, 4.0]
"""


def test_nothing_holds_the_group_that_a_process_has_left(tmp_path):
    # What is held keeps its threads, and one that lets go of a tensor while the interpreter ends aborts the process.
    (tmp_path / "leaves.py").write_text(LEAVES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, "leaves.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["gone", "gone"]
