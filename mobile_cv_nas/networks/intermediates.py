"""timm's way to a network's maps: `forward_intermediates`, and pruning to the blocks that these need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError
from .maps import FeatureInfo
from .recompute import recomputed


class Intermediates:
    """The part of a `Network` that hands out maps; positions are those of `Network.maps`, or of all blocks."""

    def forward_intermediates(
        self: Any,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> Any:
        """The maps of some blocks, and what `forward_features` gives.

        Args:
            x: (N, in_channels, H, W).
            indices: which maps, by position; an int is the last so many, None all.
            norm: has no effect: the maps are normalised, each by its block.
            stop_early: stop after the last map asked for; only together with `intermediates_only`.
            output_fmt: NCHW.
            intermediates_only: return the list of maps alone.
            extra_blocks: positions count all blocks, those of the head too, not only the ends of strides.

        Returns:
            (features, list of maps), or the list.

        Raises:
            InputError: an argument is not one of these.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt {output_fmt!r}: the maps are NCHW")
        if stop_early and not intermediates_only:
            raise InputError("stop_early: the features need all blocks; give intermediates_only=True with it")
        names = [name for name, _ in self.blocks.named_children()]
        ends = names if extra_blocks else self.maps.blocks
        wanted = [ends[i] for i in _positions(indices, len(ends))]
        last = max(names.index(name) for name in wanted)
        found: list[Tensor] = []
        for i, (name, block) in enumerate(self.blocks.named_children()):
            if stop_early and i > last:
                break
            x = block.features(x) if self.pools and name == self.last else recomputed(block, x) if self.grad_checkpointing else block(x)
            if name in wanted:
                found.append(x)
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self: Any,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
        extra_blocks: bool = False,
    ) -> list[int]:
        """Removes, in place, the blocks after the last map asked for, and the head with them.

        Args:
            indices: as of `forward_intermediates`.
            prune_norm: take the head's convolution away even where every map is kept.
            prune_head: the same, and the classifier with it.
            extra_blocks: as of `forward_intermediates`.

        Returns:
            The positions of the maps kept.
        """
        names = [name for name, _ in self.blocks.named_children()]
        ends = names if extra_blocks else self.maps.blocks
        kept = _positions(indices, len(ends))
        last = ends[max(kept)]
        if not (prune_norm or prune_head) and last in (names[-1], self.maps.blocks[-1]):
            return kept
        if self.pools and last == names[-1]:
            raise InputError(f"indices: position {max(kept)} is the ir_pool, which belongs to the head; give one before it")
        self.reset_classifier(0, "")
        self.blocks = self.blocks[: names.index(last) + 1]
        held = [i for i, name in enumerate(self.maps.blocks) if names.index(name) < len(self.blocks)]
        self._describe(FeatureInfo(*([values[i] for i in held] for values in self.maps)))
        self.num_features = self.head_hidden_size = self.arch.layers[len(self.blocks) - 1].channels[0]
        return kept


def _positions(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """In the order given. Raises InputError for one out of range."""
    if indices is None or isinstance(indices, int):
        number = count if indices is None else indices
        if isinstance(number, bool) or not 0 < number <= count:
            raise InputError(f"indices {indices!r}: there are {count} maps")
        return list(range(count - number, count))
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
            raise InputError(f"indices: {index!r} is out of range: there are {count} maps")
    if not indices:
        raise InputError("indices: give at least one")
    return [index % count for index in indices]
