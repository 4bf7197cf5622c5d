"""Objects on an image by an exported detector, with onnxruntime and numpy alone.

python examples/detect_onnx.py detector.onnx scene.png
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def detect(path: str, image: Image.Image, least: float = 0.5) -> list[tuple[str, float, list[float]]]:
    """Class, score and box (left, top, right, bottom in pixels of the image) of each object, the best first.

    The file gives boxes before suppression: of those that overlap, and are of one class, only the best is an object. For ssdlite, whose
    images are squeezed to the square; retinanet's are padded to it.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    says = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    size, overlap = says["input_size"], says["suppression"]["nms_thresh"]
    pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    boxes, scores = (output[0] for output in session.run(["boxes", "scores"], {"image": pixels.transpose(2, 0, 1)[None]}))
    boxes = boxes * np.tile([image.width / size, image.height / size], 2)
    found = []
    for label, name in enumerate(says["classes"], start=1):  # 0 is the background
        rest = [row for row in np.argsort(-scores[:, label]) if scores[row, label] >= least]
        while rest:
            best, *others = rest
            found.append((name, float(scores[best, label]), boxes[best].tolist()))
            rest = [row for row in others if _overlap(boxes[best], boxes[row]) <= overlap]
    return sorted(found, key=lambda one: -one[1])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(sides.clip(min=0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


if __name__ == "__main__":
    for name, score, box in detect(sys.argv[1], Image.open(sys.argv[2])):
        print(f"{name}  {score:.3f}  {', '.join(f'{side:.0f}' for side in box)}")
