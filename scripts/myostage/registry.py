"""Records found by listing a package: adding a file adds a record, and no list is edited.

Modules are imported by name, so that the code of a job holds no record that it does not ask for; what asks
for one counts its file (:meth:`Registry.file`) beside the script's.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The records of ``package`` by the names of its modules, each the module's ``attribute``."""

    package: str
    attribute: str

    def names(self) -> list[str]:
        """The names of all records, in alphabetical order."""
        return sorted(module.name for module in pkgutil.iter_modules(self._module().__path__))

    def __getitem__(self, name: str) -> T:
        """The record of one module; ModuleNotFoundError where there is none of that name."""
        record: T = getattr(self._module(name), self.attribute)
        return record

    def file(self, name: str) -> Path:
        """The file that declares a record, below the folder of the library."""
        return Path(*self.package.split(".")[1:], f"{name}.py")

    def _module(self, name: str = "") -> Any:
        return importlib.import_module(f"{self.package}.{name}" if name else self.package)
