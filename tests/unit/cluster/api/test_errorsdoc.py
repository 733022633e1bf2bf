"""docs/errors.md is what the table of codes makes of it."""

from pathlib import Path

from lastgood.codes import CODES

from cluster.api.errorsdoc import ADVICE, render

PAGE = Path(__file__).parents[4] / "docs" / "errors.md"


def test_the_page_is_current():
    assert PAGE.read_text() == render(), "run: python -m cluster.api.errorsdoc > docs/errors.md"


def test_every_code_has_its_advice():
    assert list(ADVICE) == list(CODES)
