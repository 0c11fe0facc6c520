"""The version, alone, so that a build reads it without importing attrs."""

__version__ = "0.1.0.dev0"
