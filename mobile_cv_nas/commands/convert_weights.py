"""Writes weights of the zoo as safetensors, under this library's names, with the metadata of their card.

python tools/convert_weights.py model.pth --model FBNetV2_F4 --output FBNetV2_F4.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..cli import Parser, guarded
from ..model_zoo.convert import convert


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, converts, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="file to read: .pth as released, or .safetensors")
    parser.add_argument("--model", required=True, metavar="NAME", help="network of the zoo, or an arch file")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write; it must end in .safetensors")
    args = parser.parse_args(argv)
    return guarded(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    metadata = convert(args.weights, args.model, args.output)
    print(f"{args.output}: weights of {metadata['model']}")
