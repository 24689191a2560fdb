"""The whole way of a model in a minute, on a KubeServe of its own: trained, proved, deployed, asleep, awake."""
