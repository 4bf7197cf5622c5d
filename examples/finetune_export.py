"""A searched network on new classes, then a file for a phone: fine-tuning, int8, and the file's own prediction.

python examples/finetune_export.py [FOLDER]
"""

import sys
from pathlib import Path

from sklearn.datasets import load_digits

import mobile_cv_nas as nas

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "output/finetuned")
digits = load_digits()
images = (digits.images * 255 / 16).astype("uint8")
pairs = [(image, int(label % 2)) for image, label in zip(images, digits.target)]  # even or odd: classes that the network never saw

start = nas.load("Digits")  # a result folder, a .safetensors file, or a name of the zoo
result = nas.train(
    start, pairs[:1000], pairs[1000:1200], pairs[1200:], output=folder / "run", classes=["even", "odd"], epochs=2, batch_size=64, lr=0.05
)
print(result.scores)

model = result.model()
report = nas.export(model, folder / "parity.onnx", batch=1)
print(report)  # what it was compared with, and how far apart they are
small = nas.export(model, folder / "parity_int8.onnx", int8=list(images[:100]), batch=1)
print(small)

exported = nas.load(folder / "parity.onnx")  # runs in onnxruntime
print(exported.predict(images[5], top=1).labels, "is", digits.target[5])
