"""How a value went over a sustained run."""

import pytest
from benchmarks.sustained import course


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([float(n) for n in range(9)], "0, 2, 4, 6, 8"),
        (
            [7_130.0, 48_704.0, 48_704.0, 48_704.0, 48_708.2],
            "7,130, 48,704, 48,704, 48,704, 48,708",
        ),
        ([3.0], "3, 3, 3, 3, 3"),
    ],
)
def test_a_course_begins_at_the_first_value_and_ends_at_the_last(
    values: list[float], shown: str
) -> None:
    assert course(values) == f"at first and by quarters: {shown}"
