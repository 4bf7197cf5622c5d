"""Entry points for torch.hub: `torch.hub.load(REPO, "fbnetv2_f4", pretrained=True)`.

Every network of the zoo under its name in lower case, dots as underscores; the keyword arguments are those of
`mobile_cv_nas.fbnet_builder`, which is an entry point too: `num_classes` and `in_channels` are those of the weights unless given.
"""

import functools
import os

import mobile_cv_nas

try:
    import mobile_cv_nas.model_zoo
except ModuleNotFoundError:  # torch.hub installs nothing, and in a checkout the zoo's folder stands beside the package
    mobile_cv_nas.__path__.append(os.path.dirname(os.path.abspath(__file__)))

from mobile_cv_nas.model_zoo import fbnet_builder, list_models

dependencies = ["torch", "fvcore", "iopath", "safetensors", "yacs", "yaml"]

for _name in list_models():
    _entry = functools.partial(fbnet_builder, _name)
    functools.update_wrapper(_entry, fbnet_builder)
    _entry.__doc__ = f"{_name}; arguments as of fbnet_builder after the first."
    globals()[_name.lower().replace(".", "_")] = _entry
