"""Drafts of targets, so that nobody has to write them: how to build a region and which inputs it takes.

Everything is read off the code; what the code does not tell is a ``?`` for the user to fill in.
"""
