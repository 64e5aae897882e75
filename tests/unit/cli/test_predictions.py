from __future__ import annotations

import orjson
from support.scoring import predictions

from streamsvc.cli.predictions import _line
from streamsvc.scoring.records import prediction_ids, prediction_records


def test_a_prediction_is_one_line():
    p = predictions(1, fallback=["in-process"])
    (record,) = prediction_records(p, prediction_ids(p)).to_bytes_list()
    line = _line(record).plain
    assert line == "1970-01-01 00:00:01  0.0000 no   card=c shop=0  m v3  fallback in-process"


def test_what_is_no_prediction_is_shown_as_it_is():
    for value in (b"\xff{", b"[]", orjson.dumps({"score": 1})):
        assert _line(value).plain == value.decode(errors="replace")
