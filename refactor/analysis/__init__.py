"""The abstract interpreter over ``ast``: what every expression of a region is, and what happens there.

>>> project = Project(root, src=("src",))
>>> facts = analyze(load(path), project)
"""

from __future__ import annotations

from refactor.analysis.analyze import analyze
from refactor.analysis.project import Project

__all__ = ["Project", "analyze"]
