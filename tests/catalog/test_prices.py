"""Prices as people and programs write them: each is read as a person would, or not at all."""

from decimal import Decimal

import pytest

from rcjax.catalog.prices import UnreadPriceError, read_price


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7.0),
        (12.5, 12.5),
        (0, 0.0),
        (Decimal("12.99"), 12.99),
        ("7", 7.0),
        ("$12.99", 12.99),
        ("  $ 12.99 ", 12.99),
        ("US$12", 12.0),
        ("12.99 USD", 12.99),
        ("EUR 5", 5.0),
        ("Rs. 500", 500.0),
        ("＄１２", 12.0),  # full width
        ("12,99", 12.99),
        ("12,9 €", 12.9),
        ("1,234", 1234.0),
        ("1,234.50", 1234.5),
        ("1.234,50", 1234.5),
        ("€1.234", 1234.0),
        ("1.234.567", 1234567.0),
        ("1 234,50", 1234.5),
        ("1\u00a0234 €", 1234.0),  # no-break space
        ("CHF 1'234.50", 1234.5),
        ("₹1,23,456.00", 123456.0),
        ("0.123", 0.123),
        ("1234.567", 1234.567),  # no thousands: four digits before
        ("12.989999771118164", 12.989999771118164),  # a program's
        ("from 3", 3.0),
        ("From $3.50", 3.5),
        ("12.99 - 15.99", 12.99),
        ("$12.99-$15.99", 12.99),
        ("12.99-15.99", 12.99),
        ("€1.234 – 2.345", 1234.0),
        ("5 to 8", 5.0),
        ("0.00", 0.0),
        *((nothing, None) for nothing in (None, "", "  ", "None", "null", "-", "—", "N/A")),
    ],
)
def test_a_clear_price_is_read(value: object, expected: float | None) -> None:
    assert read_price(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "1.234",  # a thousand in Germany, little more than one in a program's output
        "$1.234",
        "0,123",
        "1,23,45",
        "$1,234.567",
        "1.23.45",
        "12.34,50",
        "1,234,50",
        "-5",
        "$-5.00",
        "-$5",
        "−5",
        -5,
        -0.01,
        "NaN",
        "inf",
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        10**400,
        1e300,
        "9" * 30,
        "1e3",
        "1_000",
        "12⁹⁹",
        "١٢",
        "99¢",
        "free",
        "ask us",
        "12-15",  # a date?
        "2014-05-01",
        "15.99 - 12.99",
        "$12 & up",
        "3 for $5",
        "12px",
        'var aPage = {"price": 12.99}',
        ".celwidget { margin: 0 0 12px; }",
        "$12.99" + " " * 100,
        True,
        [12.99],
        {"amount": 12.99},
        b"12.99",
    ],
)
def test_any_other_value_is_no_number(value: object) -> None:
    with pytest.raises(UnreadPriceError):
        read_price(value)
