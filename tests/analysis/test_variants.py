"""Forms in which models keep and pass values: the marked lines of whole files, and no others, are reported.

``values.py``: dataclasses, named tuples, typed dicts, partial functions, containers of modules, ``match``,
``:=``, comprehensions, generators, properties, einops, hooks, functions inside and in other files.
``places.py``: indices and sizes, training steps, decoding loops, host state, what is made on the host.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from refactor.analysis import Project
from tests.analysis.test_hazards import facts_of, marked, reported

FOLDER = Path(__file__).parents[1] / "data" / "variants"


@pytest.mark.parametrize("name", ["values.py", "places.py"])
def test_the_marked_lines_and_no_others_are_hazards(name: str) -> None:
    facts = facts_of(FOLDER, Project(FOLDER), name)
    assert reported(facts) == marked((FOLDER / name).read_text())


def test_hazards_of_helpers_are_found_from_the_models_that_call_them() -> None:
    facts = facts_of(FOLDER, Project(FOLDER), "values.py")
    assert facts is not None
    found = {other.source.path.name: reported(other) for other in facts.foreign}
    assert found == {"helpers.py": marked((FOLDER / "helpers.py").read_text())}
