"""A search on a Dataset of one's own: a space, images with labels, a target.

python examples/own_dataset.py [FOLDER]
"""

import sys

from sklearn.datasets import load_digits

import mobile_cv_nas as nas

digits = load_digits()
images = (digits.images * 255 / 16).astype("uint8")  # (N, 8, 8); PIL images and tensors do as well
pairs = [(image, int(label)) for image, label in zip(images, digits.target)]

result = nas.search(
    "digits", train=pairs[:600], val=pairs[600:800], target="400e3 macs", output=sys.argv[1] if len(sys.argv) > 1 else "output/own",
    epochs=2, batch_size=32, tolerance=0.2, child={"epochs": 2},
)  # fmt: skip
print(result.cost, result.model().predict(images[0], top=1).labels)
