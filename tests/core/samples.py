"""What the tests of encoding and of decoding share."""

from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st

from pgbus.core.encoding import Encoder
from pgbus.model.event import Event

NEW_ID = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
GIVEN_ID = UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
NOW = "2026-01-31T12:00:00.123456Z"
MARKER = "marker-7f3a"
ENCODER = Encoder(source="shop")


class Created(Event, topic="orders.created", version=3, key="order_id"):
    order_id: str | None
    total: Decimal = Decimal(0)
    note: str | None = None
    weight: float | None = None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["\\u0000", "null", "NaN", "1e400,", "[[", '"', "\\"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
