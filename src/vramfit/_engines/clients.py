"""Write the plan's context into the settings of clients that would otherwise choose their own."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from .._base.errors import SettingsError
from .._base.foreign import json_text, yaml_text
from .._planner.plan import Plan

__all__ = ["CLIENTS", "client_config"]

CLIENTS: Final = ("aider", "cline", "continue", "opencode", "roo")
OUTPUT_SHARE: Final = 8  # tokens kept for the answer: an eighth of the context, at most
MAX_OUTPUT: Final = 8192


def client_config(plan: Plan, client: str, *, model: str = "") -> str:
    """Write the configuration of `client` for a model served by Ollama as `model`.

    aider, Cline, Continue and Roo Code send the context with each request and so overrule the server;
    opencode does not send it, but cuts its prompts to what it believes. Raises `SettingsError` for a client
    that is not known.
    """
    if client not in CLIENTS:
        raise SettingsError(f"client {client!r}: give one of {', '.join(CLIENTS)}")
    n_ctx = plan.estimate.n_ctx_seq
    name = model or PurePath(plan.model.source).stem or "model"
    output = min(MAX_OUTPUT, n_ctx // OUTPUT_SHARE)
    return {"aider": _aider, "cline": _cline, "continue": _continue, "opencode": _opencode, "roo": _roo}[
        client
    ](name, n_ctx, output)


def _aider(name: str, n_ctx: int, output: int) -> str:
    return "\n".join([
        "# .aider.model.settings.yml",
        f"- name: {yaml_text(f'ollama_chat/{name}')}",
        "  extra_params:",
        f"    num_ctx: {n_ctx}",
    ])  # fmt: skip


def _continue(name: str, n_ctx: int, output: int) -> str:
    return "\n".join([
        "# config.yaml",
        "models:",
        f"  - name: {yaml_text(name)}",
        "    provider: ollama",
        f"    model: {yaml_text(name)}",
        "    defaultCompletionOptions:",
        f"      contextLength: {n_ctx}",
        f"      maxTokens: {output}",
    ])  # fmt: skip


def _cline(name: str, n_ctx: int, output: int) -> str:
    values = {"actModeApiProvider": "ollama", "planModeApiProvider": "ollama", "actModeOllamaModelId": name,
              "planModeOllamaModelId": name, "ollamaApiOptionsCtxNum": str(n_ctx)}  # fmt: skip
    return json_text(values)


def _roo(name: str, n_ctx: int, output: int) -> str:
    return json_text({"apiProvider": "ollama", "ollamaModelId": name, "ollamaNumCtx": n_ctx})


def _opencode(name: str, n_ctx: int, output: int) -> str:
    models = {name: {"limit": {"context": n_ctx, "output": output}}}
    options = {"baseURL": "http://localhost:11434/v1"}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Ollama", "options": options, "models": models}
    return json_text({"$schema": "https://opencode.ai/config.json", "provider": {"ollama": provider}})
