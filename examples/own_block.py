"""A block of one's own in a space: a pointwise convolution with SiLU, searched beside inverted residuals.

python examples/own_block.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import mobile_cv_nas as nas


class PointwiseSiLU(nas.Block):
    """1x1 convolution, SiLU; no norm. Built at its widest where `dims.c_out` is a choice, and masked to what was chosen."""

    def __init__(self, dims):
        super().__init__()
        self.c_out = dims.c_out
        widest = getattr(dims.c_out, "options", (dims.c_out,))[-1]
        self.conv = nn.Conv2d(dims.c_in, widest, 1, dims.stride)

    def forward(self, x):  # of a child
        return F.silu(self.conv(x))

    def transform(self, x, gates=None, scale=None):  # of a supernet
        mask = gates.tensor(self.c_out)  # None: one width was selected, and the rest is not computed
        width = gates.value(self.c_out)
        y = F.silu(F.conv2d(x, self.conv.weight[:width, : x.shape[1]], self.conv.bias[:width], self.conv.stride))
        y = y if mask is None else y * mask.view(1, -1, 1, 1)
        return y if scale is None else y * scale

    @staticmethod
    def cost(s, n):  # of one image; ints of a child, expectations of a supernet
        weights = s.c_in * s.c_out
        return nas.Cost(weights * s.out_area, weights + s.c_out)


nas.register_block("pointwise_silu", PointwiseSiLU)
names = ["ir_k3", "ir_k5", "pointwise_silu"]
space = nas.SearchSpace.parse({"name": "own", "input_size": 16, "stages": [[["conv_k3", 8, 2]], [[names, [8, 16, 4], 1, 3]]]})
supernet = nas.build_supernet(space, num_classes=10)
supernet.sample(temperature=1.0)
supernet.cost().macs.backward()
print("gradient of the first choice:", next(iter(supernet.alphas().values())).grad)

arch = next(arch for arch in map(space.sample, range(100)) if any(block.name == "pointwise_silu" for block in sum(arch.stages, ())))
child = nas.inherit_weights(nas.build_model(arch, 10), supernet)
supernet.select(arch)
assert nas.count(child, 16).macs == supernet.cost().macs.item(), "its cost must be what is counted"
x = torch.randn(2, 3, 16, 16)
torch.testing.assert_close(child.eval()(x), supernet.eval()(x), rtol=1e-4, atol=1e-5)
print(arch)
