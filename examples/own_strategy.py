"""A strategy of one's own: FBNetV2's, in which a quarter of the weights' steps take a uniformly random path.

python examples/own_strategy.py [FOLDER]
"""

import sys

from sklearn.datasets import load_digits

import mobile_cv_nas as nas
from mobile_cv_nas.search.strategies import STRATEGIES
from mobile_cv_nas.search.strategies.dmasking import DMasking


class Curious(DMasking):
    """So that options of a small alpha keep learning. `base.Strategy` says what else there is to define."""

    def prepare(self, phase, epoch, step):  # sets the gates of a step
        rng = self.rng(phase, epoch, step)  # the same on all processes, and after --resume
        if phase == "weights" and rng.random() < 0.25:
            self.supernet.select(self.supernet.space.sample(rng))
        else:
            super().prepare(phase, epoch, step)


STRATEGIES._do_register("curious", Curious)

digits = load_digits()
pairs = [((image * 15).astype("uint8"), int(label)) for image, label in zip(digits.images, digits.target)]
folder = sys.argv[1] if len(sys.argv) > 1 else "output/curious"
result = nas.search(
    "digits", pairs[:600], pairs[600:800], target="400e3 macs", strategy="curious", output=folder,
    epochs=2, batch_size=32, tolerance=0.3, candidates=2, draws=200, child={"epochs": 1},
)  # fmt: skip
print(result.arch, result.cost)
