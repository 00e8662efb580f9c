"""Where the calls of the openai SDK are caught."""

from __future__ import annotations

from ..policy import Provider
from .stainless import Stainless

__all__ = ["FAMILY"]

FAMILY = Stainless(Provider.OPENAI, "openai", "OpenAI, AsyncOpenAI, AzureOpenAI ...")
