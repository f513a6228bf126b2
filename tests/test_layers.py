"""The tree is the diagram: imports point one way (DESIGN section 1)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "daag_jax"
# each layer may import those before it, and itself; siblings of one layer do not import each other
LAYERS = (
    {"types", "names", "rows", "assets"},
    {"diffusion", "networks", "envs", "data"},
    {"editing", "algorithms"},
    {"training"},
    {"evaluation"},
    {"agent"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str) -> set[str]:
    """Parts of daag_jax that a module names in any import, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction; write daag_jax.PART"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("daag_jax.")}


def is_allowed(part: str, imported: str) -> bool:
    return part == imported or RANK[imported] < RANK[part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert part in RANK, f"{part} has no place in DESIGN section 1; add it to LAYERS"
    wrong = {i for i in imports_of(path.read_text()) if i in RANK and not is_allowed(part, i)}
    assert not wrong, f"{part} may not import {', '.join(sorted(wrong))}"


def test_diffusion_knows_no_networks():
    for path in (PACKAGE / "diffusion").glob("*.py"):
        assert "flax" not in path.read_text(), f"{path.name} takes a function, never a module"


def test_a_wrong_import_would_be_seen():
    source = "def f():\n    from daag_jax.agent.daag import run_daag\n"
    assert imports_of(source) == {"agent"}
    assert not is_allowed("training", "agent") and is_allowed("agent", "training")
    assert not is_allowed("diffusion", "networks")
