"""What `doctor` says of a service's folder, without the packages that the service needs."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from .updating import Service


def findings(service: Service) -> list[Any]:
    """Of ops/leftovers.py, each with `where`, `problem` and `mend`."""
    spec = spec_from_file_location("leftovers", service.package / "ops/leftovers.py")
    assert spec
    assert spec.loader
    module = sys.modules["leftovers"] = module_from_spec(spec)  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return list(module.leftovers())
