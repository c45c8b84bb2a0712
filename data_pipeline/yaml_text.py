"""YAML that a user writes."""

from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """As `yaml.safe_load`, but a key that a mapping has twice, of which YAML's own reader takes the last, is a mistake.

    Raises:
        yaml.YAMLError: with the place.
    """
    return yaml.load(text, _Loader)  # a SafeLoader


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)
