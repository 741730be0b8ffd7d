"""Rewrite PyTorch code so that its hot paths run as CUDA graphs, and prove that nothing else changed."""

__version__ = "0.1.0"
