"""The search spaces and recipes shipped with the library."""

from pathlib import Path


def config_path(name: str) -> Path:
    """Where a shipped file lies, for use from any folder: `config_path("spaces/fbnetv2_l.yaml")`.

    Raises FileNotFoundError, which lists the shipped files of that folder.
    """
    root = Path(__file__).parent.resolve()
    path = root / name
    if path.suffix != ".yaml" or not path.is_file() or ".." in path.parts:
        shipped = ", ".join(sorted(str(file.relative_to(root)) for file in root.rglob("*.yaml")))
        raise FileNotFoundError(f"no shipped file {name!r}; there are: {shipped}")
    return path
