"""What differs from cluster to cluster: account, partitions, kind of GPU, limits.

It is read whenever the Snakefile is, so nothing here imports more than yaml and pydantic.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, ValidationError

from myostage.errors import UserError
from myostage.schema import Section, key, nearest

SITE_FILE = "profiles/slurm/site.yaml"
SITE_VARIABLE = "MYOSTAGE_SITE"

# no blanks and no quotes: they go into the command line of sbatch
SlurmName = Annotated[str, Field(pattern=r"^[^\s'\"]+$")]


class Site(Section):
    """What jobs ask a cluster for, and what they may ask for at most."""

    account: SlurmName | None = key(None, "account that is charged; none: your default account")
    partition: SlurmName | None = key(None, "partition of jobs without a GPU; none: SLURM's default")
    gpu_partition: SlurmName | None = key(None, "partition of jobs with a GPU; none: SLURM's default")
    gpu_model: str | None = key(
        None, "kind of GPU, as SLURM calls it; none: any", pattern=r"^[A-Za-z0-9_.]+$"
    )
    qos: SlurmName | None = key(None, "quality of service; none: your default")
    max_mem_mb: PositiveInt = key(64000, "most memory that a job may ask for, MB")
    max_runtime: PositiveInt = key(1440, "longest time that a job may ask for, minutes")

    def resources(self, gpu: bool) -> dict[str, str]:
        """Resources of a job as SLURM's executor names them; what is none is left out."""
        named = {
            "slurm_account": self.account,
            "slurm_partition": self.gpu_partition if gpu else self.partition,
            "qos": self.qos,
            "gpu_model": self.gpu_model if gpu else None,
        }
        return {name: value for name, value in named.items() if value is not None}


def site_files(root: Path) -> list[Path]:
    """The files that are read, each overriding those before it: the repository's, the user's, the variable's.

    Only what ``MYOSTAGE_SITE`` names must exist.
    """
    files = [root / SITE_FILE, _config_home() / "myostage" / "site.yaml"]
    named = os.environ.get(SITE_VARIABLE)
    if named:
        file = Path(os.path.expandvars(named)).expanduser()
        if not file.is_file():
            raise UserError(f"{SITE_VARIABLE} names {named}, which is no file; correct or unset it")
        files.append(file)
    return [file for file in files if file.is_file()]


def read_site(root: Path) -> Site:
    """The site of the repository at ``root``, overridden key by key.

    Raises
    ------
    UserError
        Bad YAML, an unknown key, a value of the wrong type; the file is named.
    """
    values: dict[str, Any] = {}
    for file in site_files(root):
        values |= _read(file)
    return Site(**values)


def _config_home() -> Path:
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    # the standard has relative ones ignored
    return given if given.is_absolute() else Path(os.path.expanduser("~/.config"))  # noqa: PTH111 (no home: no error)


def _read(file: Path) -> dict[str, Any]:
    """The keys of one file, checked by themselves so that the message names the right file."""
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not a readable YAML file ({reason}); correct it there") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{file}: no keys in it; write `key: value` lines, {SITE_FILE} explains the keys")
    try:
        Site.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{file}: " + "; ".join(_problem(details) for details in error.errors())) from None
    return data


def _problem(details: Mapping[str, Any]) -> str:
    """One problem that pydantic found, in words."""
    name = ".".join(str(part) for part in details["loc"] if part != "[key]")
    if details["type"] in ("extra_forbidden", "invalid_key"):
        hint = nearest(name, Site.model_fields) or f"; the keys are {', '.join(Site.model_fields)}"
        return f"unknown key {name}{hint}"
    message: str = details["msg"].removeprefix("Value error, ")
    if not name:
        return message
    message = message[0].lower() + message[1:]
    if details["type"] == "string_type" and isinstance(details["input"], int | float):
        message += ", put it in quotes"
    return f"{name} is {details['input']!r}: {message}; correct it"
