"""The half of the verifier that runs in the user's interpreter.

These files are loaded by path under a private package name, so that modules of the user called ``refactor``,
``transforms`` or ``verify`` always win there. They import torch and the standard library, nothing else.
"""
