"""Tokens that come one by one, as pieces of text: against decoding all of them at once."""

import pytest

from rcjax.serving.text_pieces import TextPieces


def decode_bytes(token_ids) -> str:
    """Tokens that are bytes of UTF-8; 0 is a control token."""
    return bytes(one for one in token_ids if one).decode(errors="replace")


@pytest.mark.parametrize("text", ["abc", "Café", "茶🍵é", ""])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pieces_have_whole_characters_and_spell_the_whole_text(text, size):
    token_ids = list(text.encode())
    pieces = TextPieces(decode_bytes)
    found = [pieces.push(token_ids[at : at + size]) for at in range(0, len(token_ids), size)]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found)
    assert "".join(found) + pieces.rest() == text


def test_a_character_that_is_never_whole_comes_at_the_end():
    pieces = TextPieces(decode_bytes)
    assert [pieces.push([token]) for token in (ord("a"), *"é".encode()[:1], 0)] == ["a", "", ""]
    assert pieces.rest() == "\N{REPLACEMENT CHARACTER}"
    assert pieces.rest() == ""


def test_a_space_that_a_decoder_writes_only_between_tokens_is_kept():
    """As decoders in the manner of SentencePiece do."""
    words = ["red", "mug", "oak"]
    pieces = TextPieces(lambda ids: " ".join(words[one] for one in ids))
    assert [pieces.push([one]) for one in (0, 1, 2, 0)] == ["red", " mug", " oak", " red"]


def test_many_tokens_take_time_in_proportion():
    """Only the last piece's tokens are decoded again, not all of them."""
    decoded = 0

    def decode(token_ids) -> str:
        nonlocal decoded
        decoded += len(token_ids)
        return decode_bytes(token_ids)

    pieces = TextPieces(decode)
    assert "".join(pieces.push([97]) for _ in range(1000)) == "a" * 1000
    assert decoded <= 4 * 1000
