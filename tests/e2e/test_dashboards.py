"""Every query of every panel, rule and alert gives data of a live cluster, and can be drawn.

`PICTURES=docs/images/dashboards pytest tests/e2e/test_dashboards.py` keeps what is drawn.
"""

import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_server import ROOT, RULES, SCRAPE_SECONDS, Prometheus, Watched, needs
from render_dashboards import Window, ask, dashboards, queried, render
from unroll_samples import HEADER, PLAIN, sample

from pronk import config
from pronk.cli.asking import local
from pronk.transport.buffer import BufferKeys, Producer
from pronk.transport.cluster import set_run_state
from pronk.transport.redis import connect as connect_redis
from pronk.wire.codec import encode
from pronk.wire.v1 import registry_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs("prometheus")]

CONFIG = ROOT / "configs" / "cartpole.yaml"
ENDLESS = ("stop.return_mean=null", "stop.frames=null", "learner.checkpoint_seconds=5")
QUIET_SECONDS = float(os.environ.get("PICTURE_SECONDS", "10"))
MAX_PICTURE_BYTES = 200_000
SELECTOR = re.compile(r"\b(?:pronk[_:]\w+|up\b|process_\w+)(?:{[^}]*})?")
WITHOUT_DATA = {
    'pronk_updates_skipped_total{reason="non_finite"}': "no gradient was other than finite",
    "pronk_updates_skipped_total": "no gradient was other than finite",
    "pronk_publish_failures_total": "every version was published",
    "pronk:environment_failures_last_hour": "no environment failed",
    "pronk:policies_refused_last_hour": "no version was refused",
    "pronk_checkpoint_failures_total": "every checkpoint was written",
    "pronk_checkpoints_damaged_total": "every checkpoint could be read",
    "pronk_disk_failures_total": "every file was written",
    "pronk_blobs_damaged_total": "every blob was what its hash says",
    "pronk_unrolls_claimed_total": "the learner that was killed may have held none",
    "pronk_unrolls_dropped_total": "no unroll was delivered three times",
    "pronk_unrolls_duplicate_total": "no unroll came twice",
    "pronk_episodes_lost_total": "the actor that was killed may not be missed yet",
    "pronk_episodes_censored_total": "no episode was open for an hour",
}
"""What is recorded, or asked by alerts and panels, and gives nothing in a cluster that is well."""
FALLBACK = re.compile(r" or (?:on \(\) )?(?:vector\(0\)|label_replace\(vector\(0\).*\))$")
SAID = {
    "Run": [1],
    "Alerts": [1],
    "Parameter server": [1],
    "Redis": [1],
    "Targets up": [1, 2],
    "Actors": [2],
    "Ended in the last hour": [0, 1],
}
"""What headlines say in the end."""


def spoil(watched: Watched) -> None:
    """Put an unroll with a reward that is not a number into the buffer, as an actor."""
    experiment = config.load(watched.folder / "config.yaml")
    run = watched.status()["run"]
    header = replace(HEADER, run=run, experiment_hash=config.experiment_hash(experiment))
    unroll = sample(PLAIN, rows=experiment.algorithm.unroll_length, slots=4, header=header)
    unroll.reward[0, 0] = np.nan
    buffer = experiment.buffer
    url = Path(watched.environments["actor-0"]["PRONK_REDIS_URL_FILE"]).read_text()
    with connect_redis(url.strip()) as client:
        keys = BufferKeys(run, "default")
        producer = Producer(client, keys, buffer.max_entries, buffer.max_bytes)
        assert producer.send(header.member, 1, encode(unroll), threading.Event())


