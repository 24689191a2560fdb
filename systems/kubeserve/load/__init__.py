"""How a KubeServe behaves under load: `make load`, or `python -m load --url URL` where locust is installed."""
