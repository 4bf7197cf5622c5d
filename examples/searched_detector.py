"""A detector whose backbone is searched, on few images and for few epochs: enough to see every step, not to find much.

python examples/searched_detector.py [FOLDER]
"""

import sys
from pathlib import Path

import mobile_cv_nas as nas
from mobile_cv_nas.commands.search_net import main
from mobile_cv_nas.configs import config_path
from mobile_cv_nas.data.digit_scenes import write_digit_scenes

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "output/searched_detector")
scenes = write_digit_scenes(folder / "scenes", {"train": 32, "val": 8, "test": 8})  # images and annotations in COCO's format

# The config searches the backbone under SSDLite's head; the keys behind it cut it short.
code = main(
    f"{config_path('search/digit_scenes_detect.yaml')} DATA.ROOT {scenes} OUTPUT_DIR {folder / 'run'} DATA.WORKERS 0 "
    "SEARCH.EPOCHS 2 SEARCH.BATCH_SIZE 4 SEARCH.ALPHA_LR 0.3 SEARCH.TOLERANCE 0.3 SEARCH.CANDIDATES 2 SEARCH.DRAWS 200 "
    "SEARCH.RECALIBRATION_IMAGES 8 TRAIN.EPOCHS 1 TRAIN.BATCH_SIZE 8 TEST.BATCH_SIZE 8".split()
)
if code:
    sys.exit(code)

model = nas.load(folder / "run")
print(model, model.count())
image = sorted((scenes / "test").iterdir())[0]
found = model.predict(image, score=0.01)
print(f"{len(found.labels)} objects of a score over 0.01")
found.draw(folder / "found.png")

# The same backbone, with its weights, under another head.
arch, weights = folder / "run" / "arch.yaml", folder / "run" / "child" / "model.safetensors"
other = nas.build_segmenter("deeplabv3", arch, num_classes=11, weights=weights)
print(sum(p.numel() for p in other.parameters()), "parameters of a segmenter on it")
