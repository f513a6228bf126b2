"""Studies: rows of arms over paired seeds, and the page that is drawn again from ``results.json``."""

import json

import numpy as np

from daag_jax.evaluation.html import report_of_run
from daag_jax.evaluation.studies import cells, is_study, rows_of

SCORES = {
    "BC": {"k = 1": [0.5, 0.6, 0.7], "k = 2": [0.3, 0.2, 0.4], "k = 3": [0.1, 0.1, 0.2]},
    "DBC": {"k = 1": [0.6, 0.7, 0.8], "k = 2": [0.5, 0.4, 0.6], "k = 3": [0.1, 0.2, 0.2]},
}


def test_differences_are_paired():
    rows = rows_of("pick", SCORES, "BC")
    assert [row["arm"] for row in rows] == ["BC", "DBC"] * 3 and "difference" not in rows[0]
    np.testing.assert_allclose(rows[1]["difference"], [0.1, 0.1, 0.1])  # the same in every seed
    assert cells(rows[1])[3:] == ["70.0", "[60.0, 80.0]", "10.0", "[10.0, 10.0]"]
    walker = rows_of("walker", {"BC": {"": [4000.0, 4100.0]}}, "BC", "returns")
    assert cells(walker[0])[3] == "4050"


def test_one_seed_has_no_interval():
    row = rows_of("pick", {"BC": {"": [0.5]}, "DBC": {"": [0.7]}}, "BC")[1]
    assert row["iqm"] == [0.7, 0.7, 0.7] and "difference" not in row


def test_a_report_is_drawn_from_the_stored_results(tmp_path):
    content = {"title": "generalization", "baseline": "BC", "rows": rows_of("pick", SCORES, "BC")}
    assert is_study(content) and not is_study({"success": 1.0})
    (tmp_path / "results.json").write_text(json.dumps(content))
    page = report_of_run(tmp_path).read_text()
    assert "mean minus BC" in page and "<svg" in page
    (tmp_path / "report.html").unlink()
    assert "minus BC" in report_of_run(tmp_path).read_text()
