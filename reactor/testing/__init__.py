"""For tests, yours and ours: what a protocol may rely on, checked while it runs."""

from reactor.testing.grammar import Grammar

__all__ = ["Grammar"]
