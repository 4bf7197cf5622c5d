"""The keys of a configuration, and how files and command lines set them."""

from .files import ConfigError, flatten
from .keys import get_cfg
from .load import dump_config, given_keys, load_config, own_config
from .validate import validate

__all__ = ["ConfigError", "dump_config", "flatten", "get_cfg", "given_keys", "load_config", "own_config", "validate"]
