"""The abstract interpreter over ``ast``: what every expression of a region is, and what happens there.

>>> project = Project(root, src=("src",))
>>> facts = analyze(load(path), project)
"""
