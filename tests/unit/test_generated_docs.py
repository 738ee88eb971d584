"""The reference pages are what the schemas say."""

import importlib.util
from pathlib import Path

from pronk.config.load import fixed_keys
from pronk.transport.settings import Settings

ROOT = Path(__file__).parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts/generate_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current():
    configuration, metrics = (ROOT / f"docs/{name}.md" for name in ("configuration", "metrics"))

    assert configuration.read_text() == generator().page(), "run `make proto`"
    assert metrics.read_text() == generator().metrics_page(), "run `make proto`"


def test_every_key_and_variable_is_explained():
    rows = [line.split("|")[1:-1] for line in generator().page().splitlines() if "| `" in line]
    cells = {row[0].strip().strip("`"): [cell.strip() for cell in row] for row in rows}

    assert fixed_keys().keys() <= cells.keys()
    assert {f"PRONK_{name.upper()}" for name in Settings.model_fields} <= cells.keys()
    assert [key for key, row in cells.items() if not all(row)] == []
    for key, free in fixed_keys().items():
        assert cells[key][4] == ("yes" if free else "no"), key
