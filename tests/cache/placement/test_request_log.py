"""The log of requests: bounded, ids only, and the matrix that is made of it."""

import numpy as np
import pytest

from rcjax.cache.placement import RequestLog, request_matrix
from rcjax.catalog import CatalogueError, Request


def test_it_keeps_the_last_requests():
    log = RequestLog(2)
    for ids in (["a"], ["b", "b", "a"], [], ["c"]):
        log.append(ids)
    assert list(log) == [("b", "a"), ("c",)]
    assert (len(log), log.num_dropped) == (2, 1)


def test_a_file_gives_the_same_requests(tmp_path):
    log = RequestLog()
    for ids in (["a", "ü"], ["b"]):
        log.append(ids)
    log.save(tmp_path / "log.jsonl")
    assert list(RequestLog.load(tmp_path / "log.jsonl")) == [("a", "ü"), ("b",)]
    assert list(RequestLog.load(tmp_path / "log.jsonl", 1)) == [("b",)]


def test_users_and_targets_come_back_from_a_file(tmp_path):
    log = RequestLog()
    log.append(["a", "b"], "u")
    log.append(["a"], "gone", lambda: False)
    log.append(["b"], "v")
    log.forget_user("v")
    assert log.save(tmp_path / "log.jsonl") == 3
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines == ['{"user_id": "u", "candidates": ["a", "b"]}', '{"candidates": ["a"]}', '{"candidates": ["b"]}']
    assert RequestLog.load(tmp_path / "log.jsonl").requests == log.requests
    (tmp_path / "r.jsonl").write_text('{"user_id": "u", "candidates": ["a", "b"], "target": "b"}\n')
    assert RequestLog.load(tmp_path / "r.jsonl").requests == [Request("u", ("a", "b"), "b")]
    (tmp_path / "r.jsonl").write_text('{"user_id": "u", "candidates": ["a"], "target": "b"}\n')
    with pytest.raises(CatalogueError, match=r"r\.jsonl:1: field 'target': 'b' is not among the candidates"):
        RequestLog.load(tmp_path / "r.jsonl")


def test_a_catalogues_requests_are_a_log(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"user_id": "u", "candidates": ["a", "b"], "target": "a"}\n')
    assert list(RequestLog.load(tmp_path / "r.jsonl")) == [("a", "b")]


def test_a_wrong_line_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"candidates": ["a"]}\n{"candidates": "a"}\n')
    with pytest.raises(CatalogueError, match=r"r\.jsonl:2: field 'candidates'"):
        RequestLog.load(tmp_path / "r.jsonl")


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="max_requests=0 must be at least 1"):
        RequestLog(0)


def test_the_matrix_has_a_one_where_a_request_names_an_item():
    matrix, num_skipped = request_matrix([["b", "a", "b"], ["c"]], {"a": 0, "b": 1, "c": 2})
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1, 0], [0, 0, 1]])
    assert num_skipped == 0


def test_unknown_items_are_refused_or_counted():
    requests = [["a", "x"], ["x", "y"], ["b"]]
    with pytest.raises(ValueError, match="request 1 names item 'x', which the catalogue lacks"):
        request_matrix(requests, {"a": 0, "b": 1})
    matrix, num_skipped = request_matrix(requests, {"a": 0, "b": 1}, unknown="skip")
    np.testing.assert_array_equal(matrix.toarray(), [[1, 0], [0, 1]])
    assert num_skipped == 3
    with pytest.raises(ValueError, match="unknown='ignore' must be 'refuse' or 'skip'"):
        request_matrix(requests, {}, unknown="ignore")
