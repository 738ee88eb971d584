"""Write monitoring/grafana/dashboards/*.json from dashboards.yaml beside them.

`--check` only says whether they are current. Panels flow from left to right, a row of Grafana's 24
columns after the other; whatever all panels have in common is said here.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

GRAFANA = Path(__file__).resolve().parent.parent / "monitoring" / "grafana"
SOURCE = GRAFANA / "dashboards.yaml"
FOLDER = GRAFANA / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "pronk-prometheus"}
COLUMNS = 24
SCHEMA_VERSION = 39
"""Of Grafana 11.2."""


def pages() -> dict[Path, str]:
    """Every dashboard's file and what it holds."""
    described = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return {
        FOLDER / f"{name}.json": json.dumps(dashboard(name, one), indent=2, ensure_ascii=False)
        + "\n"
        for name, one in described.items()
    }


def dashboard(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """A dashboard as Grafana has it."""
    return {
        "uid": f"pronk-{name}",
        "title": described["title"],
        "description": described["description"],
        "tags": ["pronk"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "pronk",
                "type": "dashboards",
                "tags": ["pronk"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_policies()] if "$policy" in str(described) else []},
        "panels": list(_panels(described["panels"])),
    }


def _policies() -> dict[str, Any]:
    query = "label_values(pronk_updates_total, policy)"
    return {
        "name": "policy",
        "label": "Policy",
        "description": "Show these policies only.",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "policies"},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(described: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    x = y = height = 0
    for number, one in enumerate(described, 1):
        wide, high = (COLUMNS, 1) if "row" in one else one["size"]
        if x + wide > COLUMNS:
            x, y = 0, y + height
        place = {"x": x, "y": y, "w": wide, "h": high}
        x, height = x + wide, high
        if "row" in one:
            yield {
                "id": number,
                "type": "row",
                "title": one["row"],
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        else:
            yield _panel(number, one, place)


def _panel(number: int, one: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    kind = one.get("kind", "timeseries")
    return {
        "id": number,
        "type": kind,
        "title": one["title"],
        "description": " ".join(one["description"].split()),
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(kind, one), "overrides": []},
        "options": _options(kind, one),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": " ".join(expr.split()),
                "legendFormat": legend,
                "instant": kind == "stat",
                "range": kind != "stat",
            }
            for index, (legend, expr) in enumerate(one["queries"].items())
        ],
    }


def _defaults(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    steps = [{"color": one.get("colour", "green"), "value": None}]
    steps += [{"color": c, "value": value} for value, c in one.get("thresholds", {}).items()]
    defaults: dict[str, Any] = {
        "unit": one["unit"],
        "noValue": one.get("no_value", "–"),
        "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    defaults |= {key: one[key] for key in ("min", "max", "decimals") if key in one}
    if "words" in one:
        words = {
            str(value): {"text": text, "color": colour, "index": index}
            for index, (value, (text, colour)) in enumerate(one["words"].items())
        }
        defaults["mappings"] = [{"type": "value", "options": words}]
    if kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 2,
            "fillOpacity": 10,
            "showPoints": "never",
            "spanNulls": False,
            "thresholdsStyle": {"mode": "dashed" if "thresholds" in one else "off"},
        }
    return defaults


def _options(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    if kind == "stat":
        return {
            "colorMode": "background",
            "graphMode": "none",
            "textMode": "auto",  # names where there is more than one value
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if kind == "state-timeline":
        return {"showValue": "auto", "mergeValues": True, "rowHeight": 0.9, "legend": legend}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def main() -> int:
    """Write the dashboards, or with `--check` compare them; 1 when one is not current."""
    stale = 0
    for path, text in pages().items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not current: run scripts/generate_dashboards.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
