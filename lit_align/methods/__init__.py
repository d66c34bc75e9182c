"""The methods, one file each. Importing this package imports them all, so that the CLI knows their short names."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
