"""The keys of a configuration, and how files and command lines set them."""

from .files import ConfigError, flatten
from .keys import get_cfg
from .load import dump_config, load_config
from .validate import validate

__all__ = ["ConfigError", "dump_config", "flatten", "get_cfg", "load_config", "validate"]
