"""Results as people and programs read them: tables and JSON. Nothing is computed here but sums."""

from __future__ import annotations

from .cards import gpus_json, gpus_text
from .describe import model_json, model_text
from .plans import plan_json, plan_text

__all__ = ["gpus_json", "gpus_text", "model_json", "model_text", "plan_json", "plan_text"]
