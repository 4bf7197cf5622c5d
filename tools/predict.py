"""Says what is on images: their classes, objects with their boxes, or the class of each pixel.

python tools/predict.py cat.jpg --model FBNetV2_F4
python tools/predict.py photos/ "more/*.png" --model output/digits --json
python tools/predict.py scene.png --model output/detect --score 0.3 --output found.png

A model is a result folder, its .safetensors file, or a name of the zoo; the file knows its task. Drawings go to --output: a PNG
for one image, a folder for several."""

import sys

from mobile_cv_nas.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
