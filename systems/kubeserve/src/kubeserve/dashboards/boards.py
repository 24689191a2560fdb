"""What the dashboards show, as Grafana takes it."""

from typing import Any, Final

from kubeserve.domain import NAMESPACE

MASTER: Final = "kubeserve-master"
DEPLOYMENT: Final = "kubeserve-deployment"
Board = dict[str, Any]

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 12, 8  # of a panel; a row is 24 wide
ONE: Final = 'deployment="$deployment"'
PODS: Final = 'pod=~"d-$deployment-.+"'
READY: Final = 'sum(kube_deployment_status_replicas_ready{deployment="d-$deployment"})'
WANTED: Final = 'sum(kube_deployment_spec_replicas{deployment="d-$deployment"})'
OF_USERS: Final = "Cores, on a cluster: a user has a namespace there. By cAdvisor, in the kubelets."
OF_PODS: Final = "Cores, on a cluster. By cAdvisor, in the kubelets."
OF_NUMBERS: Final = "On a cluster. By kube-state-metrics."


def boards() -> dict[str, Board]:
    """Return both dashboards by their uid."""
    return {MASTER: _master(), DEPLOYMENT: _deployment()}


def _master() -> Board:
    requests = "sum by (status) (rate(kubeserve_requests_total[$__rate_interval]))"
    panels = [
        _panel("Predictions a second", "reqps", {"{{deployment}}": f"sum by (deployment) ({_rate('')})"}),
        _panel("Success rate", "percentunit", {"all": _success("")}, most=1),
        _panel("Error rate", "reqps", {"{{deployment}}": f"sum by (deployment) ({_rate(_errors(''))})"}),
        _panel("Latency of predictions", "ms", _latency("")),
        _panel("Requests of the API a second", "reqps", {"{{status}}": requests}),
        _panel("CPU per user", "short", {"{{namespace}}": f"sum by (namespace) ({_cpu('')})"}, OF_USERS),
    ]
    return _board(MASTER, "KubeServe", panels, [])


def _deployment() -> Board:
    panels = [
        _panel("Predictions a second", "reqps", {"{{outcome}}": f"sum by (outcome) ({_rate(ONE)})"}),
        _panel("Success rate", "percentunit", {"success": _success(ONE)}, most=1),
        _panel("Error rate", "reqps", {"errors": f"sum({_rate(_errors(ONE))})"}),
        _panel("Latency", "ms", _latency(ONE)),
        _panel("CPU", "short", {"{{container}}": f"sum by (container) ({_cpu(PODS)})"}, OF_PODS),
        _panel("Pods", "short", {"ready": READY, "wanted": WANTED}, OF_NUMBERS),
    ]
    names = {"query": "label_values(prediction_latency_ms_count, deployment)", "refId": "deployment"}
    variable = {"name": "deployment", "label": "Deployment", "type": "query", "datasource": SOURCE, "query": names}
    return _board(DEPLOYMENT, "KubeServe deployment", panels, [{**variable, "refresh": 2}])


def _cpu(labels: str) -> str:
    """Cores, by container: without that label cAdvisor tells the sum of a pod, too."""
    those = ",".join(filter(None, (f'namespace=~"{NAMESPACE}.+"', 'container!=""', labels)))
    return f"rate(container_cpu_usage_seconds_total{{{those}}}[$__rate_interval])"


def _rate(labels: str) -> str:
    return f"rate(predictions_total{{{labels}}}[$__rate_interval])"


def _errors(labels: str) -> str:
    return ",".join(filter(None, (labels, 'outcome="error"')))


def _success(labels: str) -> str:
    """The share of predictions that were answered."""
    success = ",".join(filter(None, (labels, 'outcome="success"')))
    return f"sum({_rate(success)}) / sum({_rate(labels)})"


def _latency(labels: str) -> dict[str, str]:
    """Percentiles, by their name."""
    buckets = f"sum by (le) (rate(prediction_latency_ms_bucket{{{labels}}}[$__rate_interval]))"
    return {f"p{share}": f"histogram_quantile({share / 100}, {buckets})" for share in (50, 95, 99)}


def _panel(title: str, unit: str, series: dict[str, str], told: str = "", most: float | None = None) -> Board:
    """Draw lines, each by its legend."""
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for at, (legend, expression) in enumerate(series.items())
    ]
    shown = {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}} | ({} if most is None else {"max": most})
    return {
        "type": "timeseries",
        "title": title,
        "description": told,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": shown, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _board(uid: str, title: str, panels: list[Board], variables: list[Board]) -> Board:
    """Lay panels out, two in a row."""
    for at, panel in enumerate(panels):
        panel["id"] = at + 1
        panel["gridPos"] = {"h": HEIGHT, "w": WIDTH, "x": WIDTH * (at % 2), "y": HEIGHT * (at // 2)}
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "tags": ["kubeserve"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [source, *variables]},
        "panels": panels,
    }
