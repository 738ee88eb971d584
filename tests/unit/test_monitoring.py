"""Dashboards, rules and alerts: complete, consistent with the code, and explained."""

import importlib.util
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_server import needs
from render_dashboards import dashboards, queried, shows_names

from pronk.cli.vitals import VERDICTS, bottleneck
from pronk.telemetry import metrics

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules" / "pronk.yml").read_text())
RECORDED = {r["record"]: r for g in RULES["groups"] for r in g["rules"] if "record" in r}
ALERTS = {r["alert"]: r for g in RULES["groups"] for r in g["rules"] if "alert" in r}
DASHBOARDS = dashboards()
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
JOBS = {"actor", "learner", "param-server"}
RUNNING = 'pronk_run_running{job="param-server"}'
NAME = re.compile(r"\b(?:pronk|process)[_:]\w+")
BY = re.compile(r"\bby \(([^)]*)\)")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right) \(([^)]*)\)")
ALERT_LABELS = {"alertname", "alertstate", "severity"}


def series() -> set[str]:
    """Names of every series that a process can have."""
    names = {"up", "process_start_time_seconds"}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
            names |= {family.name + end for end in ends.get(family.type, [""])}
    return (
        names
        | {family.name for family in prometheus_client.PROCESS_COLLECTOR.collect()}
        | {f"{family.name}_total" for family in prometheus_client.PROCESS_COLLECTOR.collect()}
    )


def labels_of(name: str) -> set[str]:
    """Labels of a series of ours."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            if re.fullmatch(f"{family.name}(_total|_bucket|_count|_sum)?", name):
                return {*metric._labelnames, "job", "instance", "le"}
    return {"job", "instance", "policy"}  # recorded, or of the process


def expressions() -> list[str]:
    """Every query of rules, alerts and dashboards."""
    asked = [target["expr"] for d in DASHBOARDS.values() for _, target in queried(d)]
    return asked + [rule["expr"] for rule in (*RECORDED.values(), *ALERTS.values())]


@pytest.mark.parametrize("expr", sorted(set(expressions())))
def test_queries_name_metrics_labels_and_jobs_that_are_there(expr: str) -> None:
    assert set(NAME.findall(expr)) <= series() | RECORDED.keys()
    for name, matchers in re.findall(r"(\w[\w:]*){([^}]*)}", expr):
        if name == "ALERTS":
            continue
        for label, value in re.findall(r'(\w+)[=!]~?"([^"]*)"', matchers):
            assert label in labels_of(name), f"{name} has no label {label}"
            if label == "job":
                assert set(value.split("|")) <= JOBS
    grouped = set(re.findall(r"\w+", " ".join(GROUPING.findall(expr))))
    known = {label for name in NAME.findall(expr) for label in labels_of(name)}
    made = set(re.findall(r'label_replace\(vector\(0\), "(\w+)"', expr))
    assert grouped <= known | made | ALERT_LABELS, f"nobody has a label {grouped - known}"


@pytest.mark.parametrize("panel", PANELS)
def test_a_legend_names_what_its_query_tells_apart(panel) -> None:
    """Grafana draws a line without a name for a label that is not there."""
    for target in panel["targets"]:
        told = set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
        expr = target["expr"]
        recorded = [RECORDED[name]["expr"] for name in NAME.findall(expr) if name in RECORDED]
        apart = set(re.findall(r"\w+", " ".join(BY.findall(" ".join([expr, *recorded])))))
        plain = not re.search(r"\b(sum|max|min|avg|count|group)\b", expr)
        assert told <= apart | ({"job", "instance"} if plain else set()), target["expr"]


def test_what_is_recorded_is_used() -> None:
    used = {name for expr in expressions() for name in NAME.findall(expr)}
    assert RECORDED.keys() <= used


def test_the_dashboards_are_those_of_their_source() -> None:
    spec = importlib.util.spec_from_file_location(
        "generate", ROOT / "scripts" / "generate_dashboards.py"
    )
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = {path: path.read_text() for path in (MONITORING / "grafana/dashboards").iterdir()}
    assert written == generate.pages(), "run scripts/generate_dashboards.py"


@pytest.mark.parametrize("name", ["overview", "actors", "learner", "param-server", "redis"])
def test_a_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    provided = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    (source,) = provided["datasources"]
    assert dashboard["uid"] == f"pronk-{name}"
    assert dashboard["editable"] is False
    assert dashboard["schemaVersion"] == 39
    assert (dashboard["time"]["from"], dashboard["refresh"]) == ("now-30m", "10s")
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    asked = [each for panel in panels for each in (panel, *panel.get("targets", []))]
    used = {each["datasource"]["uid"] for each in asked if "datasource" in each}
    assert used == {source["uid"]}
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    mentioned = set(re.findall(r"\$(?!__)(\w+)", str([t["expr"] for _, t in queried(dashboard)])))
    assert variables == mentioned
    covered = [cell for panel in panels for cell in cells(panel["gridPos"])]
    assert len(covered) == len(set(covered)), "panels overlap"
    assert max(x for x, _ in covered) < 24


def cells(place: dict[str, int]) -> list[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    return list(itertools.product(columns, range(place["y"], place["y"] + place["h"])))


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_headlines_of_several_values_name_them() -> None:
    """Grafana's `auto` names values where there is more than one, and `value` never does."""
    headlines = [panel for p in PANELS if (panel := p.values[0])["type"] == "stat"]
    assert {panel["options"]["textMode"] for panel in headlines} == {"auto"}
    assert [shows_names(headlines[0], values) for values in (1, 2)] == [False, True]
    assert not shows_names({"options": {"textMode": "value"}}, 2), "drawn as Grafana would"


