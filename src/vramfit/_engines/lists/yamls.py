"""Read YAML as plain mappings, lists and words, in bounds: what a file of settings needs, and nothing that can grow.

Scalars stay the words that were written: `1:30`, `on` and `010` mean what they say, whatever YAML makes of them.
"""

from __future__ import annotations

from typing import Any, Final

from ..._base.errors import SettingsError, shown

__all__ = ["plain"]

MAX_DEPTH: Final = 12  # of lists in mappings in lists
MAX_NODES: Final = 10_000  # which PyYAML reads in half a second


def plain(text: str, source: str) -> Any:
    """Read one document as dicts, lists, strings and None.

    Raises `SettingsError` for what is no YAML, for aliases, anchors and tags, a key that comes twice, and deep nests.
    """
    import yaml

    try:
        return _plain(yaml.compose(text, Loader=_loader(source)), source)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise SettingsError(f"{source}: {line}not YAML: {e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise SettingsError(f"{source}: not YAML: {str(e).splitlines()[0]}") from None


def _loader(source: str) -> Any:
    """PyYAML's safe loader, which stops at what has no place in a list of models."""
    import yaml

    class Plain(yaml.SafeLoader):
        depth = count = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
                raise SettingsError(
                    f"{source}: line {line}: an alias or anchor ({shown(event.anchor)}); write out what it stands for"
                )
            if event.tag is not None:
                raise SettingsError(f"{source}: line {line}: a tag ({shown(event.tag)}); leave it out")
            self.depth, self.count = self.depth + 1, self.count + 1
            if self.count > MAX_NODES:
                raise SettingsError(f"{source}: more than {MAX_NODES:,} words in it; cut the list")
            if self.depth > MAX_DEPTH:
                raise SettingsError(
                    f"{source}: line {line}: nested deeper than {MAX_DEPTH}; a list of models is flat"
                )
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Plain


def _plain(node: Any, source: str) -> Any:
    if node is None or (node.id == "scalar" and node.tag == "tag:yaml.org,2002:null"):
        return None
    if node.id == "scalar":
        return node.value
    if node.id == "sequence":
        return [_plain(item, source) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        where = f"{source}: line {key.start_mark.line + 1}"
        if key.id != "scalar":
            raise SettingsError(f"{where}: a key is a word")
        if key.value in found:
            raise SettingsError(f"{where}: {shown(key.value)} is there twice; leave one out")
        found[key.value] = _plain(value, source)
    return found
