"""The package as somebody installs it: a wheel in a fresh environment, far from any checkout, with an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ml_pipeline.settings import PROJECT_ROOT
from tests.processes import left_after

pytestmark = pytest.mark.long

PATIENCE = 600.0


class Installed:
    """An environment with the wheel, whose other packages are those of the environment that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "user"
        self.home.mkdir()
        self.home.chmod(0o711)  # PostgreSQL, where root runs the tests, is another user
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
        subprocess.run(build, cwd=PROJECT_ROOT, check=True, capture_output=True)
        (self.wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "venv", symlinks=True)
        variables = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        packages = Path(sysconfig.get_path("purelib", vars=variables))
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(folder / "venv"),
            "install",
            "--no-deps",
            "--no-compile",
        ]
        subprocess.run([*install, "--no-index", str(self.wheel)], check=True, capture_output=True)
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``ml-pipeline`` with these arguments, in an empty folder."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = kept | {"HOME": str(self.home), "ML_PIPELINE_WORKERS": "2", "COLUMNS": "200"}
        return subprocess.run(
            [str(self.folder / "venv" / "bin" / "ml-pipeline"), *arguments],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with TemporaryDirectory(prefix="ml-pipeline-wheel-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Installed(Path(folder))


def test_a_wheel_keeps_its_data_in_the_users_folder_and_finds_its_files(installed: Installed):
    shown = installed.run("doctor")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    data = installed.home / ".local" / "share" / "ml-pipeline"
    assert str(data) in shown.stdout + shown.stderr and (data / "postgres").is_dir()
    assert str(PROJECT_ROOT) not in shown.stdout + shown.stderr
    assert list((installed.folder / "venv").rglob(".local")) == []


@pytest.mark.slow
def test_a_wheel_tells_the_demos_four_stories(installed: Installed):
    shown = installed.run("demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for words in ("acme", "globex", "initech", "umbrella", "ml-pipeline up"):
        assert words in shown.stdout
    assert left_after(installed.home, 20) == {}
