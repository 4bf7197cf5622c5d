"""What a target may be written as."""

import pytest

from mobile_cv_nas.errors import InputError
from mobile_cv_nas.search.goal import parse_target


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("60e6 macs", (60e6, "macs")),
        ("60M", (60e6, "macs")),
        ("400k macs", (400e3, "macs")),
        ("4M params", (4e6, "params")),
        ("4e6 parameters", (4e6, "params")),
        (1.5e6, (1.5e6, "macs")),
        ("2.5 G", (2.5e9, "macs")),
    ],
)
def test_targets(text, found):
    assert parse_target(text) == found


@pytest.mark.parametrize("text", ["", "fast", "60e6 miles", "-3", "0", "1M M"])
def test_bad_targets(text):
    with pytest.raises(InputError, match="target"):
        parse_target(text)
