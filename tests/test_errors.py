"""What all messages share."""

from __future__ import annotations

import pytest

from mobile_cv_nas.errors import decimal


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *((8, 2, "8.00"), (1234.5, 2, "1,234.50"), (1, 2, "1.00"), (0.3, 2, "0.300"), (0.1, 2, "0.100"), (0.0452, 2, "0.0452")),
        *((-0.0452, 2, "-0.0452"), (0, 2, "0.00"), (0.5, 4, "0.5000"), (2.5, 1, "2.5")),
    ],
)
def test_small_measures_keep_three_digits(value: float, digits: int, text: str) -> None:
    assert decimal(value, digits) == text
