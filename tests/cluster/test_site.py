"""The site file: what overrides what, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from myostage.cluster.site import SITE_FILE, Site, read_site
from myostage.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with an empty site file, and a home of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MYOSTAGE_SITE", raising=False)
    write(tmp_path / "repository" / SITE_FILE, "")
    return tmp_path / "repository"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_the_shipped_file_has_every_key_with_its_default_and_a_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MYOSTAGE_SITE", raising=False)
    assert read_site(ROOT) == Site()
    lines = (ROOT / SITE_FILE).read_text().splitlines()
    keys = {line.split(":")[0]: number for number, line in enumerate(lines) if line and line[0] != "#"}
    assert list(keys) == list(Site.model_fields)
    assert all(lines[number - 1].startswith("# ") for number in keys.values())


def test_the_users_file_overrides_key_by_key_and_the_variables_file_wins(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / SITE_FILE, "account: lab\npartition: short\nqos: normal\nmax_runtime: 60\n")
    write(tmp_path / "xdg/myostage/site.yaml", "partition: long\nqos: null\n")
    assert read_site(root) == Site(account="lab", partition="long", qos=None, max_runtime=60)
    monkeypatch.setenv(
        "MYOSTAGE_SITE", str(write(tmp_path / "third.yaml", "partition: cpu\ngpu_model: a100\n"))
    )
    assert read_site(root) == Site(account="lab", partition="cpu", gpu_model="a100", max_runtime=60)


@pytest.mark.parametrize("home", ["", "not/absolute"])
def test_without_xdg_config_home_the_users_file_is_in_dot_config(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", home)
    write(tmp_path / "home/.config/myostage/site.yaml", "account: mine\n")
    assert read_site(root).account == "mine"


def test_no_file_at_all_means_the_defaults(root: Path) -> None:
    (root / SITE_FILE).unlink()
    assert read_site(root) == Site()


def test_resources_leave_out_what_is_not_given() -> None:
    assert Site().resources(gpu=False) == {}
    assert Site().resources(gpu=True) == {}
    site = Site(account="lab", partition="cpu", gpu_partition="gpu", gpu_model="a100", qos="high")
    assert site.resources(gpu=False) == {"slurm_account": "lab", "slurm_partition": "cpu", "qos": "high"}
    assert site.resources(gpu=True) == {
        "slurm_account": "lab",
        "slurm_partition": "gpu",
        "qos": "high",
        "gpu_model": "a100",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu_partitoin: gpu\n", "unknown key gpu_partitoin (did you mean gpu_partition?)"),
        ("12345678: gpu\n", "unknown key 12345678; the keys are account, partition"),
        ("account: 1234\n", "account is 1234: input should be a valid string, put it in quotes"),
        ("partition: [a, b]\n", "partition is ['a', 'b']: input should be a valid string"),
        ("partition: a b\n", "partition is 'a b': string should match pattern"),
        ("gpu_model: a100:1\n", "gpu_model is 'a100:1': string should match pattern"),
        ("max_mem_mb: null\n", "max_mem_mb is None: input should be a valid integer"),
        ("max_runtime: 0\n", "max_runtime is 0: input should be greater than 0"),
        ("max_runtime: 2d\n", "max_runtime is '2d': input should be a valid integer"),
        ("qos: no\n", "qos is false, where a true or false means nothing"),
        ("account: [\n", "not a readable YAML file"),
        ("- account\n", "no keys in it"),
    ],
)
def test_a_fault_is_told_in_one_sentence_that_names_the_file(
    root: Path, tmp_path: Path, text: str, said: str
) -> None:
    file = write(tmp_path / "xdg/myostage/site.yaml", text)
    with pytest.raises(UserError) as error:
        read_site(root)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_variable_must_name_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOSTAGE_SITE", "/nowhere/site.yaml")
    with pytest.raises(UserError, match=r"MYOSTAGE_SITE names /nowhere/site\.yaml, which is no file"):
        read_site(root)


def test_a_site_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Site().account = "other"
