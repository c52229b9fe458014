"""Prices, read as a person would read them, or not at all."""

import math
import re
from decimal import Decimal

_MAX_PRICE = 1e12
_MAX_TEXT_LEN = 80
_NO_PRICE = {"", "none", "null", "-", "—", "–", "n/a"}
_CODES = "USD|EUR|GBP|JPY|CNY|INR|CAD|AUD|NZD|CHF|SEK|NOK|DKK|PLN|CZK|HUF|TRY|BRL|MXN|ZAR|SGD|HKD|KRW|THB"  # ISO 4217
# not "¢": "99¢" is not 99
_SYMBOLS = "$€£¥￥₹₩₽₺₫₴₪₱฿₦₡₲₵₸₼₾₨"
# "$", "US$", "US $", "CA$", "€", "EUR", "Rs."
_SIGN = rf"(?:(?:[A-Z]{{1,3}} ?)?[{_SYMBOLS}]|{_CODES}|Rs\.?)"
_AMOUNT = r"[0-9](?:[0-9.,'’ ]*[0-9])?"
_PRICE = re.compile(rf"(?:{_SIGN} ?)?({_AMOUNT})(?: ?{_SIGN})?")
_HAS_SIGN = re.compile(_SIGN)
# beside these, "1.234" is a thousand; beside others, or alone, it might be decimals too
_DOT_GROUPS_SIGN = re.compile(r"€|EUR|₺|TRY|R\$|BRL")
_RANGE = re.compile(r"(?P<low>.+?)(?: +(?:[-–—~]|to) +|[–—~]|(?P<tight>-))(?P<high>.+)")
_NEGATIVE = re.compile(rf"(?:{_SIGN} ?)?[-−–] ?(?:{_SIGN} ?)?[0-9]")
# "1.234.567" and "1 234", or as in India "1,23,456"
_THOUSANDS = re.compile(
    r"[1-9][0-9]{0,2}(?P<mark>[.,'’ ])[0-9]{3}(?:(?P=mark)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
)
_DECIMALS = re.compile(r"(?P<whole>.*?[0-9])(?P<mark>[.,])(?P<cents>[0-9]{1,2})")
_AMBIGUOUS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


class UnreadPriceError(ValueError):
    """A value that is there, but is no price that has one reading."""


def read_price(value: object) -> float | None:
    """The price; None where there is none, `UnreadPriceError` where a value is not clear.

    Of a range it is the lower end. `docs/catalogue.md` has the rules for separators.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnreadPriceError("not a number or text")
    try:
        return _plausible(float(value))
    except (OverflowError, ValueError) as error:  # an int beyond 1e308, a signalling NaN of Decimal
        raise UnreadPriceError("not a finite number") from error


def _of_text(text: str) -> float | None:
    if len(text) > _MAX_TEXT_LEN:
        raise UnreadPriceError("too long for a price")
    # not NFKC, which makes 1299 of "12⁹⁹"
    text = re.sub(r"\s", " ", text.translate(_FULL_WIDTH)).strip()
    if text.lower() in _NO_PRICE:
        return None
    if text.lower().startswith("from "):
        text = text[len("from ") :].strip()
    if _NEGATIVE.match(text):
        raise UnreadPriceError("negative")
    has_dot_groups = _DOT_GROUPS_SIGN.search(text) is not None
    if _PRICE.fullmatch(text):
        return _of_amount(text, has_dot_groups)
    span = _RANGE.fullmatch(text)
    if span is None or (span["tight"] and not _is_tight_range(span)):
        raise UnreadPriceError("not a price")
    low, high = _of_amount(span["low"], has_dot_groups), _of_amount(span["high"], has_dot_groups)
    if low > high:
        raise UnreadPriceError("not from low to high")
    return low


def _is_tight_range(span: re.Match[str]) -> bool:
    """Whether a hyphen without blanks stands between prices: "12-15" may be a date, "$12-$15" is none."""
    has_sign = _HAS_SIGN.search(span.string) is not None
    return has_sign or all(_DECIMALS.fullmatch(span[end]) for end in ("low", "high"))


def _of_amount(text: str, has_dot_groups: bool) -> float:
    match = _PRICE.fullmatch(text.strip())
    if match is None:
        raise UnreadPriceError("not a price")
    amount = match[1]
    if _AMBIGUOUS.fullmatch(amount) and not has_dot_groups:
        raise UnreadPriceError("thousands or decimals?")
    if _THOUSANDS.fullmatch(amount):
        return _plausible(float(_digits(amount)))
    if _PLAIN.fullmatch(amount):
        return _plausible(float(amount))
    parts = _DECIMALS.fullmatch(amount)
    if parts is None or not (parts["whole"].isdecimal() or _is_grouped(parts["whole"], parts["mark"])):
        raise UnreadPriceError("separators without one reading")
    return _plausible(float(f"{_digits(parts['whole'])}.{parts['cents']}"))


def _digits(amount: str) -> str:
    return re.sub("[^0-9]", "", amount)


def _is_grouped(whole: str, decimal_mark: str) -> bool:
    """Whether the digits before the decimals stand in groups, with another mark than that of the decimals."""
    return decimal_mark not in whole and _THOUSANDS.fullmatch(whole) is not None


def _plausible(price: float) -> float:
    if not math.isfinite(price):
        raise UnreadPriceError("not a finite number")
    if price < 0:
        raise UnreadPriceError("negative")
    if price > _MAX_PRICE:
        raise UnreadPriceError(f"above {_MAX_PRICE:g}")
    return price
