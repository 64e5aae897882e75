from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "streamsvc"
SCRIPT = """
import streamsvc.feast
import feast, typeguard

feast.Field(name=3, dtype=feast.types.Int64)  # Feast's own check would refuse it here

@typeguard.typechecked
def checked(number: int) -> None: ...

try:
    checked("one")
except typeguard.TypeCheckError:
    print("refused")
"""


def test_feasts_own_classes_are_not_instrumented_but_others_are(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # a file, because typeguard reads the source
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_every_late_import_of_feast_goes_this_way() -> None:
    plug_ins = PACKAGE / "feast"  # whose package does it for all of them
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "feast_import.py"}:
        lines = path.read_text().splitlines()
        late = any(line.startswith(" ") and _imports_feast(line) for line in lines)
        early = any(_imports_feast(line) for line in lines if not line.startswith(" "))
        assert plug_ins in path.parents or not early, path
        assert not late or "    import_feast()" in lines, path


def _imports_feast(line: str) -> bool:
    return line.split()[:2] in (["import", "feast"], ["from", "feast"]) or line.strip().startswith(
        "from feast."
    )
