"""Fuse specialised language models token by token with a small trained gate (Ding et al., ACL 2025)."""

__version__ = "0.1.0"
