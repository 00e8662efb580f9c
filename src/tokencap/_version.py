"""The version, said once; packaging reads it from here."""

__version__ = "0.3.0"
