"""What a running search shows: a progress bar, metrics.jsonl and TensorBoard scalars."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..engine.runtime import MetricsLog, epoch_line, progress_bar

if TYPE_CHECKING:
    from .loop import Searcher

_EVERY = 5  # steps between updates of the numbers beside the bar


class Monitor:
    """Shows a search on the screen and writes its records. On a terminal a bar, elsewhere a line an epoch.

    Args:
        searcher: what is shown.
        log: takes the records.
    """

    def __init__(self, searcher: Searcher, log: MetricsLog):
        self.log = log
        self._bar = progress_bar(searcher.runtime, searcher.total_steps, searcher.steps_done, "search")
        self._costs, self._entropy = searcher.costs(), searcher.entropy()
        self._begin, self._first = time.monotonic(), searcher.steps_done

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def step(self, searcher: Searcher) -> None:
        """After every step."""
        if self._bar.disable:
            return
        if searcher.done % _EVERY == 0:
            if searcher.phase:  # in the other phase neither can change
                self._costs, self._entropy = searcher.costs(), searcher.entropy()
            self._bar.set_postfix_str(self._state(searcher), refresh=False)
        self._bar.update()

    def _state(self, searcher: Searcher) -> str:
        totals = searcher.totals[searcher.phase_name]
        costs = [totals.mean_cost or 0.0, self._costs["cost_expected"], self._costs["cost_argmax"]]
        return (
            f"{searcher.phase_name} loss {totals.mean_loss or 0:.3f} acc {totals.accuracy or 0:.3f} "
            f"tau {searcher.tau:.2f} {searcher.cfg.SEARCH.OBJECTIVE} {'/'.join(short(cost) for cost in costs)} "
            f"H {self._entropy:.2f}"
        )

    def epoch(self, searcher: Searcher, record: dict[str, Any]) -> None:
        """After every epoch: its record."""
        self.log.write(searcher.steps_done, **record)
        left = (time.monotonic() - self._begin) / max(1, searcher.steps_done - self._first)
        left *= searcher.total_steps - searcher.steps_done
        means = {name: (record[f"{of}_loss"], record[f"{of}_accuracy"]) for name, of in (("weights", "weight"), ("alphas", "alpha"))}
        losses = ", ".join(f"{name} {loss:.3f} ({right:.3f})" for name, (loss, right) in means.items() if loss is not None)
        costs = ", ".join(f"{name} {short(record[f'cost_{name}'] or 0)}" for name in ("sampled", "expected", "argmax"))
        epoch_line(
            searcher.runtime,
            f"epoch {record['epoch'] + 1}/{searcher.cfg.SEARCH.EPOCHS}: loss (accuracy): {losses or 'none'}; "
            f"tau {record['tau']:.2f}; {searcher.cfg.SEARCH.OBJECTIVE}: {costs}; entropy {record['entropy']:.2f}; "
            f"{left:.0f} s left",
        )


def short(value: float) -> str:
    """A number for people: 412k, 56.3M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
