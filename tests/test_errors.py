"""What all messages and tables share."""

from __future__ import annotations

import pytest

from mobile_cv_nas.errors import decimal
from mobile_cv_nas.report.tables import amount, networks_table, search_table


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *((8, 2, "8.00"), (1234.5, 2, "1,234.50"), (1, 2, "1.00"), (0.3, 2, "0.300"), (0.1, 2, "0.100"), (0.0452, 2, "0.0452")),
        *((-0.0452, 2, "-0.0452"), (0, 2, "0.00"), (0.5, 4, "0.5000"), (2.5, 1, "2.5")),
    ],
)
def test_small_measures_keep_three_digits(value: float, digits: int, text: str) -> None:
    assert decimal(value, digits) == text


def test_costs_in_tables_are_neither_zero_nor_powers_of_ten() -> None:
    assert [amount(60e6, "macs"), amount(4e6, "params"), amount(256e3, "memory"), amount(0.0452, "latency"), amount(8, "latency")] == [
        *("60,000,000", "4,000,000", "256,000", "0.0452", "8.00")
    ]
    row = {"arch": "a", "macs": 5, "params": 6, "score": 0.5, "log_probability": -1.0, "latency": 0.045}
    assert "0.0452" in networks_table([row], "latency", 0.0452, 3, "out")
    result = {
        "finished": True,
        "objective": "latency",
        "target": 0.045,
        "latency": 0.0452,
        "latency_expected": 0.0453,
        "macs": 5,
        "params": 6,
    }
    result |= {"limits": {"macs": {"most": 60e6, "cost": 58e6}}, "derived_in_words": "argmax", "candidates_compared": 1}
    result |= {"candidates_within": 1, "entropy": None, "latency_measured": 0.0461}
    shown = search_table(result, "out", (1.0, 1.0))
    for text in ("60,000,000 (58,000,000)", "0.0452 (+0.4%)", "0.0450", "0.0453", "0.0461"):
        assert text in shown
