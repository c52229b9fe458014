import numpy as np
import pytest

from rcjax.cache.semantic import InstanceFields


def fresh(pieces: list[str], **fields) -> list[str]:
    """The pieces, each one token, that must be computed fresh."""
    mask = InstanceFields(lambda ids: pieces[ids[0]], **fields).mask(np.arange(len(pieces), dtype=np.int32))
    return [piece for piece, is_fresh in zip(pieces, mask, strict=True) if is_fresh]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["My", " purchases", ":", "\n", "-", " Soap"], [":", "\n", "-"]),
        ([" Lamp", " (", "4", "/", "5", "):", " Good", "."], [" (", "4", "/", "5", "):", "."]),
        ([" (", "Bas", "ics", ")"], [" (", ")"]),
        # a word with a digit anywhere is fresh as a whole: letters of an id or of a model number are instance-specific
        ([" id", " B", "001", "MA", "0", "Q", "Y", "2", " soap"], [" B", "001", "MA", "0", "Q", "Y", "2"]),
        ([" X", "T", "-", "9", ",", " red"], [" X", "T", "-", "9", ","]),
        ([" half", " ½", " ٣", " x²"], [" ½", " ٣", " x²"]),
        # the word ends where whitespace begins the next token or ends this one
        (["7", " red", "\n", "red", "7", "\n\n", "blue"], ["7", "\n", "red", "7", "\n\n"]),
        (["5 ", "red"], ["5 "]),
        # dates, whole words only and in any case
        ([" on", " Mon", "day", ",", " Sept", "."], [" Mon", "day", ",", " Sept", "."]),
        ([" MARCH", " marching", " Mayor", " monkey", " thurs", " Sunday"], [" MARCH", " thurs", " Sunday"]),
        ([" Mon", "-", "Fri", " open"], [" Mon", "-", "Fri"]),
        # control tokens decode to nothing, parts of a character to the replacement character
        (["", "\ufffd", " café", " 香", "水"], ["", "\ufffd"]),
    ],
)
def test_which_tokens_are_instance_specific(pieces, expected):
    assert fresh(pieces) == expected


def test_item_ids_without_digits_are_known_by_name():
    pieces = [" bought", " lamp", "-", "blue", ",", " lamp", " (", "lamp", "-", "blue", ")"]
    assert fresh(pieces) == ["-", ",", " (", "-", ")"]
    named = fresh(pieces, item_ids=frozenset({"lamp-blue"}))
    assert named == [" lamp", "-", "blue", ",", " (", "lamp", "-", "blue", ")"]


def test_an_empty_history_has_no_fields():
    assert fresh([]) == []
