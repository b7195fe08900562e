"""Reading and writing networks: one file a format."""

from fastnn.io.native import load, save

__all__ = ["load", "save"]
