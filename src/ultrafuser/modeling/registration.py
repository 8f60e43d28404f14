"""Makes the Auto classes of Transformers know our models, without importing Transformers before anyone else does.

`import ultrafuser` must stay light (the command line imports it for `--help`), yet after it
`AutoModelForCausalLM.from_pretrained(folder)` has to work. So: where the Auto classes are loaded already, register now;
otherwise watch for their import and register right after it. Should that come in the middle of a circular import in
Transformers, the model registers when a configuration is made, which the Auto classes do before they look it up.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, NamedTuple

FUSED, SPARSE = "ultrafuser", "ultrafuser-sparse"


class _Place(NamedTuple):
    """Where the classes of a model type are: modules of `ultrafuser.modeling` and names in them."""

    config_module: str
    config_class: str
    model_module: str
    model_class: str


PLACES = {
    FUSED: _Place("configuration", "UltraFuserConfig", "model", "UltraFuserForCausalLM"),
    SPARSE: _Place("sparse_configuration", "SparseConfig", "sparse", "SparseForCausalLM"),
}


def _register_config(auto_module: ModuleType) -> None:
    for kind, place in PLACES.items():
        configuration = importlib.import_module(f"ultrafuser.modeling.{place.config_module}")
        config_class = getattr(configuration, place.config_class, None)
        if config_class is not None:  # None while that module itself imports the Auto classes: it registers at its end
            auto_module.AutoConfig.register(kind, config_class, exist_ok=True)


def _register_model(auto_module: ModuleType) -> None:
    for place in PLACES.values():
        try:
            configuration = importlib.import_module(f"ultrafuser.modeling.{place.config_module}")
            model = importlib.import_module(f"ultrafuser.modeling.{place.model_module}")
        except ImportError:
            continue  # Transformers is in the middle of importing itself: see the module's docstring
        config_class = getattr(configuration, place.config_class, None)
        model_class = getattr(model, place.model_class, None)
        if config_class is not None and model_class is not None:  # None while that module imports the Auto classes
            auto_module.AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)


REGISTRARS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _Registering(Loader):
    """Runs a module with its own loader, then calls `afterwards` on it."""

    def __init__(self, loader: Any, afterwards: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._afterwards = afterwards

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        self._loader.exec_module(module)
        self._afterwards(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Watcher(MetaPathFinder):
    """Finds the Auto modules in the ordinary way and wraps their loaders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A wrapped spec for a watched module, None for all others."""
        if fullname not in REGISTRARS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, REGISTRARS[fullname])
        return spec


def register() -> None:
    """Register with the Auto classes now, or as soon as they are imported. Calling it again changes nothing."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    for name, registrar in REGISTRARS.items():
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "__all__"):  # the last line of both: fully loaded
            registrar(module)
