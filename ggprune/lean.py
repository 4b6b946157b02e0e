"""Single modules of packages that import far more than is needed here.

`llama_cpp` brings chat formats and templates, `gguf` an HTTP client: half of the time in which a
short command is done.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def import_lean(name: str) -> None:
    """Have `import name.module` load that module alone; the package follows when it is used.

    Its own code runs with the first of its names that is asked for, in the same module object: who
    imports it elsewhere in this process gets all of it. A package that is missing stays missing.
    """
    spec = find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def complete(attribute: str) -> object:
        if attribute.startswith("__") and attribute != "__all__":  # asked of any module
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = complete  # type: ignore[method-assign]
    sys.modules[name] = package
