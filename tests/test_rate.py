"""How fast jobs end, as `queue` tells it."""

import pytest

from greenscale_worker.queues.rate import rate_of


@pytest.mark.parametrize(
    ("ages", "rate"),
    [
        ([], 0.0),
        ([1.0], 0.0),
        ([1.0, 20.0], 0.1),
        ([61.0, 62.0], 0.0),
        ([number / 10 for number in range(100)] + [59.0], 100 / 9.9),
        ([0.0, 0.001], 2.0),
    ],
)
def test_a_rate_is_that_of_late(ages: list[float], rate: float) -> None:
    assert rate_of(ages) == pytest.approx(rate)
