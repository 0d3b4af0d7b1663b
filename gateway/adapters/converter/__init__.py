"""Conversion of audio in child processes, where a hostile file can harm nobody."""

from gateway.adapters.converter.pool import ProcessConverter, open_converter

__all__ = ["ProcessConverter", "open_converter"]