def call_without_the_role(watched: Watched) -> None:
    """Try to end the run with a token that may only read."""
    server, reader = (watched.folder / "server" / "address").read_text().splitlines()
    with local(server, Path(reader)) as channel, pytest.raises(grpc.RpcError) as refused:
        set_run_state(channel, "nobody", pb.RUN_STATE_FAILED, "for fun", threading.Event())
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def provoke(watched: Watched, prometheus: Prometheus) -> None:
    """Kill an actor and the learner, and have an unroll and a call refused."""

    def learns(more: float = 0) -> bool:
        return (prometheus.value("sum(pronk_updates_total)") or 0) > more

    watched.until(learns, 300, "an update")
    watched.rest(QUIET_SECONDS)
    spoil(watched)
    call_without_the_role(watched)
    watched.until(
        lambda: prometheus.value("sum(pronk_unrolls_refused_total)"), 120, "a refused unroll"
    )
    watched.until(
        lambda: prometheus.value('ALERTS{alertname="PronkNonFiniteData", alertstate="firing"}'),
        120,
        "its alert",
    )
    assert prometheus.value("sum(pronk_unrolls_refused_total)") == 1
    watched.kill("actor-1")
    watched.rest(QUIET_SECONDS)
    watched.kill("learner")
    for job in ("actor", "learner"):
        restarted = f'sum(changes(process_start_time_seconds{{job="{job}"}}[1h])) > 0'
        watched.until(lambda query=restarted: prometheus.value(query), 300, f"a new {job}")
    watched.until(lambda: learns(20), 300, "updates after a resume")
    watched.rest(QUIET_SECONDS)


def test_every_query_gives_data_and_every_dashboard_can_be_drawn(tmp_path: Path) -> None:
    with (
        Watched(config.load(CONFIG, ENDLESS), tmp_path / "run") as watched,
        Prometheus(tmp_path / "prometheus", watched.ports) as prometheus,
    ):
        start = time.time()
        provoke(watched, prometheus)
        window = Window(start, time.time())
        assert silent_panels(prometheus, window) == []
        assert silent_rules(prometheus) == []
        assert {title: said(prometheus, title, window) for title in SAID} == SAID
        for name in ("pronk_rpc_refused_total", "pronk:rpc_refused_last_hour"):
            assert prometheus.value(f'sum({name}{{code="PERMISSION_DENIED"}})') == 1, name
        refused = prometheus.value("sum(pronk_rpc_refused_total)")
        assert refused is not None
        assert said(prometheus, "Calls refused", window)[0] >= refused, "the first of a kind, too"
        pictures(prometheus, window, Path(os.environ.get("PICTURES", tmp_path)))


def said(prometheus: Prometheus, title: str, window: Window) -> list[float]:
    """Values of the panels with words or colours of this title, each once."""
    found = {
        line.values[-1]
        for dashboard in dashboards().values()
        for panel, target in queried(dashboard)
        if panel["title"] == title and panel["type"] == "stat"
        for line in ask(prometheus, target, window)
    }
    return sorted(found)


def silent_panels(prometheus: Prometheus, window: Window) -> list[str]:
    """Queries of panels that gave nothing, whatever they fall back to."""
    silent = []
    for name, dashboard in dashboards().items():
        for panel, target in queried(dashboard):
            asked = target | {"expr": FALLBACK.sub("", target["expr"])}
            named = {each.partition("{")[0] for each in SELECTOR.findall(asked["expr"])}
            if not (ask(prometheus, asked, window) or named <= WITHOUT_DATA.keys()):
                silent.append(f"{name}: {panel['title']}: {asked['expr']}")
    return silent


def silent_rules(prometheus: Prometheus) -> list[str]:
    """Recording rules, and selectors of alerts, that gave nothing in all the time."""
    silent = []
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            prometheus.instant(rule["expr"])  # it parses
            asked = [rule["record"]] if "record" in rule else SELECTOR.findall(rule["expr"])
            silent += [
                f"{rule.get('alert', 'recorded')}: {selector}"
                for selector in asked
                if selector not in WITHOUT_DATA
                and not prometheus.instant(f"last_over_time({selector}[1h])")
            ]
    return silent


def pictures(prometheus: Prometheus, window: Window, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        path = folder / f"{name}.png"
        render(dashboard, prometheus, window, path)
        assert path.stat().st_size < MAX_PICTURE_BYTES
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10, "nothing was drawn"


def test_the_window_fills_in_what_grafana_would() -> None:
    window = Window(0.0, 1200.0)
    assert window.step == 10.0
    filled = window.fill_in('rate(x{policy=~"$policy"}[$__rate_interval]) + y[$__interval]')
    assert filled == f'rate(x{{policy=~".*"}}[{10 + SCRAPE_SECONDS}s]) + y[10s]'
