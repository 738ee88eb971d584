"""What Prometheus, Alertmanager and Grafana are told is sound, and fits docker-compose.yml."""

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from prometheus_server import needs

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
RULES = yaml.safe_load((MONITORING / "prometheus/rules/pronk.yml").read_text())
PROMETHEUS = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
ALERTMANAGER = yaml.safe_load((MONITORING / "alertmanager/alertmanager.yml").read_text())
PROVISIONING = "/etc/grafana/provisioning"
"""Where Grafana looks, unless it is told otherwise."""


def seen(service: str, path: str) -> Path:
    """What of ours a service's container has at `path`."""
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("./") and Path(path).is_relative_to(target):
            return ROOT / source / Path(path).relative_to(target)
    raise AssertionError(f"{service} has nothing of ours at {path}")


def settings_of(service: str) -> Path:
    """The file that a service's command names."""
    (path,) = [
        word.removeprefix("--config.file=")
        for word in SERVICES[service]["command"]
        if word.startswith("--config.file=")
    ]
    return seen(service, path)


def listens(service: str) -> int:
    """The port in a service's container that is published."""
    (port,) = SERVICES[service]["ports"]
    return int(port.rpartition(":")[2])


def checked(*command: str) -> str:
    """What a program prints that finds nothing wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs("promtool")
def test_prometheus_reads_its_settings_and_finds_the_rules() -> None:
    said = checked("promtool", "check", "config", str(settings_of("prometheus")))
    rules = sum(len(group["rules"]) for group in RULES["groups"])
    assert f"SUCCESS: {rules} rules found" in said


@needs("amtool")
def test_amtool_finds_alertmanager_s_settings_good() -> None:
    checked("amtool", "check-config", str(settings_of("alertmanager")))


def test_prometheus_asks_and_alarms_services_that_are_there() -> None:
    (alerting,) = PROMETHEUS["alerting"]["alertmanagers"]
    (alarmed,) = alerting["static_configs"][0]["targets"]
    assert alarmed == f"alertmanager:{listens('alertmanager')}"
    for job in PROMETHEUS["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            assert found["names"] == [job["job_name"]]
            assert job["job_name"] in SERVICES


def test_inhibitions_name_alerts_that_are_there() -> None:
    alerts = {rule.get("alert") for group in RULES["groups"] for rule in group["rules"]}
    for rule in ALERTMANAGER["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert matcher.removeprefix("alertname = ") in alerts


def test_grafana_finds_the_dashboards_and_prometheus() -> None:
    folder = seen("grafana", PROVISIONING)
    (provider,) = yaml.safe_load((folder / "dashboards/pronk.yml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert seen("grafana", provider["options"]["path"]) == MONITORING / "grafana/dashboards"
    assert seen("grafana", home) == MONITORING / "grafana/dashboards/overview.json"
    assert urlsplit(source["url"])[:2] == ("http", f"prometheus:{listens('prometheus')}")
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
