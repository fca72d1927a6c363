"""Lists of models that share the cards, as people have them → one `Listed` a model. Text alone is read here, no file.

| module     | one responsibility                                                           |
|------------|------------------------------------------------------------------------------|
| `nouns`    | `Listed`, one model and what it is told; `Listing`, all of a file            |
| `read`     | a text of any kind, told by its content → `Listing`                          |
| `commands` | shell scripts and lists of commands of llama-server                          |
| `shell`    | one line of a shell → its commands                                           |
| `yamls`    | YAML → plain mappings, lists and words, in bounds                            |
| `ours`     | the YAML that vramfit takes                                                  |
| `preset`   | the presets of llama-server's router (`--models-preset`)                     |
| `swap`     | the config.yaml of llama-swap                                                |
| `over`     | what a command line says beside a list, and which names the models get       |
"""

from __future__ import annotations

from .nouns import MAX_BYTES, Listed, Listing
from .read import read_list

__all__ = ["MAX_BYTES", "Listed", "Listing", "read_list"]
