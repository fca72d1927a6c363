"""What is loaded beside a model and shares the cards with it: a draft model, a projector, adapters.

| module   | one responsibility                                                    |
|----------|-----------------------------------------------------------------------|
| `adapters` | LoRA adapters and control vectors: tensors beside a model's own      |
| `encoders` | a projector: where it is, and whether it belongs to the model          |
| `lent`   | what a draft reads of its target: embeddings, output, caches             |
| `nouns`  | a `Company`, and where each part of it is to go                       |
| `drafts` | a draft model: the settings that it runs with, and whether it belongs |
"""

from __future__ import annotations

from .nouns import Company, Draft, Encoder, alone, company_of

__all__ = ["Company", "Draft", "Encoder", "alone", "company_of"]