def test_the_verdict_is_shown_in_the_words_of_the_command_line() -> None:
    shown = [
        panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        for panel, target in queried(DASHBOARDS["overview"])
        if target["expr"] == "pronk:bottleneck"
    ]
    assert len(shown) == 2
    for words in shown:
        assert [words[str(number)]["text"] for number in range(4)] == list(VERDICTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert "\n" not in notes["summary"]
    assert "First" in notes["description"]
    page, _, anchor = notes["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == name.lower()
    assert name in headings


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_firing_and_not_firing(name: str) -> None:
    tests = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text())["tests"]
    asked = [
        bool(case.get("exp_samples"))
        for test in tests
        for case in test["promql_expr_test"]
        if f'"{name}"' in case["expr"]
    ]
    assert set(asked) == {True, False}


@needs("promtool")
def test_promtool_finds_rules_and_their_tests_good() -> None:
    rules, tests = PROMETHEUS / "rules" / "pronk.yml", PROMETHEUS / "tests" / "alerts.yml"
    checked = promtool("check", "rules", str(rules))
    assert f"SUCCESS: {len(RECORDED) + len(ALERTS)} rules found" in checked
    promtool("test", "rules", str(tests))


@needs("promtool")
def test_the_rule_s_verdict_is_that_of_the_command_line(tmp_path: Path) -> None:
    """For shares on both sides of every threshold, one pair after another."""
    pairs = list(itertools.product((0, 5, 9, 11, 25, 39, 41, 50, 90), repeat=2))
    minutes = 2
    series = {
        "pronk_learner_waiting_seconds_total": [waiting for waiting, _ in pairs],
        "pronk_learner_busy_seconds_total": [100 - waiting for waiting, _ in pairs],
        "pronk_actor_blocked_seconds_total": [blocked for _, blocked in pairs],
        "pronk_actor_busy_seconds_total": [100 - blocked for _, blocked in pairs],
    }
    samples = 6 * minutes
    test = {
        "interval": "10s",
        "input_series": [
            {"series": RUNNING, "values": f"1x{len(pairs) * samples}"},
            *({"series": name, "values": rising(by, samples)} for name, by in series.items()),
        ],
        "promql_expr_test": [
            {
                "expr": "pronk:bottleneck",
                "eval_time": f"{minutes * number}m",
                "exp_samples": [
                    {
                        "labels": "pronk:bottleneck",
                        "value": VERDICTS.index(bottleneck(waiting / 100, blocked / 100)),
                    }
                ],
            }
            for number, (waiting, blocked) in enumerate(pairs, 1)
        ],
    }
    promtool_finds(test, tmp_path)


@needs("promtool")
def test_targets_up_are_none_where_a_job_is_gone(tmp_path: Path) -> None:
    """With targets found by DNS, those of what is gone are forgotten, and so may be a job."""
    (shown,) = [p for param in PANELS if (p := param.values[0])["title"] == "Targets up"]
    expected = {"actors": 2, "learners": 0, "servers": 0}
    test = {
        "interval": "1m",
        "input_series": [
            {"series": 'up{job="actor", instance="a"}', "values": "1x9"},
            {"series": 'up{job="actor", instance="b"}', "values": "1x9"},
            {"series": 'up{job="actor", instance="c"}', "values": "0x9"},
            {"series": 'up{job="learner", instance="d"}', "values": "1x2 stale"},
        ],
        "promql_expr_test": [
            {
                "expr": target["expr"],
                "eval_time": "9m",
                "exp_samples": [{"labels": "{}", "value": expected.pop(target["legendFormat"])}],
            }
            for target in shown["targets"]
        ],
    }
    assert not expected
    promtool_finds(test, tmp_path)


@needs("promtool")
@pytest.mark.parametrize(("severity", "count"), [("info", 0), ("warning", 1), ("critical", 1)])
def test_what_is_only_for_information_is_no_alert_of_the_overview(
    tmp_path: Path, severity: str, count: int
) -> None:
    (shown,) = [p for param in PANELS if (p := param.values[0])["title"] == "Alerts"]
    (target,) = shown["targets"]
    fires = f'ALERTS{{alertstate="firing", alertname="PronkSome", severity="{severity}"}}'
    test = {
        "interval": "1m",
        "input_series": [
            {"series": fires, "values": "1x9"},
            {"series": 'up{job="param-server"}', "values": "1x9"},
        ],
        "promql_expr_test": [
            {
                "expr": target["expr"],
                "eval_time": "5m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
        ],
    }
    promtool_finds(test, tmp_path)


@needs("promtool")
@pytest.mark.parametrize("title", ["Last update", "Last checkpoint"])
def test_ages_are_told_of_policies_that_are_trained(tmp_path: Path, title: str) -> None:
    """Red for ever after the end otherwise."""
    asked = {t["expr"] for d in DASHBOARDS.values() for p, t in queried(d) if p["title"] == title}
    of = {"Last update": "update", "Last checkpoint": "checkpoint"}[title]
    expr = [expr.replace('{policy=~"$policy"}', "") for expr in asked]
    assert expr
    test = {
        "interval": "1m",
        "input_series": [
            {"series": RUNNING, "values": "1x9 0x9"},
            {"series": 'pronk_buffer_length{policy="red"}', "values": "8x19"},
            {"series": 'pronk_buffer_length{policy="blue"}', "values": "8x19"},
            {
                "series": 'pronk_policy_finished{job="param-server", policy="blue"}',
                "values": "1x19",
            },
            {"series": f'pronk_last_{of}_timestamp_seconds{{policy="red"}}', "values": "0x19"},
            {"series": f'pronk_last_{of}_timestamp_seconds{{policy="blue"}}', "values": "0x19"},
        ],
        "promql_expr_test": [
            case
            for each in expr
            for case in (
                {
                    "expr": each,
                    "eval_time": "5m",
                    "exp_samples": [{"labels": '{policy="red"}', "value": 300}],
                },
                {"expr": each, "eval_time": "15m", "exp_samples": []},
            )
        ],
    }
    promtool_finds(test, tmp_path)


def rising(slopes: list[int], samples: int) -> str:
    """A counter that rises by each slope in turn, for so many samples."""
    steps = (slope for slope in slopes for _ in range(samples))
    return " ".join(map(str, itertools.accumulate(steps, initial=0)))


def promtool_finds(test: dict[str, Any], folder: Path) -> None:
    """Run a test of promtool's with our rules."""
    settings = {
        "rule_files": [str(PROMETHEUS / "rules" / "pronk.yml")],
        "evaluation_interval": "10s",
        "tests": [test],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(settings))
    promtool("test", "rules", str(file))


def promtool(*arguments: str) -> str:
    """What promtool says, if it finds nothing wrong."""
    tool = shutil.which("promtool")
    assert tool is not None
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
