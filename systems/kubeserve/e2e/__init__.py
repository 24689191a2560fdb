"""The whole way of a model against a running KubeServe: `python -m e2e --url URL`."""
