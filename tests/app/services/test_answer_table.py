"""Answers in a table are the answers one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.domain import Prediction
from app.services.answer_table import AnswerTable

FLOATS = st.floats(0, 1, width=32)


@given(st.data(), st.integers(1, 70), st.integers(1, 4), st.booleans())
def test_each_answer_is_its_row_with_the_likeliest_class(data: st.DataObject, n_query: int, n_way: int, has_unknown: bool) -> None:
    values = data.draw(arrays(np.float32, (n_query, n_way), elements=FLOATS))
    unknown = data.draw(arrays(np.float32, n_query, elements=FLOATS)) if has_unknown else None
    names = tuple("abcd"[:n_way])
    table = AnswerTable(values, names, unknown)
    expected = [
        Prediction(names[int(np.argmax(row))], dict(zip(names, row.tolist(), strict=True)), unknown=None if unknown is None else unknown[i])
        for i, row in enumerate(values)
    ]
    assert list(table) == expected
    assert (len(table), table[-1], table[1:]) == (n_query, expected[-1], tuple(expected[1:]))


def test_values_have_no_probabilities() -> None:
    assert list(AnswerTable(np.array([[0.5, 2]], np.float32))) == [Prediction(0.5, value=[0.5, 2.0])]


def test_tables_are_equal_when_their_answers_are() -> None:
    table = AnswerTable(np.eye(2, dtype=np.float32), ("a", "b"))
    assert table == AnswerTable(np.eye(2), ("a", "b"))
    assert table != AnswerTable(np.eye(2), ("a", "c"))
    with pytest.raises(TypeError):
        hash(table)
